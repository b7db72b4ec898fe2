"""PaddleOCR's tools of today with a moving average of the weights (EMA), on a real classifier."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
from training import Tools, output

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.surgery import cut, kept_masks

# A fixed decay: the correction of the bias is exact.
EMA = ("Global.use_ema=true", "Global.ema_decay_type=normal", "Global.ema_decay=0.5")
# Weights stay as they are, so that their average is known: the weights themselves.
STILL = "Optimizer.lr.learning_rate=0.0"


@pytest.fixture(scope="module")
def tools(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    today_tree: Path,
    cls_config: Path,
    cls_weights: Path,
) -> Tools:
    return Tools(run_tool, today_tree, cls_config, cls_weights)


def load(path: Path, suffix: str) -> dict[str, object]:
    return paddle.load(f"{path}{suffix}")


@pytest.fixture(scope="module")
def whole(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An unpruned run with EMA, one epoch: the folder."""
    folder = tmp_path_factory.mktemp("whole")
    tools.train(folder, f"Global.pretrained_model={tools.weights}", *EMA, STILL)
    assert load(folder / "latest", ".pdema")["step"] == 2
    return folder


@pytest.fixture(scope="module")
def pruned(tools: Tools, whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That run, pruned and trained for a second epoch: the folder."""
    folder = tmp_path_factory.mktemp("pruned")
    log = tools.train(
        folder,
        f"Global.checkpoints={whole / 'latest'}",
        "Global.epoch_num=2",
        "Prune.ratio=0.3",
        *EMA,
        STILL,
    )
    assert "EMA: restored shadow weights (step=2)" in log
    return folder


def test_the_average_of_an_unpruned_checkpoint_is_cut_along(whole: Path, pruned: Path) -> None:
    from demo.weights import build

    plan = load_plan(pruned / "latest.prune.json")
    assert plan.flops.pruned > 0.2
    graph = build_graph(build("cls"), [([1, 3, 48, 192], "float32")])
    masks = kept_masks(graph, plan.groups)
    saved = load(pruned / "latest", ".pdema")
    shapes = read_shapes(pruned / "latest.pdparams")
    assert saved["step"] == 4
    averages, before = saved["ema_state"], load(whole / "latest", ".pdparams")
    assert isinstance(averages, dict)
    assert {name: tuple(t.shape) for name, t in averages.items()} == shapes
    # What PaddleOCR evaluates and saves is the average: that of weights which never moved since
    # the cut, and since their readers were compensated.
    after, trained = load(pruned / "latest", ".pdparams"), saved["train_state"]
    assert isinstance(trained, dict)
    compensated = 0
    for name, axes in masks.items():
        if name.endswith(("weight", "bias")):
            found = np.asarray(after[name])
            plain = cut(np.asarray(before[name]), axes)
            # By how much an average follows a change is a fit over all of its values.
            allowed = 0.05 * float(np.abs(found - plain).max()) + 1e-6
            np.testing.assert_allclose(found, np.asarray(trained[name]), rtol=1e-5, atol=allowed)
            compensated += not np.allclose(found, plain, rtol=1e-5, atol=1e-6)
    assert 0 < compensated < len(masks)


def test_the_saved_average_is_evaluated(tools: Tools, pruned: Path) -> None:
    log = (pruned / "train.log").read_text(encoding="utf-8")
    best = float(re.findall(r"best metric, acc: ([\d.]+)", log)[-1])
    path = f"Global.checkpoints={pruned / 'best_accuracy'}"
    assert tools.metric("acc", path) == pytest.approx(best, abs=1e-6)


def test_a_pruned_run_goes_on_with_its_average(tools: Tools, pruned: Path, tmp_path: Path) -> None:
    log = tools.train(
        tmp_path, f"Global.checkpoints={pruned / 'latest'}", "Global.epoch_num=3", *EMA, STILL
    )
    assert "EMA: restored training weights" in log
    assert "EMA: restored shadow weights (step=4)" in log
    assert "not matched" not in log and "epoch: [3/3]" in log
    assert load(tmp_path / "latest", ".pdema")["step"] == 6
    assert read_shapes(tmp_path / "latest.pdparams") == read_shapes(pruned / "latest.pdparams")
    assert load_plan(tmp_path / "latest.prune.json") == load_plan(pruned / "latest.prune.json")


def test_a_pruned_run_begins_an_average(tools: Tools, pruned: Path, tmp_path: Path) -> None:
    """Without a ``.pdema`` beside the checkpoint: PaddleOCR had made the average of the whole
    network before it loaded the pruned one."""
    for suffix in (".pdparams", ".pdopt", ".states", ".prune.json"):
        shutil.copy(pruned / f"latest{suffix}", tmp_path)
    log = tools.train(
        tmp_path / "out", f"Global.checkpoints={tmp_path / 'latest'}", "Global.epoch_num=3", *EMA
    )
    assert "EMA: restored" not in log and "epoch: [3/3]" in log
    assert load(tmp_path / "out" / "latest", ".pdema")["step"] == 2
    shapes = read_shapes(pruned / "latest.pdparams")
    assert read_shapes(tmp_path / "out" / "latest.pdparams") == shapes


def test_the_average_of_half_precision_goes_on(tools: Tools, whole: Path, tmp_path: Path) -> None:
    half = ("Global.use_amp=true", "Global.amp_level=O2", *EMA)
    pruned, resumed = tmp_path / "pruned", tmp_path / "resumed"
    begin = (f"Global.checkpoints={whole / 'latest'}", "Global.epoch_num=2", "Prune.ratio=0.3")
    log = tools.train(pruned, *begin, *half)
    assert "EMA: restored shadow weights (step=2)" in log
    log = tools.train(
        resumed, f"Global.checkpoints={pruned / 'latest'}", "Global.epoch_num=3", *half
    )
    assert "EMA: restored shadow weights (step=4)" in log and "not matched" not in log
    for folder, steps in ((pruned, 4), (resumed, 6)):
        saved = load(folder / "latest", ".pdema")
        averages, shapes = saved["ema_state"], read_shapes(folder / "latest.pdparams")
        assert saved["step"] == steps and isinstance(averages, dict)
        assert {name: tuple(tensor.shape) for name, tensor in averages.items()} == shapes
        for name, tensor in averages.items():
            assert np.isfinite(np.asarray(tensor, np.float32)).all(), name


def test_a_checkpoint_that_is_done_is_refused_before_the_analysis(
    tools: Tools, whole: Path, tmp_path: Path
) -> None:
    options = [f"Global.save_model_dir={tmp_path}", "Prune.max_loss=0.1"]
    done = tools("train", f"Global.checkpoints={whole / 'latest'}", *options)
    assert done.returncode == 2, output(done)
    assert "has trained 1 epochs and Global.epoch_num is 1" in done.stderr
    assert f"Global.pretrained_model={whole / 'latest'}" in done.stderr
    assert not (tmp_path / "prune").exists()
