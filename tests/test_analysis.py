"""Which points an analysis measures, on a small live network whose metric depends on its width."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import paddle
import pytest
from paddle import nn

from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.ratios.budget import widths_by_max_loss
from ppocr_prune_plugin.recovery.recovery import Recovery
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.ranks import Ranks
from ppocr_prune_plugin.sensitivity.spill import ArrayStore
from ppocr_prune_plugin.sensitivity.store import Point, SensitivityFile

RATIOS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)


class ByWidth:
    """Every image has the metric that the table gives for the live width of the first layer."""

    metric, data, current = "acc", "by width", None

    def __init__(self, model: nn.Layer, losses: Mapping[int, float], folder: Path) -> None:
        self.images, self.sizes = 64, [1] * 64
        self.activations = ArrayStore(0, folder)
        self._model, self._losses = model, losses
        self.asked: list[tuple[int, int]] = []

    def _now(self, images: int) -> float:
        width = self._model[0].weight.shape[0]
        if width < 64:
            self.asked.append((width, images))
        return 1 - self._losses.get(width, 0.0)

    def __call__(self) -> float:
        return self._now(self.images)

    def baseline(self) -> float:
        return 1.0

    def unpruned(self) -> list[Any]:
        return [1.0] * self.images

    def states(self, units: Sequence[int]) -> list[Any]:
        return [self._now(len(units))] * len(units)

    def combined(self, states: Sequence[Any], counts: Sequence[int]) -> float:
        return sum(s * n for s, n in zip(states, counts, strict=True)) / sum(counts)

    def outputs(self, unit: int) -> Any:
        with paddle.no_grad():
            return self._model(paddle.ones([1, 3, 8, 8]))


def analysed(
    folder: Path, losses: Mapping[int, float], exact: bool = True
) -> tuple[Analysis, ByWidth, str]:
    """A layer of 64 filters that may have 56, 48, … 8."""
    paddle.seed(0)
    model = nn.Sequential(nn.Conv2D(3, 64, 3), nn.ReLU(), nn.Conv2D(64, 4, 1))
    graph = build_graph(model, [([1, 3, 8, 8], "float32")])
    evaluation = ByWidth(model, losses, folder)
    (group,) = graph.groups
    file = SensitivityFile(folder / "sen.pickle", {}, {group.name: "w"}, baseline=1.0)
    analysis = Analysis(
        model, graph, file, evaluation, Ranker("l1"), RATIOS, 8,
        Recovery(model, graph, []), Ranks(), exact,
    )  # fmt: skip
    return analysis, evaluation, group.name


def test_rising_stops_at_the_loss_that_is_enough(tmp_path: Path) -> None:
    analysis, evaluation, name = analysed(tmp_path, {48: 0.1, 40: 0.4, 32: 0.2, 24: 0.9})
    analysis.rising(analysis.graph.groups, 0.3, curve=True)
    assert [width for width, _ in evaluation.asked] == [56, 48, 40]
    assert analysis.file.skipped[name] == [0.5, 0.625, 0.75, 0.875]


@pytest.mark.parametrize(
    ("losses", "asked", "width"),
    [
        ({24: 0.1, 16: 0.2, 8: 0.3}, [56, 48, 40, 32, 24], 32),
        (dict.fromkeys(range(8, 64, 8), 0.5), [56], 64),
        ({}, [56, 48, 40, 32, 24, 16, 8], 8),
        # 48 costs more than the deeper 40: a curve made monotone ends before it.
        ({48: 0.2, 32: 0.3, 24: 0.3, 16: 0.3, 8: 0.3}, [56, 48], 56),
    ],
)
def test_the_first_crossing_is_found_and_nothing_beyond_it_measured(
    tmp_path: Path, losses: Mapping[int, float], asked: list[int], width: int
) -> None:
    analysis, evaluation, name = analysed(tmp_path, losses)
    analysis.rising(analysis.graph.groups, 0.05, curve=False)
    assert [asked_width for asked_width, _ in evaluation.asked] == asked
    points, skipped = analysis.file.points[name], analysis.file.skipped.get(name, [])
    assert sorted([*points, *skipped]) == [0.125, 0.25, 0.375, 0.5, 0.625, 0.75, 0.875]
    assert widths_by_max_loss({name: analysis.file.curve(name)}, {name: 64}, 0.05, 8) == {
        name: width
    }


def test_a_curve_from_elsewhere_is_read_between_its_ratios(tmp_path: Path) -> None:
    """PaddleSlim's file has ratios that rounding gives to none of our widths."""
    analysis, evaluation, name = analysed(tmp_path, {16: 0.4})
    analysis.file.points[name] = {ratio: Point(ratio / 100) for ratio in (0.1, 0.3, 0.5)}
    assert analysis.reused(analysis.graph.groups, 0.05, curve=False).startswith("3 points of an")
    analysis.rising(analysis.graph.groups, 0.05, curve=False)
    assert [width for width, _ in evaluation.asked] == [24, 16]
    widths = widths_by_max_loss({name: analysis.file.curve(name)}, {name: 64}, 0.05, 8)
    assert widths == {name: 24}


