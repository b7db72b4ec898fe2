"""What a user gets wrong: one clear error, exit code 2, nothing overwritten."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from training import Tools

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.sensitivity.analysis import check_direction

TRAINED = "Global.pretrained_model={weights}"


@pytest.fixture(scope="module")
def refuse(cls_tools: Tools) -> Callable[..., str]:
    """Run a tool that has to refuse, on the angle classifier where no ``tools`` are given; returns
    its one message."""

    def run(
        folder: Path,
        tool: str,
        *options: str,
        before: tuple[str, ...] = (),
        tools: Tools = cls_tools,
    ) -> str:
        folder.mkdir(parents=True, exist_ok=True)
        kept = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        done = tools(
            tool,
            f"Global.save_model_dir={folder}",
            f"Global.save_inference_dir={folder / 'inference'}",
            *(option.format(weights=tools.weights) for option in options),
            before=before,
        )
        assert done.returncode == 2, done.stdout[-2000:] + done.stderr[-2000:]
        assert "Traceback" not in done.stderr
        messages = [li for li in done.stderr.splitlines() if li.startswith("ppocr-prune: error:")]
        assert len(messages) == 1, done.stderr[-2000:]
        for path, content in kept.items():
            assert path.read_bytes() == content, f"{path} was overwritten"
        assert not list(folder.rglob("*.pdparams")) or any(p.suffix == ".pdparams" for p in kept)
        return messages[0]

    return run


def test_untrained_weights(refuse: Callable[..., str], tmp_path: Path) -> None:
    message = refuse(tmp_path, "train", "Global.pretrained_model=null", "Prune.ratio=0.3")
    assert "random" in message and "allow_untrained" in message


def test_weights_of_another_network(
    refuse: Callable[..., str], tmp_path: Path, det_tools: Tools
) -> None:
    # PaddleOCR loads what fits and says nothing of what is missing: three branches in four.
    branches = "Architecture.Backbone.conv_kxk_num=4"
    message = refuse(tmp_path, "train", TRAINED, "Prune.ratio=0.3", branches, tools=det_tools)
    assert re.search(rf"{det_tools.weights}\.pdparams has no weights that fit \d+ of \d+", message)
    assert "backbone.blocks2.0.pw_conv" in message and "allow_untrained" in message
    assert "neck" not in message


def test_a_pattern_that_matches_no_layer(refuse: Callable[..., str], tmp_path: Path) -> None:
    message = refuse(tmp_path, "train", TRAINED, 'Prune.ratio={{"bakbone.*": 0.3}}')
    assert '"bakbone.*"' in message and "Prune.ratio" in message
    skip = 'Prune.skip=["nek.*"]'
    message = refuse(tmp_path / "skip", "train", TRAINED, "Prune.ratio=0.3", skip)
    assert '"nek.*"' in message and "Prune.skip" in message


def test_a_metric_for_which_lower_is_better(refuse: Callable[..., str], tmp_path: Path) -> None:
    message = refuse(
        tmp_path, "train", TRAINED, "Prune.max_loss=0.02", "Metric.main_indicator=edit distance"
    )
    assert 'Metric.main_indicator is "edit distance"' in message and "lower is better" in message


@pytest.mark.parametrize(
    ("metric", "falls"),
    [("edit distance", True), ("loss", True), ("CER", True), ("mean_error", True)]
    + [(name, False) for name in ("norm_edit_dis", "hmean", "acc", "exp_rate<=1 ", "psnr_avg")],
)
def test_direction_of_a_metric(metric: str, falls: bool) -> None:
    with pytest.raises(PruneError) if falls else contextlib.nullcontext():
        check_direction(metric)


def test_a_cache_that_does_not_fit(
    tree: Path, det_config: Path, det_weights: Path, tmp_path: Path
) -> None:
    """No file may grow beyond 1 MiB, an image has more: as on a full disk."""
    command = [
        *("sh", "-c", 'ulimit -f 2048; exec "$@"', "sh", sys.executable, tree / "tools/train.py"),
        *("-c", det_config, "-o", "Global.use_gpu=false", f"Global.pretrained_model={det_weights}"),
        *(f"Global.save_model_dir={tmp_path}", "Prune.max_loss=0.02"),
        *("Prune.sensitivity.cache_mb=0", "Prune.sensitivity.samples=1"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2, done.stderr[-2000:]
    (message,) = [li for li in done.stderr.splitlines() if li.startswith("ppocr-prune: error:")]
    assert (
        "Prune.sensitivity.cache_mb" in message and f"{tmp_path}/prune: File too large" in message
    )
    assert not list(tmp_path.rglob("spilled-*")) and not list(tmp_path.rglob("*.pdparams"))


def test_a_target_out_of_reach(refuse: Callable[..., str], tmp_path: Path) -> None:
    message = refuse(tmp_path, "train", TRAINED, "Prune.pruned_flops=0.99")
    assert "Prune.pruned_flops is 0.99" in message and "at most 0." in message


def test_a_sensitivity_file_of_another_model(refuse: Callable[..., str], tmp_path: Path) -> None:
    import pickle

    folder = tmp_path / "prune"
    folder.mkdir()
    (folder / "sen.pickle").write_bytes(pickle.dumps({"conv99.w_0": {0.1: 0.01}}))
    message = refuse(tmp_path, "train", TRAINED, "Prune.max_loss=0.02")
    assert "sen.pickle" in message and "another model" in message and "conv99.w_0" in message


@pytest.fixture(scope="module")
def checkpoint(cls_tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pruned checkpoint with its plan."""
    folder = tmp_path_factory.mktemp("checkpoint")
    cls_tools.train(
        folder,
        f"Global.pretrained_model={cls_tools.weights}",
        "Global.eval_batch_step=[0,1000]",
        "Prune.ratio=0.3",
        "Prune.round_to=4",
    )
    return folder


