"""Measure the curves: prune one group on the live model, evaluate, put it back."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import paddle
from tqdm import tqdm

from .. import surgery
from ..criteria import Array, Ranker, Ranking
from ..errors import PruneError
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import GroupPlan
from ..ratios.rounding import width_for_ratio
from ..recovery.batch_norm import BatchNormRecalibration
from .store import Point, SensitivityFile
from .team import ENDINGS, Team

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
class Job:
    """Groups to measure: with rising ratios up to a loss, or by bisection around one."""

    kind: str
    value: float
    groups: tuple[str, ...]


def part(folder: Path, rank: int) -> Path:
    """The sensitivity file of one process of several."""
    return folder / f"rank{rank}.pickle"


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
    ranker: Ranker
    ratios: Sequence[float]
    round_to: int
    recalibration: BatchNormRecalibration
    team: Team

    def rising(self, groups: Sequence[ChannelGroup], stop_loss: float) -> None:
        """Ratios rise until a group's loss exceeds ``stop_loss``; the rest is skipped."""
        self._lead(Job("rising", stop_loss, tuple(group.name for group in groups)))

    def bisect(self, groups: Sequence[ChannelGroup], max_loss: float) -> None:
        """Find the two neighbouring ratios between which each group's loss passes ``max_loss``."""
        self._lead(Job("bisect", max_loss, tuple(group.name for group in groups)))

    def _lead(self, job: Job) -> None:
        """Do a job with whoever is on the team, and collect what they found."""
        self.file.save()  # where the others begin
        name = self.team.post_next("job", json.dumps(asdict(job)))
        self._work(name, job)
        for rank in self.team.others:
            assert self.team.folder is not None
            self.team.wait(f"done-{name}-{rank}")
            self.file.merge(self.file.reopened(part(self.team.folder, rank)))
        self.file.save()

    def follow(self) -> None:
        """Help rank 0 with its jobs until it has finished or failed."""
        assert self.team.folder is not None
        main, number = self.file.path, 0
        while self.team.wait(f"job-{number}", *ENDINGS) not in ENDINGS:
            name = f"job-{number}"
            raw = json.loads(self.team.read(name))
            self.file.merge(self.file.reopened(main))
            self.file.path = part(self.team.folder, self.team.rank)
            self._work(name, Job(raw["kind"], raw["value"], tuple(raw["groups"])))
            self.team.post(f"done-{name}-{self.team.rank}")
            number += 1

    def _work(self, task: str, job: Job) -> None:
        """Measure the groups of a job that no other process has taken."""
        step = self._rise if job.kind == "rising" else self._bisect
        with tqdm(job.groups, desc="prune: sensitivity", unit="layer") as bar:
            for name in bar:
                bar.set_postfix_str(name)
                if self.team.claim(f"{task}-{name}"):
                    self.file.points.setdefault(name, {})
                    step(self.graph[name], job.value)
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
            item = GroupPlan(group.name, group.size, self._ranking(group).kept(width), width)
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

    def _ranking(self, group: ChannelGroup) -> Ranking:
        if group.name not in self._rankings:
            self._rankings[group.name] = self.ranker.rank(group, self._arrays)
        return self._rankings[group.name]

    @functools.cached_property
    def _rankings(self) -> dict[str, Ranking]:
        return {}

    @functools.cached_property
    def _arrays(self) -> dict[str, Array]:
        """The unpruned weights: between points the model is as it was."""
        return {name: tensor.numpy() for name, tensor in self.model.state_dict().items()}