def test_a_point_that_leaves_the_question_open_is_measured_again(tmp_path: Path) -> None:
    """An earlier run with another bound was content with fewer images."""
    analysis, evaluation, name = analysed(tmp_path, {24: 0.5}, exact=False)
    analysis.file.points[name] = {0.125: Point(0.06, 0.94, 16, (0.01, 0.11))}
    analysis.rising(analysis.graph.groups, 0.05, curve=False)
    assert analysis.file.points[name][0.125].loss == 0.0
    assert max(analysis.file.points[name]) == 0.625


def test_what_is_clear_is_seen_on_few_images_and_not_measured_again(tmp_path: Path) -> None:
    analysis, evaluation, name = analysed(tmp_path, {8: 0.5, 16: 0.4}, exact=False)
    analysis.rising(analysis.graph.groups, 0.3, curve=False)
    point = analysis.file.points[name][0.75]
    assert (16, 16) in evaluation.asked and point.images == 16 and point.interval is not None
    evaluation.asked.clear()
    analysis.rising(analysis.graph.groups, 0.3, curve=False)
    assert evaluation.asked == []

    # The same file where every image is asked for: what saw fewer is measured again.
    again, evaluation, _ = analysed(tmp_path, {8: 0.5, 16: 0.4}, exact=True)
    again.file.points = {name: dict(analysis.file.points[name])}
    again.file.points[name][0.5] = Point(0.0, 1.0, 64)
    again.rising(again.graph.groups, 0.3, curve=False)
    assert 32 not in [width for width, _ in evaluation.asked]
    assert all(p.images == 64 and p.interval is None for p in again.file.points[name].values())


def test_a_complete_analysis_runs_nothing(tmp_path: Path) -> None:
    """Not even to see what could be reused; and how much is known is told before."""
    losses = {24: 0.1, 16: 0.4}
    analysis, evaluation, name = analysed(tmp_path, losses)
    assert analysis.reused(analysis.graph.groups, 0.3, True) == ""
    analysis.rising(analysis.graph.groups, 0.3, curve=True)
    assert analysis.reused(analysis.graph.groups, 0.3, True) == "", "they are of this run"
    before = dict(analysis.file.points[name])
    assert analysis.file.skipped[name] == [0.875]

    again, evaluation, _ = analysed(tmp_path, losses)
    again.file.merge(again.file.reopened(analysis.file.path))
    calls: list[None] = []
    again.model.register_forward_pre_hook(lambda *call: calls.append(None))
    said = "6 points of an earlier run are reused; "
    assert again.reused(again.graph.groups, 0.3, True) == said + "none is left to measure"
    again.rising(again.graph.groups, 0.3, curve=True)
    assert calls == [] and evaluation.asked == []
    assert again.file.points[name] == before and again.file.skipped[name] == [0.875]
    # With a higher bound what was skipped is open, and measured.
    assert again.reused(again.graph.groups, 0.7, True) == said + "at most 1 are left to measure"
    again.rising(again.graph.groups, 0.7, curve=True)
    assert evaluation.asked == [(8, 64)] and calls and again.file.skipped[name] == []
