"""Processes killed at random moments: what was measured and written stays, and the next run ends as
if nothing had been."""

from __future__ import annotations

import os
import pickle
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fixtures_faults import Campaign
from nursery import Child, Nursery

from ppocr_prune_plugin.files import TEMPORARY
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.sensitivity.store import load_sensitivity, pair_of

_WRITE = """
import sys
from pathlib import Path
import numpy as np
from ppocr_prune_plugin import arrays
from ppocr_prune_plugin.plan import Change, GroupPlan, PruningPlan
from ppocr_prune_plugin.sensitivity.store import Point, SensitivityFile

folder = Path(sys.argv[1])
print("writing", flush=True)
for number in range(1, 10**6):
    names = {f"conv{i}": f"conv2d_{i}.w_0" for i in range(1 + number % 40)}
    file = SensitivityFile(folder / "sen.pickle", {}, names, baseline=1.0)
    file.points = {name: {0.5: Point(0.25, 0.75, 3)} for name in names}
    file.save()
    kept = tuple(range(1 + number % 99))
    item = GroupPlan("conv", 99, kept, len(kept))
    PruningPlan("l1", (item,), Change(2, 1), Change(2, 1)).save(folder / "latest.prune.json")
    arrays.write(folder / "calibration.npz", [np.full(1 + number % 1000, number)])
"""

# An analysis of a small network on which every point takes a moment; what it measures is logged.
_ANALYSE = """
import json, os, sys, time
from pathlib import Path
import paddle
from paddle import nn
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.recovery.recovery import Recovery
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.spill import ArrayStore
from ppocr_prune_plugin.sensitivity.store import open_sensitivity
from ppocr_prune_plugin.sensitivity.ranks import Ranks

folder = Path(sys.argv[1])
paddle.seed(0)
model = nn.Sequential(nn.Conv2D(3, 64, 3), nn.ReLU(), nn.Conv2D(64, 32, 1), nn.ReLU(),
                      nn.Conv2D(32, 48, 1), nn.ReLU(), nn.Conv2D(48, 4, 1))
graph = build_graph(model, [([1, 3, 8, 8], "float32")])

class ByWidths:
    metric, data, current, images, sizes = "acc", "by widths", None, 4, [1] * 4
    activations = ArrayStore(0, folder)
    def __call__(self):
        time.sleep(0.01)
        widths = [model[i].weight.shape[0] for i in (0, 2, 4)]
        print("measured", widths, flush=True)
        return sum(widths) / 144
    def baseline(self):
        return 1.0
    def unpruned(self):
        return None
    def outputs(self, unit):
        with paddle.no_grad():
            return model(paddle.ones([1, 3, 8, 8]))

names = {name: tensor.name for name, tensor in model.named_parameters()}
file, _ = open_sensitivity(folder / "sen.pickle", {"model": "m"}, graph.groups, names)
file.baseline = 1.0
ratios = tuple(round(0.04 * i, 2) for i in range(1, 24))
Analysis(model, graph, file, ByWidths(), Ranker("l1"), ratios, 1,
         Recovery(model, graph, []), Ranks(), True).rising(graph.groups, 2.0, True)
print("complete", flush=True)
"""


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


def script(folder: Path, text: str) -> Path:
    path = folder / "script.py"
    path.write_text(text)
    return path


