"""Damaged copies of every file that we read: read as it was, or one line that names it."""

from __future__ import annotations

import dataclasses
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from damage import BYTES, edited
from fixtures_faults import Campaign
from paddle import nn

from ppocr_prune_plugin import arrays, surgery
from ppocr_prune_plugin.checkpoint import infer_kept_channels, read_shapes
from ppocr_prune_plugin.documents import signed
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.latency.table import LatencyTable, open_table
from ppocr_prune_plugin.network import inspect, plan_of
from ppocr_prune_plugin.plan import Change, GroupPlan, load_plan
from ppocr_prune_plugin.ratios.budget import widths_by_max_loss
from ppocr_prune_plugin.rebuilding import rebuild
from ppocr_prune_plugin.report.data import Layer, Point, Report, load_report
from ppocr_prune_plugin.report.html import render, write_report
from ppocr_prune_plugin.sensitivity import store
from ppocr_prune_plugin.sensitivity.store import load_pickle, open_sensitivity

INPUTS = [([1, 3, 8, 8], "float32")]


def small_model() -> nn.Layer:
    return nn.Sequential(
        nn.Conv2D(3, 16, 3), nn.BatchNorm2D(16), nn.ReLU(), nn.Conv2D(16, 8, 1),
        nn.Conv2D(8, 8, 3, groups=8), nn.Conv2D(8, 2, 1),
    )  # fmt: skip


