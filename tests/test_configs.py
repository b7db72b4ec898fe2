"""The shipped configs, as they stand, with PaddleOCR's own code."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import pytest
import yaml

from ppocr_prune_plugin.hooks.adapters.sub_models import check_models
from ppocr_prune_plugin.hooks.adapters.tree import build_from_config
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


def kind(path: Path) -> str:
    return path.parent.name


def overrides(path: Path, tree: Path) -> list[str]:
    """What a run outside the PaddleOCR tree needs; a teacher that a test can wait for."""
    if "distill" in path.stem:
        teacher = "Architecture.Models.Teacher"
        return [f"{teacher}.Backbone.layers=18", f"{teacher}.Neck.out_channels=32"]
    if kind(path) != "rec":
        return []
    return [f"Global.character_dict_path={tree}/{load(path)['Global']['character_dict_path']}"]


def test_there_are_configs_for_every_kind() -> None:
    assert {"det", "rec", "cls"} == {kind(path) for path in CONFIGS}
    assert {"ppocrv4_mobile_det_prune", "mv3_db_prune"} <= {path.stem for path in CONFIGS}


@each_config
def test_section_holds_the_defaults_and_one_target(path: Path) -> None:
    """Copied into another config, the section means what the plugin does without it."""
    section = parse_section(load(path)["Prune"], str(path))
    assert section.sensitivity == SensitivityOptions() and section.latency == LatencyOptions()
    assert dataclasses.replace(section, models=None) == PruneSection(pruned_flops=0.4)


@each_config
def test_every_key_of_the_section_is_explained(path: Path) -> None:
    """In the file itself, or in the one that it names."""
    text = path.read_text(encoding="utf-8")
    said = re.search(r"(configs/det/\w+\.yml) explains every key", text)
    if said:
        text = (CONFIGS[0].parents[2] / said[1]).read_text(encoding="utf-8")
    text = text.partition("\nPrune:\n")[2]
    sections = (PruneSection, SensitivityOptions, LatencyOptions)
    for name in (name for section in sections for name in section.__dataclass_fields__):
        assert re.search(rf"^  (  )?(# )?{name}:", text, re.MULTILINE), name


@each_config
def test_model_builds(path: Path, tree: Path) -> None:
    model, config = build_from_config(path, ["Global.use_gpu=false", *overrides(path, tree)], tree)
    check_models(parse_section(config["Prune"], str(path)), config, str(path))
    smallest = 1e5 if kind(path) == "cls" else 1e6
    assert sum(parameter.size for parameter in model.parameters()) > smallest


def training_data(path: Path, folder: Path, rendered: Path, lines: Path) -> None:
    """Lay out the pictures as the config expects them below its working directory."""
    source = rendered if kind(path) == "det" else lines
    for part in ("Train", "Eval"):
        dataset = load(path)[part]["dataset"]
        (folder / dataset["data_dir"]).mkdir(parents=True, exist_ok=True)
        prefix = "" if kind(path) == "det" else f"{kind(path)}_"
        labels = source / f"{prefix}{'train' if part == 'Train' else 'val'}.txt"
        rows = labels.read_text(encoding="utf-8").splitlines(True)[:2]
        (folder / dataset["label_file_list"][0]).write_text("".join(rows), encoding="utf-8")
        for row in rows:
            picture = folder / dataset["data_dir"] / row.split("\t")[0]
            picture.parent.mkdir(exist_ok=True)
            picture.symlink_to(source / row.split("\t")[0])


@pytest.mark.slow
@each_config
def test_stock_train_py_takes_the_config(
    path: Path,
    tree: Path,
    rendered: Path,
    lines: Path,
    run_tool: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """One training step and one evaluation with the plugin off: PaddleOCR accepts every key."""
    training_data(path, tmp_path, rendered, lines)
    options = [
        *overrides(path, tree),
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
