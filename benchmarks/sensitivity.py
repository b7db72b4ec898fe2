"""Time the sensitivity analysis beside the loop that PaddleSlim's ``FilterPruner.sensitive`` runs.

Both prune the same layers of the same model by the same criterion and look for the deepest cut
that costs no more than ``max_loss``. The loop evaluates every layer at nine ratios with PaddleOCR's
``eval`` on its own data loader, which decodes every picture every time. The analysis reads the
pictures once, measures only widths that rounding can choose, and bisects.

    make demo
    .venv/bin/python benchmarks/sensitivity.py --work demo_output --every 6
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import paddle

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.hooks.evaluation import PaddleOCREvaluation
from ppocr_prune_plugin.hooks.tree import build_from_config, find_tree
from ppocr_prune_plugin.hooks.weights import network_of
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.ratios.budget import Curve, widths_by_max_loss
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.recovery.batch_norm import BatchNormRecalibration
from ppocr_prune_plugin.report.table import text_table
from ppocr_prune_plugin.section import PruneSection, SensitivityOptions
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.store import SensitivityFile
from ppocr_prune_plugin.sensitivity.team import Team

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


def main() -> int:
    """Run both and print a table; layer by layer, then in all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("demo_output"), help="of `make demo`")
    parser.add_argument("--every", type=int, default=1, metavar="K", help="every K-th layer only")
    parser.add_argument("--max-loss", type=float, default=0.02)
    parser.add_argument("--criterion", default="fpgm")
    parser.add_argument("--round-to", type=int, default=8)
    args = parser.parse_args()
    tree = find_tree()
    model, config = build_from_config(args.work / "det.yml", [], tree)
    model.set_state_dict(paddle.load(str(args.work / "weights" / "det.pdparams")))
    network = network_of(config, model)
    groups = network.prunable(PruneSection(ratio=0.0), "benchmark")[:: args.every]
    sizes = {group.name: group.size for group in groups}
    evaluate_slowly, arguments = _plain_evaluation(config, model)
    ranker = Ranker(args.criterion)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}

    base = evaluate_slowly()
    loop_seconds, loop_curves = {}, {}
    for group in groups:
        begin = time.perf_counter()
        losses = []
        for ratio in RATIOS:
            width = width_for_ratio(group.size, ratio, 1)
            kept = ranker.rank(group, arrays).kept(width)
            undo = surgery.prune(
                model, network.graph, [GroupPlan(group.name, group.size, kept, width)]
            )
            losses.append((base - evaluate_slowly()) / base)
            surgery.restore(model, undo)
        loop_seconds[group.name] = time.perf_counter() - begin
        loop_curves[group.name] = Curve(RATIOS, tuple(losses))
        print(f"loop: {group.name} {loop_seconds[group.name]:.1f} s", file=sys.stderr)

    ours_seconds = {}
    with tempfile.TemporaryDirectory() as folder:
        begin = time.perf_counter()
        evaluation = PaddleOCREvaluation(
            arguments.pop("program"), arguments, SensitivityOptions(), Path(folder)
        )
        reading = time.perf_counter() - begin
        names = {group.name: group.name for group in groups}
        file = SensitivityFile(Path(folder) / "sen.pickle", {}, names, baseline=evaluation())
        analysis = Analysis(
            model, network.graph, file, evaluation, evaluation.images, ranker,
            RATIOS, args.round_to, BatchNormRecalibration(model, []), Team(),
        )  # fmt: skip
        for group in groups:
            begin = time.perf_counter()
            analysis.bisect([group], args.max_loss)
            ours_seconds[group.name] = time.perf_counter() - begin
    ours_curves = {group.name: file.curve(group.name) for group in groups}

    theirs = widths_by_max_loss(loop_curves, sizes, args.max_loss, args.round_to)
    ours = widths_by_max_loss(ours_curves, sizes, args.max_loss, args.round_to)
    rows = [
        [
            group.name,
            f"{loop_seconds[group.name]:.1f}",
            f"{ours_seconds[group.name]:.1f}",
            f"{len(RATIOS)} / {len(file.points[group.name])}",
            f"{group.size} → {theirs[group.name]} / {ours[group.name]}",
        ]
        for group in groups
    ]
    head = ["layer", "loop (s)", "analysis (s)", "evaluations", "width chosen: loop / analysis"]
    print("\n".join(text_table(head, rows)))
    loop, here = sum(loop_seconds.values()), sum(ours_seconds.values()) + reading
    same = sum(theirs[name] == ours[name] for name in sizes)
    print(
        f"\nloop {loop:.0f} s, analysis {here:.0f} s (reading the pictures: {reading:.1f} s):"
        f" {loop / here:.1f}x less; the same width for {same} of {len(sizes)} layers"
    )
    return 0


def _plain_evaluation(config: dict[str, Any], model: paddle.nn.Layer) -> tuple[Any, dict[str, Any]]:
    """PaddleOCR's ``eval`` on its own loader, and what it takes."""
    from ppocr.data import build_dataloader
    from ppocr.metrics import build_metric
    from ppocr.postprocess import build_post_process
    from tools import program

    logger = logging.getLogger("benchmark")
    loader = build_dataloader(config, "Eval", "cpu", logger)
    post_process = build_post_process(config["PostProcess"], config["Global"])
    metric = build_metric(config["Metric"])
    kind = config["Architecture"]["model_type"]

    def evaluate() -> float:
        return float(program.eval(model, loader, post_process, metric, kind)[metric.main_indicator])

    return evaluate, {
        "program": program,
        "config": config,
        "model": model,
        "valid_dataloader": loader,
        "post_process_class": post_process,
        "eval_class": metric,
    }


if __name__ == "__main__":
    sys.exit(main())
