"""What pruning and folding are worth where models are deployed: time, size and metric.

Detector, recogniser and classifier of PP-OCRv4 with their published weights, each as PaddleOCR's
tools export it, folded, and folded after 40% of its FLOPs or of its time in ONNX Runtime were
removed without any training, in ONNX Runtime, OpenVINO and Paddle; all by the tools and commands
that users have. Every step is remembered: the command goes on where it was; `--untimed` takes only
the steps before timing, for a machine that is not idle.

    python benchmarks/deployed.py --data DATA --work deployed --page docs/benchmark_deployed.md

DATA has det/ and rec/, each with images and PaddleOCR's labels in train.txt and val.txt.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import Any

from deployed_models import MODELS, Model, write_model
from deployed_page import page

from demo.run import fetch_weights
from demo.steps import Steps
from ppocr_prune_plugin.engines import installed
from ppocr_prune_plugin.engines.process import Process
from ppocr_prune_plugin.errors import exiting_on_error
from ppocr_prune_plugin.export.converter import to_onnx
from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.hooks.adapters.tree import find_tree

CUTS = ("pruned_flops", "pruned_latency")
_COMMAND = "import sys; from ppocr_prune_plugin.cli import main; sys.exit(main())"


class Run:
    """The steps of one model."""

    def __init__(self, model: Model, data: Path, work: Path, cuts: tuple[str, ...]) -> None:
        self.model, self.data, self.root = model, data.resolve(), work.resolve()
        self.work = self.root / model.kind
        self.tree, self.cuts = find_tree(), cuts
        self.work.mkdir(parents=True, exist_ok=True)
        total = 3 + 2 * len(cuts)
        self.steps = Steps(self.work, {"tree": str(self.tree), "data": str(self.data)}, total)

    def run(self, timing: bool) -> dict[str, Any] | None:
        """All of it: ``{"costs": …, "metrics": …, "times": …}``; None before times are taken."""
        name = self.model.title
        self.steps.run("config", f"{name}: weights and config", {}, [], self._prepare)
        own = self.steps.run(
            "whole", f"{name}: export unpruned, own and folded", {}, [], self._whole
        )
        metrics = {"own": own["metric"]}
        for cut in self.cuts:
            self.steps.run(cut, f"{name}: {cut} 0.4", {}, [], partial(self._cut, cut))
            found = self.steps.run(
                f"{cut}_export", f"{name}: export it", {}, [], partial(self._cut_export, cut)
            )
            metrics[cut] = found["metric"]
        if not timing:
            return None
        times = self.steps.run("times", f"{name}: time", {"engines": installed()}, [], self._times)
        costs = {cut: json.loads(self._plan(cut).read_text("utf-8")) for cut in self.cuts}
        return {"metrics": metrics, "costs": costs, **times}

    def _prepare(self) -> None:
        weights = fetch_weights(self.root, self.model.weights)
        shutil.copyfile(weights, self.work / "weights.pdparams")
        write_model(self.model, self.data, self.tree, self.work)

    def _whole(self) -> dict[str, Any]:
        weights = self.work / "weights"
        self._export("own", weights, "--no-fold")
        self._export("folded", weights, "--fold")
        # As it is converted without this package, but for what paddle2onnx cannot read.
        with contextlib.closing(Process()) as process:
            own = self.work / "own" / "inference"
            to_onnx(own, self.work / "own.onnx", process, rewritten=False)
        self._onnx("folded")
        return {"metric": self._metric("own", weights)}

    def _cut(self, cut: str) -> None:
        self._tool(
            cut, "train",
            f"Prune.{cut}=0.4", "Prune.dry_run=true", "Prune.latency.engine=onnxruntime",
            # One analysis serves both.
            f"Prune.sensitivity.file={self.work / CUTS[0] / 'prune' / 'sen.pickle'}",
            f"Global.save_model_dir={self.work / cut}",
        )  # fmt: skip

    def _cut_export(self, cut: str) -> dict[str, Any]:
        weights = self.work / cut / "prune" / "untrained"
        self._export(f"{cut}_folded", weights)
        self._onnx(f"{cut}_folded")
        return {"metric": self._metric(cut, weights)}

    def _export(self, name: str, weights: Path, *words: str) -> None:
        shutil.rmtree(self.work / name, ignore_errors=True)
        self._tool(
            f"export_{name}", "export_model",
            f"Global.pretrained_model={weights}", f"Global.save_inference_dir={self.work / name}",
            "Prune.enable=false", before=words,
        )  # fmt: skip

    def _onnx(self, name: str) -> None:
        target = self.work / f"{name}.onnx"
        target.unlink(missing_ok=True)
        self.steps.command(f"onnx_{name}", ["-c", _COMMAND, "onnx", name, "-o", target])

    def _metric(self, name: str, weights: Path) -> float:
        """On images that no width was chosen on; folding leaves it as it is."""
        said = self._tool(
            f"eval_{name}", "eval", f"Global.pretrained_model={weights}", "Prune.enable=false",
            f"Eval.dataset.label_file_list=[{self.work / 'tested.txt'}]",
        )  # fmt: skip
        return float(re.findall(rf"ppocr INFO: {self.model.metric}:([\d.e-]+)", said)[-1])

    def _times(self) -> dict[str, Any]:
        names = ["own", "folded", *(f"{cut}_folded" for cut in self.cuts)]
        found = {}
        for engine in installed():
            models = names if engine == "paddle" else [f"{name}.onnx" for name in names]
            shape = "x".join(map(str, self.model.shape))
            words = ["bench", *models, "--engine", engine, "--shape", shape, "--json"]
            said = self.steps.command(f"bench_{engine}", ["-c", _COMMAND, *words])
            found[engine] = json.loads(said[said.index("[\n") : said.rindex("]") + 1])
        return {"times": found, "names": names}

    def _plan(self, cut: str) -> Path:
        return self.work / cut / "prune" / "plan.prune.json"

    def _tool(self, name: str, tool: str, *options: str, before: tuple[str, ...] = ()) -> str:
        script = self.tree / "tools" / f"{tool}.py"
        words = [script, "-c", self.work / "config.yml", *before, "-o", *options]
        return self.steps.command(name, words)


def main() -> int:
    """Run what is not done yet, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, default=Path("deployed"))
    parser.add_argument("--page", type=Path, help="the file to write, in Markdown")
    parser.add_argument("--only", choices=[m.kind for m in MODELS], action="append")
    parser.add_argument("--cut", choices=CUTS, action="append", help="default: both")
    parser.add_argument("--untimed", action="store_true", help="stop before times are taken")
    args = parser.parse_args()
    cuts = tuple(args.cut or CUTS)
    with exiting_on_error():
        found = [
            (model, Run(model, args.data, args.work, cuts).run(not args.untimed))
            for model in MODELS
            if args.only is None or model.kind in args.only
        ]
        if args.page is not None:
            text = page([(model, results) for model, results in found if results])
            write_atomically(args.page, text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