def damage(plan: Path, how: str) -> None:
    text = plan.read_text()
    if how == "truncated":
        plan.write_text(text[: len(text) // 2])
        return
    content = json.loads(text)
    if how == "edited":
        content["groups"][0]["kept"].pop()
    else:
        from ppocr_prune_plugin.plan import Change, GroupPlan, PruningPlan
        from ppocr_prune_plugin.structure import PrunedStructure

        item = GroupPlan("backbone.another.conv", 16, tuple(range(8)), 8)
        axes = {"backbone.another.conv.weight": {0: (16, 8)}}
        own = PrunedStructure(axes, Change(2, 1), Change(2, 1))
        plans = {"": own}
        content = PruningPlan("l1", (item,), Change(2, 1), Change(2, 1), plans).as_dict()
    plan.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("truncated", ("not complete JSON",) * 2),
        ("edited", ("was changed after it was written",) * 2),
        ("foreign", ("does not fit the weights beside it", "for another architecture")),
    ],
)
def test_a_plan_that_cannot_be_used(
    refuse: Callable[..., str], checkpoint: Path, tmp_path: Path, how: str, words: tuple[str, str]
) -> None:
    """Beside a checkpoint, and given to --prune-plan."""
    for suffix in (".pdparams", ".prune.json"):
        shutil.copy(checkpoint / f"latest{suffix}", tmp_path)
    plan = tmp_path / "latest.prune.json"
    damage(plan, how)
    message = refuse(tmp_path, "eval", f"Global.checkpoints={tmp_path / 'latest'}")
    assert "latest.prune.json" in message and words[0] in message
    message = refuse(tmp_path, "export_model", TRAINED, before=("--prune-plan", str(plan)))
    assert "latest.prune.json" in message and words[1] in message


def test_pruned_weights_are_not_pruned_again_by_what_is_removed_already(
    refuse: Callable[..., str], checkpoint: Path, tmp_path: Path
) -> None:
    message = refuse(
        tmp_path, "train", f"Global.pretrained_model={checkpoint / 'latest'}", "Prune.ratio=0.01"
    )
    assert "removed already" in message and "Global.checkpoints" in message


def test_an_empty_evaluation_set(refuse: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    empty = f"Eval.dataset.label_file_list=[{tmp_path / 'empty.txt'}]"
    message = refuse(tmp_path / "out", "train", TRAINED, "Prune.max_loss=0.02", empty)
    assert "Eval" in message and "sensitivity" in message


def test_a_baseline_of_nothing(
    refuse: Callable[..., str], det_tools: Tools, tmp_path: Path
) -> None:
    """With a threshold that no box passes there is no metric to lose."""
    no_box = ("Prune.max_loss=0.02", "PostProcess.box_thresh=2.0")
    message = refuse(tmp_path, "train", TRAINED, *no_box, tools=det_tools)
    assert "hmean = 0" in message and "PostProcess" in message
