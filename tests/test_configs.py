"""The shipped configs, as they stand, with PaddleOCR's own code."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from ppocr_prune_plugin.hooks.tree import build_from_config
from ppocr_prune_plugin.section import (
    LatencyOptions,
    PruneSection,
    SensitivityOptions,
    parse_section,
)

CONFIGS = sorted((Path(__file__).parent.parent / "configs").rglob("*.yml"))

each_config = pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)


def load(path: Path) -> dict[str, Any]:
    return yaml.load(path.read_text(encoding="utf-8"), yaml.SafeLoader)


def test_there_are_configs_for_both_detectors() -> None:
    assert {"ppocrv4_mobile_det_prune", "mv3_db_prune"} <= {path.stem for path in CONFIGS}


@each_config
def test_section_holds_the_defaults_and_one_target(path: Path) -> None:
    """Copied into another config, the section means what the plugin does without it."""
    section = parse_section(load(path)["Prune"], str(path))
    assert section.sensitivity == SensitivityOptions() and section.latency == LatencyOptions()
    assert section == PruneSection(pruned_flops=0.4)


@each_config
def test_every_key_of_the_section_is_explained(path: Path) -> None:
    text = path.read_text(encoding="utf-8").partition("\nPrune:\n")[2]
    sections = (PruneSection, SensitivityOptions, LatencyOptions)
    for name in (name for section in sections for name in section.__dataclass_fields__):
        assert re.search(rf"^  (  )?(# )?{name}:", text, re.MULTILINE), name


@each_config
def test_model_builds(path: Path, tree: Path) -> None:
    model, config = build_from_config(path, ["Global.use_gpu=false"], tree)
    assert config["Architecture"]["algorithm"] == "DB"
    assert sum(parameter.size for parameter in model.parameters()) > 1e6


@pytest.mark.slow
@each_config
def test_stock_train_py_takes_the_config(
    path: Path,
    tree: Path,
    rendered: Path,
    run_tool: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """One training step and one evaluation with the plugin off: PaddleOCR accepts every key."""
    data = tmp_path / "train_data" / "icdar2015" / "text_localization"
    data.mkdir(parents=True)
    names = {"train": "train_icdar2015_label.txt", "val": "test_icdar2015_label.txt"}
    for part, name in names.items():
        (data / part).symlink_to(rendered / part)
        lines = (rendered / f"{part}.txt").read_text(encoding="utf-8").splitlines(True)
        (data / name).write_text("".join(lines[:2]), encoding="utf-8")
    options = [
        "Global.use_gpu=false",
        "Global.pretrained_model=null",
        "Global.epoch_num=1",
        "Global.eval_batch_step=[0,1]",
        "Train.loader.num_workers=0",
        "Train.loader.batch_size_per_card=2",
        "Eval.loader.num_workers=0",
    ]
    done = run_tool(
        [tree / "tools" / "train.py", "-c", path, "-o", *options],
        cwd=tmp_path,
        env={"PPOCR_PRUNE": "0"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    output = done.stdout + done.stderr
    loss = re.search(r"global_step: 1, .*?loss: ([\d.]+)", output)
    assert loss and float(loss[1]) > 0
    assert "cur metric" in output
    assert (tmp_path / load(path)["Global"]["save_model_dir"] / "latest.pdparams").is_file()


def test_demo_config_is_plain_data(det_config: Path, rendered: Path) -> None:
    config = load(det_config)
    assert json.loads(json.dumps(config)) == config
    assert "Prune" not in config
    assert config["Train"]["dataset"]["data_dir"] == str(rendered)
