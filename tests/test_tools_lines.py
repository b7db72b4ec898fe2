"""PaddleOCR's own tools on real recognisers and the real angle classifier: prune, train, evaluate,
export, infer."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from training import Tools, output, right_after

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.plan import load_plan

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


def check_all_tools(tools: Tools, folder: Path, log: str, infer: str, image: Path) -> None:
    """The checkpoint is of the plan; eval.py finds the trained metric; export and inference
    work."""
    plan = load_plan(folder / "best_accuracy.prune.json")
    whole, found = (
        read_shapes(prefix.with_name(prefix.name + ".pdparams"))
        for prefix in (tools.weights, folder / "best_accuracy")
    )
    pruned = {name.partition("#")[0] for name in plan.kept_channels()}
    assert pruned
    for name in pruned:
        filters = [n for n in found if n.startswith(f"{name}.") and found[n] != whole[n]]
        assert filters, name
    best = float(re.findall(r"best metric, .*?\bacc: ([\d.]+)", log)[-1])
    assert tools.metric("acc", f"Global.checkpoints={folder / 'best_accuracy'}") == (
        pytest.approx(best, abs=1e-6)
    )
    weights = f"Global.pretrained_model={folder / 'best_accuracy'}"
    done = tools("export_model", weights, f"Global.save_inference_dir={folder / 'inference'}")
    assert done.returncode == 0, output(done)
    assert "the exported model agrees with the trained one" in output(done)
    done = tools(infer, weights, f"Global.infer_img={image}")
    assert done.returncode == 0, output(done)
    assert "rebuilt the pruned network" in output(done)
    assert re.search(r"result: ?\S+", output(done)), output(done)[-500:]


def test_classifier(
    run_tool: RunTool, tree: Path, cls_config: Path, cls_weights: Path, lines: Path, tmp_path: Path
) -> None:
    tools = Tools(run_tool, tree, cls_config, cls_weights)
    log = tools.train(
        tmp_path, f"Global.pretrained_model={cls_weights}", "Prune.ratio=0.3", "Prune.round_to=4"
    )
    assert right_after(log)["before"] > 0.9
    assert load_plan(tmp_path / "latest.prune.json").flops.pruned > 0.3
    check_all_tools(tools, tmp_path, log, "infer_cls", lines / "cls_val_0.png")


def test_recogniser_with_ctc_by_sensitivity(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, lines: Path, tmp_path: Path
) -> None:
    tools = Tools(run_tool, tree, ctc_config, ctc_weights)
    log = tools.train(
        tmp_path,
        f"Global.pretrained_model={ctc_weights}",
        "Prune.pruned_flops=0.1",
        'Prune.skip=["backbone.conv1*","backbone.blocks[234]*","*.se.conv1","neck.encoder.conv[1-4]*"]',
        "Prune.sensitivity.ratios=[0.25]",
        "Prune.sensitivity.samples=6",
    )
    metric = right_after(log)
    assert metric["before"] == 1 and metric["after"] > 0.5
    assert abs(load_plan(tmp_path / "latest.prune.json").flops.pruned - 0.1) < 0.01
    check_all_tools(tools, tmp_path, log, "infer_rec", lines / "rec_val_0.png")


def test_recogniser_with_two_heads(two_heads_tools: Tools, lines: Path, tmp_path: Path) -> None:
    """CTC beside NRTR, which takes labels and serves training alone: it has random weights here,
    and is rid of what it would have read of the pruned channels."""
    tools = two_heads_tools
    log = tools.train(
        tmp_path,
        f"Global.pretrained_model={tools.weights}",
        'Prune.ratio={"head.ctc_encoder.*": 0.1}',
    )
    metric = right_after(log)
    assert metric["before"] == 1 and metric["after"] > 0.5
    plan = load_plan(tmp_path / "latest.prune.json")
    assert any(group.name.startswith("head.ctc_encoder.") for group in plan.groups)
    assert not any("gtc" in group.name for group in plan.groups)
    check_all_tools(tools, tmp_path, log, "infer_rec", lines / "rec_val_0.png")