class Files:
    """One whole file of every kind, of one small network."""

    def __init__(self, folder: Path) -> None:
        paddle.seed(0)
        self.folder = folder
        self.model = small_model()
        self.network = inspect(self.model, INPUTS)
        self.graph = self.network.graph
        names = {name: tensor.name for name, tensor in self.model.named_parameters()}
        self.names = names
        self.belongs = {"model": "m1", "PostProcess.thresh": "0.3"}

        items = [GroupPlan(g.name, g.size, tuple(range(0, g.size, 2)), g.size // 2)
                 for g in self.graph.groups]  # fmt: skip
        self.plan = plan_of(self.network, "fpgm", items)
        self.plan.save(folder / "plan.prune.json")
        self.pruned = surgery.shapes_after(self.graph, self.plan.kept_channels())

        file, _ = open_sensitivity(folder / "sen.pickle", self.belongs, self.graph.groups, names)
        file.baseline, file.spread = 0.9, (0.85, 0.95)
        for group in self.graph.groups:
            file.points[group.name] = {
                0.25: store.Point(0.01, 0.891, 7),
                0.5: store.Point(0.1, 0.8, 4, (0.05, 0.2)),
            }
            file.skipped[group.name] = [0.75]
        file.save()
        self.losses = file.plain

        networks = {"16,8": (2.0, 1.0)}
        LatencyTable(folder / "latency.json", {"CPU": "x"}, "an engine", networks).save()
        layers = tuple(
            Layer(g.name, g.size, g.size // 2, 0.1, (Point(0.5, 0.1, 0.8, 7, (0.0, 0.2)),), (0.75,))
            for g in self.graph.groups
        )
        change = Change(1000, 500)
        self.report = Report(
            "fpgm", "max_loss", 0.1, change, change, layers, "hmean", 0.9, 0.8, 7, (0.85, 0.95)
        )
        write_report(self.report, folder)

        self.batches = [[np.random.rand(2, 3, 8, 8).astype("float32"), ["text", 1, None]]]
        arrays.write(folder / "calibration.npz", self.batches)

        paddle.save(self.model.state_dict(), str(folder / "latest.pdparams"))
        self.shapes = read_shapes(folder / "latest.pdparams")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    return Files(tmp_path_factory.mktemp("whole"))


def read_plan(files: Files, path: Path) -> Any:
    plan = load_plan(path)
    # What a tool does with it: rebuild a network for the weights beside it, which are whole.
    try:
        surgery.kept_masks(files.graph, [item for item in plan.groups if item.kept is not None])
        for structure in plan.structures.values():
            model = small_model()
            if rebuild(model, structure, files.pruned) == {}:  # other misfits are warned of
                model(paddle.ones([1, 3, 8, 8]))
    except PruneError as error:
        raise PruneError(f"{path}: {error}") from error
    return plan


def read_sensitivity(files: Files, path: Path) -> Any:
    """As the next run does; afterwards it would save it."""
    file, _ = open_sensitivity(path, files.belongs, files.graph.groups, files.names)
    curves = {group.name: file.curve(group.name) for group in files.graph.groups}
    sizes = {group.name: group.size for group in files.graph.groups}
    widths_by_max_loss(curves, sizes, 0.1, 1)
    file.save()
    return dataclasses.replace(file, path=Path(), fingerprint={}, weight_names={})


def read_losses(files: Files, path: Path) -> Any:
    """A pickle alone, which nothing says more of: whatever is taken from it is said."""
    _, remark = open_sensitivity(path, files.belongs, files.graph.groups, files.names)
    assert "nothing says which weights" in remark
    found = load_pickle(path)
    assert all(np.isfinite([*p, *p.values()]).all() for p in found.values())
    return found


def read_table(files: Files, path: Path) -> Any:
    """Measured anew with the reason where it cannot be used."""
    table, problem = open_table(path, {"CPU": "x"})
    if problem:
        raise PruneError(f"{path}: {problem}")
    return table.networks, table.how


def read_report(files: Files, path: Path) -> Any:
    report = load_report(path)
    render(report)
    return report


def read_batches(files: Files, path: Path) -> Any:
    return arrays.digest(arrays.read(path, "the file of calibration batches", "Move it away."))


def read_weights(files: Files, path: Path) -> Any:
    shapes = read_shapes(path)
    infer_kept_channels(files.graph, shapes)
    return shapes


READERS: dict[str, Callable[[Files, Path], Any]] = {
    "plan.prune.json": read_plan,
    "sensitivity.json": read_sensitivity,
    "latency.json": read_table,
    "report.json": read_report,
    "calibration.npz": read_batches,
    "sen.pickle": read_losses,
    "latest.pdparams": read_weights,
}
# What has no checksum: a number in it may be another one, and nobody can know.
UNSIGNED = ("sen.pickle", "latest.pdparams")


@pytest.mark.parametrize("name", READERS)
def test_damaged_copies(files: Files, campaign: Campaign, tmp_path: Path, name: str) -> None:
    whole = (files.folder / name).read_bytes()
    path = tmp_path / name
    path.write_bytes(whole)
    expected = READERS[name](files, path)
    ways = [*BYTES, edited] if name.endswith(".json") else BYTES
    refused = 0
    for number in campaign.times(30, 400):
        way = ways[number % len(ways)]
        damaged = way(whole, campaign.random)
        for other in tmp_path.iterdir():
            other.unlink()
        path.write_bytes(damaged)
        try:
            found = READERS[name](files, path)
        except PruneError as error:
            refused += 1
            assert str(error).startswith(f"{path}: ") and str(error).isprintable()
            assert path.read_bytes() == damaged, "a file that was refused was changed"
        else:
            if damaged != whole and way is not edited and name not in UNSIGNED:
                assert found == expected, f"{way.__name__}: read as something else"
    assert refused > 0.5 * number


@pytest.mark.parametrize("multipliers", [{}, {"4.weight": 2}, {"4.weight": 8}, {"0.weight": 2}])
def test_a_plan_that_knows_other_depthwise_convolutions(
    files: Files, tmp_path: Path, multipliers: dict[str, int]
) -> None:
    content = json.loads((files.folder / "plan.prune.json").read_text())
    assert content["structures"][""]["multipliers"] == {"4.weight": 1}
    content["structures"][""]["multipliers"] = {"4.weight": 1} | multipliers if multipliers else {}
    path = tmp_path / "plan.prune.json"
    path.write_text(json.dumps(signed(content)))
    with pytest.raises(PruneError, match="filters for each input channel here"):
        read_plan(files, path)


def test_a_pickle_without_its_json(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "sen.pickle"
    path.write_bytes((files.folder / "sen.pickle").read_bytes())
    assert read_losses(files, path) == files.losses == pickle.loads(path.read_bytes())
    assert json.loads((files.folder / "sensitivity.json").read_text())["baseline"] == 0.9
