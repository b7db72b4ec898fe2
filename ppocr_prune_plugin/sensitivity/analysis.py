"""Measure the curves: prune one group on the live model, evaluate, put it back."""

from __future__ import annotations

import functools
import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass

import paddle
from tqdm import tqdm

from .. import surgery
from ..criteria import Array, Ranker, Ranking
from ..errors import PruneError
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import GroupPlan
from ..ratios.rounding import width_for_ratio
from ..recovery.recovery import Recovery
from .ranks import ENDINGS, Ranks
from .reuse import PrefixReuse
from .sequential import Evaluation, Question, SequentialTest
from .store import Point, SensitivityFile

# Words in the names of metrics that fall as a model gets better.
_LOWER_IS_BETTER = frozenset(
    {"loss", "err", "error", "cer", "wer", "mse", "rmse", "mae", "perplexity"}
)


def check_direction(metric: str) -> None:
    """Refuse a metric that is known, by its name, to fall as a model gets better.

    Of PaddleOCR's own that is ``edit distance`` of ``LaTeXOCRMetric``; ``norm_edit_dis`` is a
    similarity.

    Raises:
        PruneError: it is one.
    """
    words = set(re.split(r"[^a-z]+", metric.lower()))
    if not (words & _LOWER_IS_BETTER or ("edit" in words and "norm" not in words)):
        return
    raise PruneError(
        f'Metric.main_indicator is "{metric}", for which lower is better. The loss of a layer is '
        "the share of the metric that is lost, and PaddleOCR keeps the checkpoint with the highest "
        "as the best. Name an indicator that rises (such as acc, hmean, exp_rate), or prune by "
        "Prune.ratio."
    )


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
    """Groups to measure, and the question at every point."""

    groups: tuple[str, ...]
    bound: float
    curve: bool