def await_line(child: Child, line: str, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while line not in child.output():
        assert child.wait(0) is None and time.monotonic() < end, child.output()[-2000:]
        time.sleep(0.01)


def test_files_are_whole_whenever_their_writer_is_killed(
    nursery: Nursery, campaign: Campaign, tmp_path: Path
) -> None:
    seen = set()
    for _ in campaign.times(8, 120):
        child = nursery.start(script(tmp_path, _WRITE), [tmp_path], tmp_path / "log")
        await_line(child, "writing")
        time.sleep(float(campaign.random.uniform(0, 0.3)))
        child.kill()
        if (tmp_path / "latest.prune.json").exists():
            (item,) = load_plan(tmp_path / "latest.prune.json").groups
            assert item.kept == tuple(range(item.kept_channels))
        if (tmp_path / "sensitivity.json").exists():
            points = load_sensitivity(tmp_path / "sensitivity.json").points
            assert points == {f"conv{i}": points["conv0"] for i in range(len(points))}
        if (tmp_path / "sen.pickle").exists():
            assert pickle.loads((tmp_path / "sen.pickle").read_bytes())["conv2d_0.w_0"] == {
                0.5: 0.25
            }
        seen |= {path.name for path in tmp_path.iterdir()}
        left = [path for path in tmp_path.iterdir() if path.name.endswith(TEMPORARY)]
        assert len(left) <= 1  # of this kill; those of the kills before are gone
    assert {"latest.prune.json", "sensitivity.json", "sen.pickle"} <= seen, "killed too early"


def test_no_point_is_measured_twice_however_often_an_analysis_is_killed(
    nursery: Nursery, campaign: Campaign, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    whole.mkdir()
    child = nursery.start(script(tmp_path, _ANALYSE), [whole], tmp_path / "log")
    begin = time.monotonic()
    assert child.wait(300) == 0, child.output()[-2000:]
    took, expected = time.monotonic() - begin, load_sensitivity(whole / "sen.pickle").points
    kills = 0
    for number in campaign.times(1, 8):
        folder, measured = tmp_path / str(number), []
        folder.mkdir()
        while kills < 200:
            child = nursery.start(tmp_path / "script.py", [folder], tmp_path / "log")
            child.wait(float(campaign.random.uniform(0.3, 1.0)) * took / 2)
            child.kill()
            known = load_sensitivity(folder / "sen.pickle").points if _any(folder) else {}
            measured += [line for line in child.output().splitlines() if "measured" in line]
            # A point that was being saved when the process was killed may be measured again.
            assert len(measured) - len(set(measured)) <= kills
            assert len(set(measured)) <= 1 + sum(map(len, known.values()))
            if "complete" in child.output():
                break
            assert "Traceback" not in child.output(), child.output()[-2000:]
            kills += 1
        assert load_sensitivity(folder / "sen.pickle").points == expected
        assert sorted(p.name for p in folder.iterdir()) == ["sen.pickle", "sensitivity.json"]
    assert kills >= len(campaign.times(1, 8))


def _any(folder: Path) -> bool:
    return pair_of(folder / "sen.pickle")[1].exists()


class Training:
    """tools/train.py on the angle classifier, by one process or by two."""

    def __init__(self, nursery: Nursery, tree: Path, config: Path, weights: Path) -> None:
        self._nursery, self._tree, self._config, self._weights = nursery, tree, config, weights

    def start(self, folder: Path, ranks: int = 1) -> list[Child]:
        arguments = [
            "-c", self._config, "-o", "Global.use_gpu=false", f"Global.save_model_dir={folder}",
            f"Global.pretrained_model={self._weights}", "Prune.max_loss=0.2", "Prune.round_to=4",
            "Prune.sensitivity.ratios=[0.1,0.3,0.5,0.7]", "Global.epoch_num=2",
            f"Global.distributed={str(ranks > 1).lower()}",
        ]  # fmt: skip
        places = [f"127.0.0.1:{_free_port()}" for _ in range(ranks)]
        together = {
            "PADDLE_TRAINERS_NUM": str(ranks),
            "PADDLE_MASTER": places[0],
            "PADDLE_TRAINER_ENDPOINTS": ",".join(places),
            "PADDLE_DISTRI_BACKEND": "gloo",
        }
        return [
            self._nursery.start(
                self._tree / "tools" / "train.py",
                arguments,
                folder.parent / f"{folder.name}.{rank}.log",
                {**together, "PADDLE_TRAINER_ID": str(rank), "PADDLE_CURRENT_ENDPOINT": place}
                if ranks > 1
                else {},
            )
            for rank, place in enumerate(places)
        ]


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@pytest.fixture
def training(nursery: Nursery, tree: Path, cls_config: Path, cls_weights: Path) -> Training:
    return Training(nursery, tree, cls_config, cls_weights)


def points_in(folder: Path) -> dict[tuple[str, float], Any]:
    """Every point on disk, in the main file or in that of a rank."""
    files = [folder / "prune" / "sensitivity.json", *(folder / "prune").glob("ranks/rank*.json")]
    found: dict[tuple[str, float], Any] = {}
    for path in (path for path in files if path.exists()):
        for name, points in load_sensitivity(path).points.items():
            found.update({(name, ratio): point.loss for ratio, point in points.items()})
    return found


def check_whole(folder: Path) -> None:
    """Files that are there are whole, and weights that are there have their plan."""
    plan = folder / "prune" / "plan.prune.json"
    if plan.exists():
        load_plan(plan)
    for weights in folder.glob("*.pdparams"):
        beside = weights.with_suffix(".prune.json")
        assert beside.exists() and load_plan(beside) == load_plan(plan), weights


@pytest.mark.long
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_training_that_is_killed_again_and_again(
    training: Training, campaign: Campaign, tmp_path: Path, ranks: int
) -> None:
    begin = time.monotonic()
    processes = training.start(tmp_path / "whole", ranks)
    for process in processes:
        assert process.wait(600) == 0, process.output()[-3000:]
    took, expected = time.monotonic() - begin, points_in(tmp_path / "whole")
    plan = load_plan(tmp_path / "whole" / "prune" / "plan.prune.json")

    kills, run, folder = 0, 0, tmp_path / "0"
    while kills < (60 if ranks == 1 else 30):
        before = points_in(folder)
        processes = training.start(folder, ranks)
        victim = processes[int(campaign.random.integers(ranks))]
        victim.wait(float(campaign.random.uniform(0.05, 1)) * took)
        finished = victim.wait(0) is not None
        victim.kill()
        trained = any("epoch: [2/2]" in process.output() for process in processes)
        kills += not finished
        for rank, process in enumerate(processes):
            if process is not victim:
                code = process.wait(300)
                assert code is not None, f"rank {rank} goes on for ever: {process.output()[-2000:]}"
                _check_survivor(process, code, finished or trained and code == 0)
        check_whole(folder)
        after = points_in(folder)
        assert before.items() <= after.items(), "points were lost"
        assert {k: after[k] for k in after if k in expected} == {
            k: expected[k] for k in after if k in expected
        }
        if finished:
            for process in processes:
                assert process.wait(0) == 0, process.output()[-3000:]
            assert load_plan(folder / "prune" / "plan.prune.json").groups == plan.groups
            names = [path.name for path in folder.rglob("*")]
            assert not [name for name in names if "tmp" in name or "spilled" in name]
            run += 1
            folder = tmp_path / str(run)
    print(f"{kills} kills, {run} runs finished in between")


def _check_survivor(process: Child, code: int, finished: bool) -> None:
    """It ends by a message of ours, or, where it trained already, by Paddle's about its partner."""
    if finished:
        return
    log = process.output()
    assert code != 0
    ours = [line for line in log.splitlines() if line.startswith("ppocr-prune: error:")]
    assert len(ours) <= 1 and os.sep + "ppocr_prune_plugin" + os.sep not in _last_frame(log), log[
        -3000:
    ]


def _last_frame(log: str) -> str:
    frames = [line for line in log.splitlines() if line.startswith("  File ")]
    return frames[-1] if "Traceback" in log and frames else ""
