"""Time the sensitivity analysis beside the loop that PaddleSlim's ``FilterPruner.sensitive`` runs.

Both prune the same layers of the same model by the same criterion and look for the deepest cut
that costs no more than ``max_loss``. The loop evaluates every layer at nine ratios with PaddleOCR's
``eval`` on the whole data loader, which decodes every image every time. The analysis reads the
images once, computes what lies before a cut once, ends at the first ratio that costs too much,
and looks at as few images as it takes to be sure. Layer by layer the two take turns, so that
whatever else the machine does slows both alike. The table says where the analysis spends its time.

    make demo
    .venv/bin/python benchmarks/sensitivity.py --work demo_output --every 2
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle
from bench import load_detector

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.ratios.budget import Curve, widths_by_max_loss
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.recovery.recovery import Recovery
from ppocr_prune_plugin.report.lines import text_table
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.ranks import Ranks
from ppocr_prune_plugin.sensitivity.store import SensitivityFile

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class Clocked:
    """An evaluation that says how long it took, and how long the network took in it."""

    def __init__(self, evaluation: Any, model: paddle.nn.Layer) -> None:
        self._evaluation = evaluation
        self.seconds = self.network = self._begun = 0.0
        self._inside = False
        model.register_forward_pre_hook(self._begin)
        model.register_forward_post_hook(self._end)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._evaluation, name)

    def __call__(self) -> float:
        with self._running():
            return float(self._evaluation())

    def states(self, units: Sequence[int]) -> list[Any]:
        with self._running():
            return list(self._evaluation.states(units))

    @contextmanager
    def _running(self) -> Iterator[None]:
        begin, self._inside = time.perf_counter(), True
        try:
            yield
        finally:
            self._inside = False
            self.seconds += time.perf_counter() - begin

    def _begin(self, *call: Any) -> None:
        self._begun = time.perf_counter()

    def _end(self, *call: Any) -> None:
        if self._inside:
            self.network += time.perf_counter() - self._begun


def main() -> int:
    """Run both and print a table; layer by layer, then in all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("demo_output"), help="of `make demo`")
    parser.add_argument("--images", type=int, default=200, help="images to evaluate on")
    parser.add_argument("--side", type=int, default=416, help="their longer side, pixels")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th layer only")
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--criterion", default="fpgm")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--exact", action="store_true", help="the analysis, too, on all images")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        detector = load_detector(args.work, args.images, args.side, Path(folder))
        model, graph = detector.network.model, detector.network.graph
        groups = detector.groups[:: args.every]
        sizes = {group.name: group.size for group in groups}
        ranker = Ranker(args.criterion)
        arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

        begin = time.perf_counter()
        base = detector.loop()
        loop_seconds = {"(baseline)": time.perf_counter() - begin}
        begin = time.perf_counter()
        evaluation = Clocked(detector.evaluation, model)
        reading = time.perf_counter() - begin
        names = {group.name: group.name for group in groups}
        file = SensitivityFile(Path(folder) / "sen.pickle", {}, names, evaluation.baseline())
        our_seconds = {"(baseline)": time.perf_counter() - begin}
        analysis = Analysis(
            model, graph, file, evaluation, ranker, RATIOS, args.round_to,
            Recovery(model, graph, []), Ranks(), args.exact,
        )  # fmt: skip

        loop_curves = {}
        parts: dict[str, tuple[float, float, float]] = {}
        for group in groups:
            begin = time.perf_counter()
            losses = []
            for ratio in RATIOS:
                width = width_for_ratio(group.size, ratio, 1)
                kept = ranker.rank(group, arrays).kept(width)
                undo = surgery.prune(model, graph, [GroupPlan(group.name, group.size, kept, width)])
                losses.append((base - detector.loop()) / base)
                surgery.restore(model, undo)
            loop_seconds[group.name] = time.perf_counter() - begin
            loop_curves[group.name] = Curve(RATIOS, tuple(losses))
            begin, before = time.perf_counter(), (evaluation.network, evaluation.seconds)
            analysis.rising([group], args.max_loss, curve=False)
            spent = our_seconds[group.name] = time.perf_counter() - begin
            network, evaluated = evaluation.network - before[0], evaluation.seconds - before[1]
            parts[group.name] = (network, evaluated - network, spent - evaluated)
            found = {
                ratio: (round(point.loss, 4), point.images)
                for ratio, point in sorted(file.points[group.name].items())
            }
            print(
                f"{group.name}: loop {loop_seconds[group.name]:.1f} s "
                f"{[round(loss, 4) for loss in losses]}, analysis {our_seconds[group.name]:.1f} s "
                f"{found}",
                file=sys.stderr,
            )
        our_curves = {group.name: file.curve(group.name) for group in groups}

    theirs = widths_by_max_loss(loop_curves, sizes, args.max_loss, args.round_to)
    ours = widths_by_max_loss(our_curves, sizes, args.max_loss, args.round_to)
    rows = [
        ["(reading, baseline)", *(f"{s['(baseline)']:.1f}" for s in (loop_seconds, our_seconds))]
        + ["", "", "", "1 / 1", f"{args.images} / {args.images}", ""]
    ]
    for group in groups:
        name, points = group.name, file.points[group.name]
        images = sum(point.images or 0 for point in points.values())
        rows.append(
            [
                name,
                f"{loop_seconds[name]:.1f}",
                f"{our_seconds[name]:.1f}",
                *(f"{seconds:.1f}" for seconds in parts[name]),
                f"{len(RATIOS)} / {len(points)}",
                f"{len(RATIOS) * args.images} / {images}",
                f"{group.size} → {theirs[name]}"
                + ("" if theirs[name] == ours[name] else f" / {ours[name]}"),
            ]
        )
    head = ["layer", "loop (s)", "analysis (s)", "network", "boxes, metric", "rest"]
    head += ["points", "images seen", "width chosen"]
    print("\n".join(text_table(head, rows)))
    loop, here = sum(loop_seconds.values()), sum(our_seconds.values())
    same = sum(theirs[name] == ours[name] for name in sizes)
    print(
        f"\nloop {loop:.0f} s, analysis {here:.0f} s (reading the images: {reading:.1f} s):"
        f" {loop / here:.1f}x less; the same width for {same} of {len(sizes)} layers"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
