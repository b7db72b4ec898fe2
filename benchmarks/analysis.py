"""How long the analysis of a model takes, from starting the tool to the written, pruned weights.

PP-OCRv4's mobile detector and recogniser and the angle classifier with their published weights are
asked for a share of their FLOPs in a dry run, once by the outputs (no labels) and once by the
metric, each as a process of its own, as a user starts it. Nothing else should run meanwhile.

    python benchmarks/analysis.py --data DATA --work analysis

DATA has det/ and rec/, each with images and PaddleOCR's labels in train.txt and val.txt. What was
measured is kept: the command goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from deployed_models import MODELS, Model, write_model

from demo.run import fetch_weights
from demo.steps import Steps
from ppocr_prune_plugin.errors import exiting_on_error
from ppocr_prune_plugin.hooks.adapters.tree import find_tree
from ppocr_prune_plugin.section import SensitivityOptions

# Shares of the FLOPs that each model can lose (docs/benchmark_accuracy.md).
SHARES = {"det": 0.4, "rec": 0.2, "cls": 0.4}
MEASURES = ("output", "metric")


def measure(model: Model, data: Path, work: Path, measures: list[str]) -> dict[str, Any]:
    """Seconds of a dry run by each of ``measures``, and what it removed.

    Raises:
        PruneError: there is too little data, or the tool fails.
    """
    folder, tree = (work / model.kind).resolve(), find_tree()
    folder.mkdir(parents=True, exist_ok=True)
    steps = Steps(folder, {"tree": str(tree), "data": str(data)}, 1 + len(measures))

    def prepare() -> None:
        shutil.copyfile(fetch_weights(work, model.weights), folder / "weights.pdparams")
        write_model(model, data.resolve(), tree, folder)

    def analyse(by: str) -> dict[str, Any]:
        target = folder / by
        shutil.rmtree(target, ignore_errors=True)
        start = time.monotonic()
        options = [
            f"Prune.pruned_flops={SHARES[model.kind]}", "Prune.dry_run=true",
            f"Prune.sensitivity.by={by}", f"Global.save_model_dir={target}",
            f"Prune.sensitivity.ratios={list(SensitivityOptions().ratios)}",
        ]  # fmt: skip
        script = tree / "tools" / "train.py"
        steps.command(by, [script, "-c", folder / "config.yml", "-o", *options])
        seconds = time.monotonic() - start
        plan = json.loads((target / "prune" / "plan.prune.json").read_text(encoding="utf-8"))
        return {"seconds": seconds, "flops": plan["flops"], "params": plan["params"]}

    steps.run("prepare", f"{model.title}: weights and config", {}, [], prepare)
    return {
        by: steps.run(by, f"{model.title}: analysis by {by}", {}, [], lambda by=by: analyse(by))
        for by in measures
    }


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown: a row per model and measure."""
    lines = ["| model | by | FLOPs (G) | analysis |", "|---|---|---:|---:|"]
    for title, results in found.items():
        for by, result in results.items():
            before, after = (result["flops"][key] / 1e9 for key in ("before", "after"))
            lines.append(
                f"| {title} | `{by}` | {before:.2f} → {after:.2f} ({after / before - 1:+.0%}) |"
                f" {result['seconds'] / 60:.1f} min |"
            )
    return "\n".join(lines)


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("analysis"))
    parser.add_argument("--only", choices=[model.kind for model in MODELS], action="append")
    parser.add_argument("--by", choices=MEASURES, action="append", help="default: both")
    return parser


def main() -> int:
    """Measure what was not measured yet, and print the table."""
    args = parser().parse_args()
    with exiting_on_error():
        found = {
            model.title: measure(model, args.data, args.work, args.by or list(MEASURES))
            for model in MODELS
            if args.only is None or model.kind in args.only
        }
    print(table(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
