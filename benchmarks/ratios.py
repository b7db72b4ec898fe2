"""Spend the same budget on the same curves in two ways, and see what each costs.

PaddleSlim's ``FilterPruner`` looks for one loss that is allowed to every layer, by bisection until
the FLOPs fit. The plugin's search takes, again and again, the cut that saves most for the loss that
it adds. Both get the curves that `make demo` has measured, the same exact FLOPs, and the same
filters by the same criterion; PaddleSlim's ratios come from its own ``get_ratios_by_loss``. The
predicted loss is the sum of the layers' losses on these curves. The metric is measured right after
the cut, batch norms re-estimated, nothing trained, on images that the curves were not made on.

    make demo
    .venv/bin/python benchmarks/ratios.py --work demo_output --images 100
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import paddle
from bench import Detector, load_detector

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker, paddleslim
from ppocr_prune_plugin.network import make_plan
from ppocr_prune_plugin.ratios.budget import OutOfReach, widths_by_budget
from ppocr_prune_plugin.ratios.costs import flops_of
from ppocr_prune_plugin.ratios.curves import Curve
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.ratios.search import Search
from ppocr_prune_plugin.recovery.batch_norm import BatchNormRecalibration
from ppocr_prune_plugin.report.lines import text_table
from ppocr_prune_plugin.sensitivity.store import load_sensitivity

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)


def main() -> int:
    """Print one row per share of the FLOPs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("demo_output"), help="of `make demo`")
    parser.add_argument("--images", type=int, default=100, help="to measure on")
    parser.add_argument("--side", type=int, default=640, help="their longer side, pixels")
    parser.add_argument("--criterion", default="fpgm")
    parser.add_argument("--round-to", type=int, default=8)
    args = parser.parse_args()
    file = load_sensitivity(args.work / "output" / "prune" / "sen.pickle")
    with tempfile.TemporaryDirectory() as folder:
        detector = load_detector(args.work, args.images, args.side, Path(folder))
        curves = {group.name: file.curve(group.name) for group in detector.groups}
        before, recalibration = detector.evaluation.baseline(), detector.open_recalibration()
        ranker = Ranker(args.criterion)
        rows = []
        for share in SHARES:
            row = [f"{share:.0%}"]
            for choose in (_one_threshold, _search):
                widths = choose(detector, curves, share, args.round_to)
                row += (
                    _judged(detector, curves, widths, ranker, recalibration)
                    if widths is not None
                    else ["–", "out of reach", "–"]
                )
            rows.append(row)
            print(" ".join(row), file=sys.stderr)
        head = ["FLOPs removed"]
        head += [
            f"{column}: {who}"
            for who in ("one threshold", "search")
            for column in ("removed", "predicted loss", detector.evaluation.metric)
        ]
        print("\n".join(text_table(head, rows)))
        print(f"\nunpruned: {detector.evaluation.metric} {before:.4f} on {args.images} images")
    return 0


def _search(
    detector: Detector, curves: Mapping[str, Curve], share: float, round_to: int
) -> dict[str, int] | None:
    network = detector.network
    sizes = {group.name: group.size for group in network.graph.groups}
    search = Search(curves, sizes, flops_of(network.graph, network.costs), round_to)
    try:
        return widths_by_budget(search, share, "pruned_flops")
    except OutOfReach:
        return None


def _one_threshold(
    detector: Detector, curves: Mapping[str, Curve], share: float, round_to: int
) -> dict[str, int] | None:
    """The smallest loss that, allowed to every layer, removes the share; by bisection."""
    paddleslim.load()  # mends what it forgets to import
    from paddleslim import prune as slim

    points = {
        name: dict(zip(curve.ratios, curve.losses, strict=True)) for name, curve in curves.items()
    }

    def widths(loss: float) -> dict[str, int]:
        ratios = slim.get_ratios_by_loss(points, loss)
        return {
            group.name: width_for_ratio(group.size, ratios.get(group.name, 0.0), round_to)
            for group in detector.groups
        }

    target = (1 - share) * detector.flops({})
    low, high = 0.0, max(max(curve.losses, default=0.0) for curve in curves.values())
    if detector.flops(widths(high)) > target:
        return None
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if detector.flops(widths(middle)) <= target else (middle, high)
    return widths(high)


def _judged(
    detector: Detector,
    curves: Mapping[str, Curve],
    widths: Mapping[str, int],
    ranker: Ranker,
    recalibration: BatchNormRecalibration,
) -> list[str]:
    sizes = {group.name: group.size for group in detector.groups}
    predicted = sum(
        float(curve.loss(1 - widths[name] / sizes[name])) for name, curve in curves.items()
    )
    network = detector.network
    plan = make_plan(network, widths, ranker)
    undo = surgery.prune(network.model, network.graph, plan)
    try:
        recalibration.apply(network.graph, plan.groups, undo)
        metric = detector.evaluation()
    finally:
        surgery.restore(network.model, undo)
    return [f"{plan.flops.pruned:.1%}", f"{predicted:.4f}", f"{metric:.4f}"]


if __name__ == "__main__":
    paddle.seed(0)
    sys.exit(main())
