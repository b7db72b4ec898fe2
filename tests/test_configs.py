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
from small_configs import shrink

from demo.configs import write_config
from demo.published import NAMES, SOURCES
from ppocr_prune_plugin.hooks.adapters.sub_models import check_models
from ppocr_prune_plugin.hooks.adapters.tree import build_from_config
from ppocr_prune_plugin.plan import load_plan
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


def needed_tree(path: Path, tree: Path) -> Path:
    """The tree, where it has the networks that the config names; else the test is skipped."""
    named = [load(path)["Architecture"].get(part) or {} for part in ("Backbone", "Neck")]
    for head in load(path)["Architecture"].get("Head", {}).get("head_list", []):
        named += [option.get("Neck", {}) for option in head.values()]
    sources = [file.read_text("utf-8") for file in (tree / "ppocr" / "modeling").rglob("*.py")]
    for name in (part["name"] for part in named if "name" in part):
        if not any(re.search(rf"\b{name}\b", source) for source in sources):
            pytest.skip(f"{tree} has no {name}; PADDLEOCR_ROOT may name a PaddleOCR that has it")
    return tree


def dictionary(path: Path, tree: Path) -> Path:
    """The config's dictionary: the tree's, or that of the package which PP-OCRv5's weights are
    from."""
    name = load(path)["Global"]["character_dict_path"]
    if (tree / name).is_file():
        return tree / name
    other = SOURCES["v5", "rec"].path().parents[1] / Path(name).name if "v5" in path.stem else None
    if other is None or not other.is_file():
        pytest.skip(f"{tree} has no {name}")
    return other


def overrides(path: Path, tree: Path) -> list[str]:
    """What a run outside the PaddleOCR tree needs; a teacher and layers that a test can wait
    for."""
    options = ["Global.use_gpu=false"]
    if "distill" in path.stem:
        teacher = "Architecture.Models.Teacher"
        options += [f"{teacher}.Backbone.layers=18", f"{teacher}.Neck.out_channels=32"]
    elif "conv_kxk_num" in load(path)["Architecture"]["Backbone"]:
        options.append("Architecture.Backbone.conv_kxk_num=1")
    if kind(path) == "rec":
        options.append(f"Global.character_dict_path={dictionary(path, tree)}")
    return options


def test_there_are_configs_for_every_kind_and_release() -> None:
    assert {"det", "rec", "cls"} == {kind(path) for path in CONFIGS}
    stems = {path.stem for path in CONFIGS}
    assert {f"{name}_prune" for name in NAMES if name != "ppocr_mobile_cls"} <= stems
    assert {"mv3_db_prune", "ppocrv3_det_distill_prune", "cls_mv3_prune"} <= stems


@each_config
def test_detectors_are_trained_towards_what_they_were_trained_for(path: Path) -> None:
    """As measured on the released models (docs/recovery.md); 0.4 before PP-OCRv4."""
    transforms = load(path)["Train"]["dataset"]["transforms"]
    ratios = [
        options["shrink_ratio"]
        for transform in transforms
        for name, options in transform.items()
        if name in ("MakeShrinkMap", "MakeBorderMap")
    ]
    released = re.search("v[456]", path.stem)
    wanted = {"v4": 0.5, "v5": 0.6, "v6": 0.6}[released[0]] if released else 0.4
    assert ratios == ([wanted, wanted] if kind(path) == "det" else [])


@each_config
def test_exported_models_have_a_name_that_the_paddleocr_package_knows(path: Path) -> None:
    name = load(path)["Global"].get("model_name")
    found = re.match(r"ppocr(v[456])_(\w+)_(det|rec)_", path.stem)
    assert name == (f"PP-OCR{found[1]}_{found[2]}_{found[3]}" if found else None)


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
    needed_tree(path, tree)
    model, config = build_from_config(path, overrides(path, tree), tree)
    check_models(parse_section(config["Prune"], str(path)), config, str(path))
    smallest = 1e5 if kind(path) == "cls" else 1e6
    assert sum(parameter.size for parameter in model.parameters()) > smallest


def training_data(path: Path, folder: Path, rendered: Path, lines: Path) -> None:
    """Lay out the images as the config expects them below its working directory."""
    source = rendered if kind(path) == "det" else lines
    for part in ("Train", "Eval"):
        dataset = load(path)[part]["dataset"]
        (folder / dataset["data_dir"]).mkdir(parents=True, exist_ok=True)
        prefix = "" if kind(path) == "det" else f"{kind(path)}_"
        labels = source / f"{prefix}{'train' if part == 'Train' else 'val'}.txt"
        rows = labels.read_text(encoding="utf-8").splitlines(True)[:2]
        (folder / dataset["label_file_list"][0]).write_text("".join(rows), encoding="utf-8")
        for row in rows:
            image = folder / dataset["data_dir"] / row.split("\t")[0]
            image.parent.mkdir(exist_ok=True)
            image.symlink_to(source / row.split("\t")[0])


@pytest.mark.slow
@each_config
def test_train_py_prunes_by_the_config_and_trains(
    path: Path,
    tree: Path,
    rendered: Path,
    lines: Path,
    run_tool: Callable[..., CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    """Pruning without an analysis, one training step and one evaluation, on smaller images."""
    needed_tree(path, tree)
    training_data(path, tmp_path, rendered, lines)
    small = load(path)
    shrink(small)
    config = write_config(small, tmp_path / path.name)
    options = [
        *overrides(path, tree),
        "Global.pretrained_model=null",
        "Global.epoch_num=1",
        "Global.eval_batch_step=[0,1]",
        "Train.loader.num_workers=0",
        "Train.loader.batch_size_per_card=2",
        "Eval.loader.num_workers=0",
        "Prune.allow_untrained=true",
        "Prune.pruned_flops=null",
        "Prune.ratio=0.3",
        "Prune.bn_batches=1",
    ]
    done = run_tool([tree / "tools" / "train.py", "-c", config, "-o", *options], cwd=tmp_path)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output[-2000:]
    loss = re.search(r"global_step: 1, .*?loss: ([\d.]+)", output)
    assert loss and float(loss[1]) > 0
    assert "cur metric" in output
    plan = load_plan(tmp_path / load(path)["Global"]["save_model_dir"] / "latest.prune.json")
    assert plan.flops.pruned > 0.2


def test_demo_config_is_plain_data(det_config: Path, rendered: Path) -> None:
    config = load(det_config)
    assert json.loads(json.dumps(config)) == config
    assert "Prune" not in config
    assert config["Train"]["dataset"]["data_dir"] == str(rendered)