@dataclass(frozen=True)
class Analysis:
    """Measures points of one model into one file.

    Every point is saved before the next one is begun, so that the same run goes on after an
    interruption. What is not worth measuring is recorded as skipped.
    """

    model: paddle.nn.Layer
    graph: ChannelGraph
    file: SensitivityFile
    evaluation: Evaluation
    ranker: Ranker
    ratios: Sequence[float]
    round_to: int
    recovery: Recovery
    ranks: Ranks
    exact: bool = False

    def rising(self, groups: Sequence[ChannelGroup], bound: float, curve: bool) -> None:
        """Ratios rise until a group's loss exceeds ``bound``; the rest is skipped.

        For the deepest cut that is allowed a bisection would need more points: curves need not
        rise, so that what is shallower than its answer would have to be looked at all the same.

        Args:
            groups: what to measure.
            bound: a loss.
            curve: whether the losses up to the bound are wanted, or only that they are below it.
        """
        self._as_rank_0(Job(tuple(group.name for group in groups), bound, curve))

    def _as_rank_0(self, job: Job) -> None:
        """Do a job with all ranks, and collect what they found."""
        self.file.save()  # where the others begin
        before = self._points()
        name = self.ranks.post_next("job", json.dumps(asdict(job)))
        self._work(name, job)
        for rank in self.ranks.others:
            self.ranks.wait(f"done-{name}-{rank}", rank=rank)
            self.file.merge(self.file.reopened(self.file.of_rank(self.ranks.points, rank)))
        self._measured.update(self._points() - before)
        self.file.save()

    def work(self) -> None:
        """Help rank 0 with its jobs until it has finished or failed."""
        main, number = self.file.path, 0
        while self.ranks.wait(f"job-{number}", *ENDINGS) not in ENDINGS:
            name = f"job-{number}"
            raw = json.loads(self.ranks.read(name))
            self.file.merge(self.file.reopened(main))
            self.file.path = self.file.of_rank(self.ranks.points, self.ranks.rank)
            self._work(name, Job(tuple(raw["groups"]), raw["bound"], raw["curve"]))
            self.ranks.post(f"done-{name}-{self.ranks.rank}")
            number += 1

    def reused(self, groups: Sequence[ChannelGroup], bound: float, curve: bool) -> str:
        """What a line of the log says, before :meth:`rising`, of the points of an earlier run that
        answer its question; empty where there are none."""
        question = Question(bound, curve)
        known = sum(
            (group.name, ratio) not in self._measured
            for group in groups
            for ratio, point in self.file.points.get(group.name, {}).items()
            if (point.foreign or ratio in self._widths(group)) and self._settled(point, question)
        )
        left = sum(len(self._open(group, question)) for group in groups)
        rest = f"at most {left} are left to measure" if left else "none is left to measure"
        return f"{known} points of an earlier run are reused; {rest}" if known else ""

    def _work(self, task: str, job: Job) -> None:
        """Measure the groups of a job that no other process has taken."""
        question = Question(job.bound, job.curve)
        groups = [self.graph[name] for name in job.groups]
        total = sum(len(self._open(group, question)) for group in groups)
        with tqdm(total=total, desc="prune: sensitivity", unit="point", disable=not total) as bar:
            for group in groups:
                bar.set_postfix_str(group.name)
                target = bar.n + len(self._open(group, question))
                if self.ranks.claim(f"{task}-{group.name}"):
                    self.file.points.setdefault(group.name, {})
                    self._rise(group, question, bar)
                bar.update(target - bar.n)
        self.file.save()

    @contextmanager
    def _reusing(self, group: ChannelGroup) -> Iterator[None]:
        """What runs before the group's layers is computed once."""
        names = [member.parameter for member in group.members]
        evaluation = self.evaluation
        with self._reuse.before(names, lambda: evaluation.outputs(0)):
            yield

    def _widths(self, group: ChannelGroup) -> dict[float, int]:
        return planned_ratios(group, self.ratios, self.round_to)

    def _open(self, group: ChannelGroup, question: Question) -> list[float]:
        """Ratios that the file has no answer for, up to the first loss that exceeds the bound.

        A curve from elsewhere has ratios of its own; between them it is read off.
        """
        done = self.file.points.get(group.name, {})
        beyond = min((r for r, point in done.items() if point.loss > question.bound), default=1.0)
        covered = max((r for r, point in done.items() if point.foreign), default=0.0)
        narrowest = width_for_ratio(group.size, covered, self.round_to)
        return [
            ratio
            for ratio, width in self._widths(group).items()
            if width < narrowest
            and ratio <= beyond
            and not (ratio in done and self._settled(done[ratio], question))
        ]

    def _rise(self, group: ChannelGroup, question: Question, bar: tqdm) -> None:
        """Measure what is open of a group, and skip what lies beyond the bound. Where nothing is
        open the model is not run: not even to see what could be reused."""
        if self._open(group, question):
            with self._reusing(group):
                for ratio in self._widths(group):
                    if ratio in self._open(group, question):
                        self._measure(group, ratio, question)
                        bar.update()
        done = self.file.points[group.name]
        for ratio in self._widths(group):
            if any(point.loss > question.bound for r, point in done.items() if r < ratio):
                self._skip(group, ratio)

    def _skip(self, group: ChannelGroup, ratio: float) -> None:
        skipped = self.file.skipped.setdefault(group.name, [])
        if ratio not in self.file.points[group.name] and ratio not in skipped:
            skipped.append(ratio)
            skipped.sort()

    def _measure(self, group: ChannelGroup, ratio: float, question: Question) -> None:
        """Measure the loss at a ratio."""
        width = self._widths(group)[ratio]
        item = GroupPlan(group.name, group.size, self._ranking(group).kept(width), width)
        test = self._test
        undo = surgery.prune(self.model, self.graph, [item])
        try:
            self.recovery.apply(self.graph, [item], undo)
            found = test.measure(question)
        finally:
            surgery.restore(self.model, undo)
        interval = None if found.low == found.high else (found.low, found.high)
        self.file.points[group.name][ratio] = Point(
            found.loss, found.metric, found.images, interval
        )
        self._measured.add((group.name, ratio))
        if ratio in self.file.skipped.get(group.name, []):
            self.file.skipped[group.name].remove(ratio)
        self.file.save()

    def _settled(self, point: Point, question: Question) -> bool:
        if point.interval is None:
            return True
        return not self.exact and question.answered(point.loss, point.low, point.high)

    @functools.cached_property
    def _measured(self) -> set[tuple[str, float]]:
        """Groups and ratios that this run has measured."""
        return set()

    def _points(self) -> set[tuple[str, float]]:
        """Groups and ratios of the file."""
        return {(name, ratio) for name, points in self.file.points.items() for ratio in points}

    @functools.cached_property
    def _test(self) -> SequentialTest:
        """Made while the model is unpruned."""
        assert self.file.baseline is not None
        return SequentialTest(self.evaluation, self.file.baseline, self.exact)

    @functools.cached_property
    def _reuse(self) -> PrefixReuse:
        evaluation = self.evaluation
        return PrefixReuse(self.model, evaluation.activations, lambda: evaluation.current)

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
