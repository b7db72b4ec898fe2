"""Ranks share an analysis through files: what is said arrives, and who is gone is missed."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import paddle
import pytest

from ppocr_prune_plugin import arrays
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.calibration_batches import calibration_batches, few_images
from ppocr_prune_plugin.hooks.adapters.settings import gradient_settings, measured_settings
from ppocr_prune_plugin.sensitivity import ranks as team_module
from ppocr_prune_plugin.sensitivity.ranks import FAILED, FINISHED, Ranks

_RANK = """
import sys, time
from pathlib import Path
from ppocr_prune_plugin.sensitivity.ranks import Ranks
ranks = Ranks(Path(sys.argv[1]), int(sys.argv[2]), 2)
print(ranks.claim("conv1"), ranks.claim("conv2"), flush=True)
time.sleep(60)
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "ranks" / "run-1"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def other(run: Path) -> Iterator[Any]:
    """``other(rank)``: a process that is this rank; it has claimed what it could."""
    processes = []

    def start(rank: int) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", _RANK, run, str(rank)], stdout=subprocess.PIPE, text=True
        )
        processes.append(process)
        assert process.stdout is not None
        process.said = process.stdout.readline().split()  # type: ignore[attr-defined]
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def test_a_task_is_claimed_once(run: Path, other: Any) -> None:
    mine = Ranks(run, 0, 2)
    assert mine.claim("conv1") and not mine.claim("conv1")
    assert other(1).said == ["False", "True"]
    assert not mine.claim("conv2") and mine.claim("block/conv3")
    mine.close()
    assert Ranks().claim("anything") and Ranks().claim("anything")


@pytest.mark.parametrize("rank", [0, 1])
def test_a_rank_that_is_killed_is_missed_at_once(run: Path, other: Any, rank: int) -> None:
    process = other(rank)
    ranks = Ranks(run, 1 - rank, 2)
    (run / "job-0").write_text("x")
    assert ranks.wait("job-0", rank=rank) == "job-0"
    process.send_signal(signal.SIGKILL)
    process.wait()
    with pytest.raises(PruneError) as error:
        ranks.wait("done", rank=rank)
    assert "has ended" in str(error.value)  # its lock says so, not its silence
    assert f"rank {rank} is gone while rank {1 - rank} waited for it" in str(error.value)
    assert f"process {process.pid} on " in str(error.value) and "is kept in" in str(error.value)
    if rank == 0:
        with pytest.raises(PruneError, match="rank 0 is gone"):
            ranks.claim("conv9")
    # What was said before the end counts.
    (run / "done").write_text("x")
    assert ranks.wait("done", rank=rank) == "done"
    ranks.close()


