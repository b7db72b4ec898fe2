"""One model through PaddleOCR's tools: train, evaluate, infer, export, resume."""

from __future__ import annotations

import re
import subprocess
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from training import Tools, output

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.plan import load_plan

STAGES = ("train", "eval", "infer", "export", "resume")


@dataclass(frozen=True)
class Model:
    """What to train and how: ``metric`` is the main indicator, ``infer`` the tool for ``image``."""

    metric: str
    infer: str
    image: Path
    options: tuple[str, ...] = ()


@dataclass
class Chain:
    """The stages of one model. ``pruned`` says whether the plugin is active, or switched off."""

    tools: Tools
    model: Model
    folder: Path
    pruned: bool = True
    _log: str = ""  # of training
    _faults: dict[str, str | None] = field(default_factory=dict)

    def fault(self, stage: str) -> str | None:
        """Run a stage, once, after training where that was not run; what is wrong, or None."""
        if stage not in self._faults:
            if stage != "train" and self.fault("train") is not None:
                self._faults[stage] = "train failed"
            else:
                self._faults[stage] = self._run(stage)
        return self._faults[stage]

    def _run(self, stage: str) -> str | None:
        try:
            getattr(self, f"_{stage}")()
        except (AssertionError, subprocess.TimeoutExpired) as error:
            traceback.print_exc()  # pytest shows it beside a failure
            return next(iter(str(error).splitlines()), type(error).__name__)
        return None

    def _call(self, tool: str, *options: str) -> str:
        env = {} if self.pruned else {"PPOCR_PRUNE": "0"}
        done = self.tools(tool, *options, env=env)
        text = output(done)
        assert done.returncode == 0, f"{tool}.py: exit {done.returncode}: {last_words(text)}"
        return text

    def _train(self) -> None:
        options = [f"Global.save_model_dir={self.folder}", *self.model.options]
        if self.tools.weights.with_name(self.tools.weights.name + ".pdparams").exists():
            options.append(f"Global.pretrained_model={self.tools.weights}")
            if self.pruned:
                options.append("Prune.recovery.distill=true")
        elif self.pruned:
            options.append("Prune.allow_untrained=true")
        if self.pruned:
            options += ["Prune.ratio=0.2", "Prune.round_to=4"]
        log = self._call("train", *options)
        assert "global_step: 2" in log, last_words(log)
        if self.pruned:
            plan = load_plan(self.folder / "latest.prune.json")
            assert plan.flops.pruned > 0.1
            assert len(plan.groups) > 3
            assert ("loss_distill: " in log) == ("Prune.recovery.distill=true" in options)
        self._log = log

    def _eval(self) -> None:
        best = re.findall(rf"best metric, .*?\b{self.model.metric}: ([\d.e-]+)", self._log)
        log = self._call("eval", f"Global.checkpoints={self.folder / 'best_accuracy'}")
        self._is_rebuilt(log)
        found = re.findall(rf"ppocr INFO: {self.model.metric}:([\d.e-]+)", log)
        assert float(found[-1]) == pytest.approx(float(best[-1]), abs=1e-6)

    def _infer(self) -> None:
        log = self._call(
            self.model.infer,
            f"Global.pretrained_model={self.folder / 'best_accuracy'}",
            f"Global.infer_img={self.model.image}",
            f"Global.save_res_path={self.folder / 'predicts.txt'}",
        )
        self._is_rebuilt(log)
        assert "success!" in log, last_words(log)

    def _export(self) -> None:
        folder = self.folder / "inference"
        log = self._call(
            "export_model",
            f"Global.pretrained_model={self.folder / 'best_accuracy'}",
            f"Global.save_inference_dir={folder}",
        )
        self._is_rebuilt(log)
        assert list(folder.rglob("*.pdiparams")), last_words(log)
        if self.pruned:
            # With random weights a network may answer the same to everything.
            same = r"the exported model agrees with|all of its \d+ weights are the same"
            assert re.search(same, log), last_words(log)

    def _resume(self) -> None:
        log = self._call(
            "train",
            f"Global.save_model_dir={self.folder / 'resumed'}",
            f"Global.checkpoints={self.folder / 'latest'}",
            *self.model.options,
            "Global.epoch_num=2",
        )
        self._is_rebuilt(log)
        assert "epoch: [2/2]" in log and "epoch: [1/2]" not in log
        assert "is not loaded" not in log
        first, second = (
            read_shapes(folder / "latest.pdparams")
            for folder in (self.folder, self.folder / "resumed")
        )
        assert first == second
        if "Global.use_ema=true" in self.model.options:
            assert "EMA: restored shadow weights" in log

    def _is_rebuilt(self, log: str) -> None:
        assert "not matched" not in log and "not in model" not in log, last_words(log)
        if self.pruned:
            assert "rebuilt the pruned network" in log, last_words(log)


def last_words(text: str) -> str:
    """The line of a log that says most about its end: the last error, or else the last line."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [
        line
        for line in lines
        if re.match(r"(\w+\.)*\w*(Error|Exception)\b|ppocr-prune: error", line)
    ]
    return (errors or lines or ["(no output)"])[-1][:300]
