"""Measure the curves: prune one group on the live model, evaluate, put it back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import paddle
from tqdm import tqdm

from .. import surgery
from ..criteria import group_importance, kept_by_importance
from ..errors import PruneError
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import GroupPlan
from ..ratios.rounding import width_for_ratio
from ..recovery.batch_norm import BatchNormRecalibration
from .store import Point, SensitivityFile
from .team import Team

Evaluate = Callable[[], float]
"""Evaluate the live model; the main metric, higher is better."""


def fingerprint(
    model: paddle.nn.Layer, criterion: str, metric: str, data: str, bn_batches: int
) -> dict[str, str]:
    """What a sensitivity file belongs to."""
    structure, weights = hashlib.sha256(), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        structure.update(f"{name}{array.shape}".encode())
        weights.update(array.tobytes())
    return {
        "model": structure.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "criterion": criterion,
        "metric": metric,
        "evaluation set": data,
        "bn_batches": str(bn_batches),
    }


def check_baseline(value: float, metric: str) -> None:
    """Refuse to measure losses against nothing.

    Raises:
        PruneError: the metric of the unpruned model is 0, negative or not a number.
    """
    if math.isfinite(value) and value > 0:
        return
    raise PruneError(
        f"the unpruned model has {metric} = {value:g} on the evaluation set, so no loss can be "
        "measured against it. The usual causes: Global.pretrained_model is not the trained model "
        "(or its weights did not match: see the warnings above), the Eval section names the wrong "
        "labels, or PostProcess thresholds do not fit."
    )


def planned_ratios(group: ChannelGroup, ratios: Sequence[float], round_to: int) -> dict[float, int]:
    """Ratio → width of the points to measure: those that rounding can choose, each once."""
    points: dict[float, int] = {}
    for ratio in ratios:
        width = width_for_ratio(group.size, ratio, round_to)
        if width < group.size:
            points[round(1 - width / group.size, 6)] = width
    return dict(sorted(points.items()))


@dataclass(frozen=True)
class Analysis:
    """Measures points of one model into one file.

    Every point is saved before the next one is begun, so that the same run goes on after an
    interruption. What is not worth measuring is recorded as skipped.
    """

    model: paddle.nn.Layer
    graph: ChannelGraph
    file: SensitivityFile
    evaluate: Evaluate
    images: int
    criterion: str
    ratios: Sequence[float]
    round_to: int
    recalibration: BatchNormRecalibration
    team: Team

    def rising(self, groups: Sequence[ChannelGroup], stop_loss: float) -> None:
        """Ratios rise until a group's loss exceeds ``stop_loss``; the rest is skipped."""
        self._all(groups, f"rising-{stop_loss:g}", lambda g: self._rise(g, stop_loss))

    def bisect(self, groups: Sequence[ChannelGroup], max_loss: float) -> None:
        """Find the two neighbouring ratios between which each group's loss passes ``max_loss``."""
        self._all(groups, f"bisect-{max_loss:g}", lambda g: self._bisect(g, max_loss))

    def _all(
        self, groups: Sequence[ChannelGroup], job: str, measure: Callable[[ChannelGroup], None]
    ) -> None:
        with tqdm(groups, desc="prune: sensitivity", unit="layer") as bar:
            for group in bar:
                bar.set_postfix_str(group.name)
                if self.team.claim(f"{job}-{group.name}"):
                    self.file.points.setdefault(group.name, {})
                    measure(group)
        self.file.save()

    def _rise(self, group: ChannelGroup, stop_loss: float) -> None:
        for ratio in planned_ratios(group, self.ratios, self.round_to):
            done = self.file.points[group.name]
            if any(point.loss > stop_loss for r, point in done.items() if r <= ratio):
                self._skip(group, ratio)
            else:
                self._measure(group, ratio)

    def _bisect(self, group: ChannelGroup, max_loss: float) -> None:
        ratios = list(planned_ratios(group, self.ratios, self.round_to))
        low, high = -1, len(ratios)  # the loss at low is allowed, the loss at high is not
        while high - low > 1:
            middle = (low + high) // 2
            if self._measure(group, ratios[middle]) <= max_loss:
                low = middle
            else:
                high = middle
        for ratio in ratios:
            self._skip(group, ratio)

    def _skip(self, group: ChannelGroup, ratio: float) -> None:
        skipped = self.file.skipped.setdefault(group.name, [])
        if ratio not in self.file.points[group.name] and ratio not in skipped:
            skipped.append(ratio)
            skipped.sort()

    def _measure(self, group: ChannelGroup, ratio: float) -> float:
        """The loss at a ratio, measured unless the file has it."""
        done = self.file.points[group.name]
        if ratio not in done:
            width = planned_ratios(group, self.ratios, self.round_to)[ratio]
            arrays = {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
            kept = kept_by_importance(group_importance(group, arrays, self.criterion), width)
            item = GroupPlan(group.name, group.size, kept, width)
            undo = surgery.prune(self.model, self.graph, [item])
            try:
                self.recalibration.apply(self.graph, [item], undo)
                metric = self.evaluate()
            finally:
                surgery.restore(self.model, undo)
            assert self.file.baseline is not None
            loss = (self.file.baseline - metric) / self.file.baseline
            done[ratio] = Point(loss if math.isfinite(loss) else 1.0, metric, self.images)
            if ratio in self.file.skipped.get(group.name, []):
                self.file.skipped[group.name].remove(ratio)
            self.file.save()
        return done[ratio].loss