def test_a_rank_on_another_machine_is_missed_by_its_silence(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock says nothing here; as long as the number in its file changes, it lives."""
    sign, now = run / "alive-0", 0.0

    def beat(seconds: float) -> None:
        nonlocal now
        now += seconds
        if now < 150:
            sign.write_text(f"another kernel\n17 on node7\n{now}\n")

    clock = SimpleNamespace(monotonic=lambda: now, sleep=beat)
    monkeypatch.setattr(team_module, "time", clock)
    ranks = Ranks(run, 1, 2, silence=60)
    with pytest.raises(PruneError, match="nothing was heard of it for 60 seconds.*17 on node7"):
        ranks.wait("job-0")
    assert 209.5 < now < 211
    ranks.close()


def test_a_rank_that_never_comes(run: Path) -> None:
    ranks = Ranks(run, 0, 2, silence=0.5)
    with pytest.raises(PruneError, match="rank 1 is gone"):
        ranks.wait("done-job-0-1", rank=1)
    ranks.close()


def test_rank_0_says_that_it_failed_even_to_who_waits_for_something_else(run: Path) -> None:
    ranks, worker = Ranks(run, 0, 2), Ranks(run, 1, 2)
    ranks.post_failure()
    with pytest.raises(PruneError, match="rank 0 could not prune"):
        worker.wait("job-0")
    assert worker.wait(FINISHED, FAILED) == FAILED
    ranks.close(), worker.close()


def test_a_rank_that_closes_has_said_what_it_had_to(run: Path) -> None:
    ranks, worker = Ranks(run, 0, 2), Ranks(run, 1, 2)
    ranks.post(FINISHED)
    ranks.close()
    time.sleep(0.1)
    assert worker.wait(FINISHED) == FINISHED
    worker.close()


class Loader:
    """Gives other batches every time, as augmentation does."""

    def __init__(self, *more: Any) -> None:
        self._more = more

    def __iter__(self) -> Iterator[list[Any]]:
        for _ in range(3):
            yield [paddle.rand([2, 3, 4, 4]), paddle.to_tensor([1, 2]), *self._more]


def arguments(labels: Path, *more: Any) -> dict[str, Any]:
    train = {"dataset": {"label_file_list": [str(labels)]}}
    return {"config": {"Train": train}, "train_dataloader": Loader(*more)}


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    path = tmp_path / "train.txt"
    path.write_text("a\t1\n")
    return path


def test_batches_are_drawn_once_and_of_other_labels_again(tmp_path: Path, labels: Path) -> None:
    first = calibration_batches(arguments(labels), 2, tmp_path, Ranks())
    again = calibration_batches(arguments(labels), 2, tmp_path, Ranks())
    assert len(first) == 2 and arrays.digest(_plain(first)) == arrays.digest(_plain(again))
    labels.write_text("a\t2\n")
    other = calibration_batches(arguments(labels), 2, tmp_path, Ranks())
    assert arrays.digest(_plain(first)) != arrays.digest(_plain(other))


def test_lines_of_several_heights_are_as_high_as_in_inference(tmp_path: Path, labels: Path) -> None:
    """PP-OCRv6's recogniser stopped at images 32 pixels high, which it takes only in training."""
    given = arguments(labels)
    given["config"]["Architecture"] = {"model_type": "rec", "algorithm": "SVTR_LCNet"}
    given["config"]["Global"] = {"d2s_train_image_shape": [3, 8, 40]}
    as_drawn = calibration_batches(given, 2, tmp_path, Ranks())
    assert [batch[0].shape for batch in as_drawn] == [[2, 3, 4, 4]] * 2
    given["config"]["Train"]["sampler"] = {
        "name": "MultiScaleSampler",
        "scales": [[40, 4], [40, 8]],
    }
    resized = calibration_batches(given, 2, tmp_path, Ranks())
    assert [batch[0].shape for batch in resized] == [[2, 3, 8, 8]] * 2
    assert [batch[1].tolist() for batch in resized] == [[1, 2]] * 2


def _plain(batches: Any) -> Any:
    return [[x.numpy() if isinstance(x, paddle.Tensor) else x for x in batch] for batch in batches]


def test_text_and_numbers_in_the_batches_reach_every_rank(
    tmp_path: Path, run: Path, labels: Path
) -> None:
    """Two ranks used to end in one waiting for ever."""
    objects = np.empty(2, object)
    objects[:] = ["é", {"box": np.arange(3)}]
    more = (["text", "图"], [("a", 1.5, None)], {"k": [True]}, objects, np.float32(2))
    ranks, worker = Ranks(run, 0, 2), Ranks(run, 1, 2)
    mine = calibration_batches(arguments(labels, *more), 1, tmp_path, ranks)
    theirs = calibration_batches(arguments(labels, *more), 1, tmp_path, worker)
    assert arrays.digest(_plain(mine)) == arrays.digest(_plain(theirs))
    found = theirs[0]
    assert found[2:5] == [["text", "图"], [("a", 1.5, None)], {"k": [True]}]
    assert found[5][0] == "é" and found[5][1]["box"].tolist() == [0, 1, 2]
    assert found[0].shape == [2, 3, 4, 4] and found[1].dtype == paddle.int64
    ranks.close(), worker.close()


def test_what_cannot_be_kept_is_said(tmp_path: Path, labels: Path) -> None:
    with pytest.raises(PruneError, match="Train: its batches hold a object, .*bn_batches: 0"):
        calibration_batches(arguments(labels, object()), 1, tmp_path, Ranks())
    assert [path.name for path in tmp_path.glob("calibration*")] == []


def test_measurements_depend_on_what_the_batches_hold_and_on_settings_by_name() -> None:
    config = {
        "Global": {"use_amp": False, "amp_level": "O2", "epoch_num": 5},
        "Architecture": {"Backbone": {"name": "R", "pretrained": "x"}, "Head": {"k": 50}},
        "PostProcess": {"box_thresh": 0.6, "use_dilation": False, "score_mode": None},
        "Metric": {"name": "DetMetric", "main_indicator": "hmean"},
        "Loss": {"alpha": 5},
        "Optimizer": {"name": "Adam"},
    }
    batch = [paddle.ones([1, 3]), "text"]
    found = measured_settings(config, {"PaddleOCR": "2.10"}, [batch])
    assert found["PostProcess.box_thresh"] == "0.6" and found["Architecture.Head.k"] == "50"
    assert found["Metric.main_indicator"] == '"hmean"' and found["PaddleOCR"] == "2.10"
    assert not [n for n in found if n.startswith(("Optimizer", "Loss", "Global.amp")) or "pre" in n]
    assert gradient_settings(config, [batch])["Loss.alpha"] == "5"
    config["Global"]["use_amp"] = True
    half = measured_settings(config, {}, [batch])
    assert half["Global.amp_level"] == '"O2"' and half["Global.use_amp"] == "true"
    for other in ([paddle.zeros([1, 3]), "text"], [paddle.ones([3, 1]), "text"], [batch[0], "tex"]):
        assert measured_settings(config, {}, [other]) != half


def test_of_a_large_batch_the_first_images_are_enough() -> None:
    batch = [paddle.rand([100, 3, 8, 8]), paddle.arange(100), paddle.zeros([100, 25], "int64")]
    images, numbers, labels = few_images(batch)
    assert images.shape == [32, 3, 8, 8] and labels.shape == [32, 25]
    assert numbers.tolist() == list(range(32))
    small = [tensor[:8] for tensor in batch]
    assert [tensor.shape for tensor in few_images(small)] == [tensor.shape for tensor in small]


def test_a_batch_that_is_not_one_row_an_image_stays_whole() -> None:
    images = paddle.rand([64, 3, 8, 8])
    for other in (paddle.zeros([1]), paddle.to_tensor(3), ["a text"] * 64):
        assert few_images([images, other])[0] is images
