"""Cut each channel group by itself: how far do outputs move, with compensation and without?

Real weights of five networks, on lines and pages of text. The moments are taken on some images, the
distance from the unpruned network's outputs on others. A group is cut by the criterion and the
share that are asked for; nothing is trained, and batch norms stay as they are. The last column is
how long taking the moments and compensating the largest plan took.

    python -m demo --fetch-weights ppocrv4_mobile_det --work demo_output    # and the others
    python benchmarks/compensation.py --weights demo_output/weights --data FOLDER --lines FOLDER

``FOLDER`` has ``train.txt``, PaddleOCR's labels; what is missing is left out.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from pathlib import Path

import numpy as np
import paddle

from demo.architectures import Kind, Release, architecture
from demo.weights import build, network_input
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Context, Ranker
from ppocr_prune_plugin.distance import distances, outputs_of
from ppocr_prune_plugin.hooks.adapters.tracing import network_of
from ppocr_prune_plugin.moments import collect
from ppocr_prune_plugin.network import Network
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.recovery.compensation import Compensation
from ppocr_prune_plugin.report.lines import text_table

MODELS: dict[str, tuple[Kind, Release]] = {
    "ppocrv4_mobile_det": ("det", "v4"),
    "ppocrv4_mobile_rec": ("rec", "v4"),
    "ppocrv5_mobile_det": ("det", "v5"),
    "ppocrv5_mobile_rec": ("rec", "v5"),
    "ppocr_mobile_cls": ("cls", "v4"),
}
_NOTHING = 1e-9  # distance between outputs that are the same
_CROP = 320  # of pages, pixels; where the middle of the page is


def main() -> int:
    """Print a line for each network, and one for each group that compensation did not help."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--weights", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="images of pages")
    parser.add_argument("--lines", type=Path, required=True, help="images of lines")
    parser.add_argument("--models", nargs="*", choices=MODELS, default=list(MODELS))
    parser.add_argument("--images", type=int, default=32, help="for moments, and as many others")
    parser.add_argument("--ratio", type=float, default=0.3)
    parser.add_argument("--criterion", default="l1")
    args = parser.parse_args()
    rows, worse = [], []
    for name in args.models:
        path = args.weights / f"{name}.pdparams"
        if not path.is_file():
            print(f"{path} is not there", file=sys.stderr)
            continue
        kind, release = MODELS[name]
        model = build(kind, release=release)
        model.set_state_dict(paddle.load(str(path)))
        folder = args.data if kind == "det" else args.lines
        fitted, judged = _batches(kind, folder, args.images)
        config = {"Architecture": architecture(kind, release=release), "Global": {}}
        network = network_of(config, model)
        row, harmed = _measured(network, fitted, judged, args.criterion, args.ratio)
        rows.append([name, *row])
        worse += [[name, *item] for item in harmed]
        print(rows[-1], worse, file=sys.stderr, flush=True)
    head = ["network", "groups", "nearer", "distance, cut", "compensated", "not fitted", "seconds"]
    print("\n".join(text_table(head, rows)))
    for item in worse:
        print(f"{item[0]}: {item[1]}: {item[2]:.5f} without, {item[3]:.5f} with compensation")
    return 1 if worse else 0


def _measured(
    network: Network, fitted: list[paddle.Tensor], judged: paddle.Tensor, name: str, ratio: float
) -> tuple[list[str], list[tuple[str, float, float]]]:
    model, graph = network.model, network.graph
    model.eval()

    def outputs() -> list[np.ndarray]:
        with paddle.no_grad():
            return outputs_of(model(judged))

    begin = time.perf_counter()
    read = collect(model, graph, [functools.partial(model, batch) for batch in fitted])
    compensation = Compensation(model, graph, read)
    seconds = time.perf_counter() - begin
    ranker = Ranker(name)
    ranker.prepare(Context(model, network.inputs, graph.groups, list, lambda: read))
    arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    before, plain, cured, harmed, plans = outputs(), [], [], [], []
    known = {reader.weight for reader in read.readers if reader.weight in read.moments}
    groups = [g for g in graph.groups if known & {member.parameter for member in g.members}]
    for group in groups:
        width = width_for_ratio(group.size, ratio, 1)
        plan = GroupPlan(group.name, group.size, ranker.rank(group, arrays).kept(width), width)
        undo = surgery.prune(model, graph, [plan])
        apart = float(distances(before, outputs()).mean())
        if apart < _NOTHING:  # only training uses it, or its channels are zero in all images
            surgery.restore(model, undo)
            continue
        plans.append(plan)
        plain.append(apart)
        compensation.apply([plan], undo)
        cured.append(float(distances(before, outputs()).mean()))
        surgery.restore(model, undo)
        if cured[-1] > plain[-1]:
            harmed.append((group.name, plain[-1], cured[-1]))
    begin = time.perf_counter()
    undo = surgery.prune(model, graph, plans)
    compensation.apply(plans, undo)
    surgery.restore(model, undo)
    seconds += time.perf_counter() - begin
    nearer = len(plans) - len(harmed)
    figures = [f"{np.mean(values):.4f}" for values in (plain, cured)]
    return [str(len(plans)), str(nearer), *figures, str(len(read.left)), f"{seconds:.1f}"], harmed


def _batches(kind: Kind, folder: Path, images: int) -> tuple[list[paddle.Tensor], paddle.Tensor]:
    """Images to take moments on, some at a time, and others to judge by."""
    labels = (folder / "train.txt").read_text(encoding="utf-8").splitlines()[: 2 * images]
    found = [network_input(kind, folder / line.split("\t")[0]) for line in labels]
    if kind == "det":
        found = [x for x in found if min(x.shape[2:]) >= _CROP]
        found = [_middle(x) for x in found]
    half = len(found) // 2
    fitted = [
        paddle.to_tensor(np.concatenate(found[i : min(i + 8, half)])) for i in range(0, half, 8)
    ]
    return fitted, paddle.to_tensor(np.concatenate(found[half:]))


def _middle(x: np.ndarray) -> np.ndarray:
    top, left = ((size - _CROP) // 2 for size in x.shape[2:])
    return x[:, :, top : top + _CROP, left : left + _CROP]


if __name__ == "__main__":
    paddle.seed(0)
    sys.exit(main())
