"""How wide every group will be: what the section's target, the measured curves, and what widths
cost say together."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

from .errors import PruneError
from .graph.groups import ChannelGroup
from .latency.model import NetworkLatency
from .measuring import Measuring
from .ratios.budget import OutOfReach
from .ratios.costs import Cost, flops_of, params_of
from .ratios.curves import Curve
from .ratios.feasibility import Rows, feasibility
from .ratios.nearest import Value, prunes_nothing
from .ratios.rounding import narrowest
from .ratios.search import NEAR, Search
from .ratios.targets import MeasuredTarget, Ratio
from .report.data import Latency
from .report.lines import feasibility_table, latency_line
from .sensitivity.store import SensitivityFile

# A latency is predicted, then measured; the search is repeated with what that taught.
_LATENCY_ROUNDS = 4


@dataclass(frozen=True)
class Decision:
    """What is going to be done, and why.

    ``widths`` are the channels that groups keep, ``baseline`` and ``spread`` the metric of the
    unpruned model and where it would lie on other sets of as many images, ``beside`` what was
    counted beside it; ``file`` holds the measured curves; ``feasibility`` are rows (share of what
    the target counts, predicted loss); ``latency`` is what was measured of networks of these
    widths, ``latency_table`` where; ``unit`` is what losses are where they are not shares of the
    metric;
    ``problem`` says that nothing would be pruned, and what would prune something. All but the
    widths are there only where they were needed.
    """

    widths: Mapping[str, int]
    baseline: float | None = None
    spread: tuple[float, float] | None = None
    beside: Mapping[str, float] = field(default_factory=dict)
    file: SensitivityFile | None = None
    feasibility: Rows = ()
    latency: Latency | None = None
    latency_table: Path | None = None
    unit: str = ""
    problem: PruneError | None = None

    def predicted_losses(self, groups: Sequence[ChannelGroup]) -> dict[str, float]:
        """What each group's curve says of its new width; nothing where nothing was measured."""
        if self.file is None:
            return {}
        ratios = {g.name: 1 - self.widths.get(g.name, g.size) / g.size for g in groups}
        return {name: float(self.file.curve(name).loss(ratio)) for name, ratio in ratios.items()}


def decide_by_ratio(target: Ratio, groups: Sequence[ChannelGroup], round_to: int) -> Decision:
    """Widths by shares of the groups' channels: nothing is measured."""

    def widths(value: Value, rounding: int) -> dict[str, int]:
        return Ratio(value).widths(groups, rounding)

    sizes = {group.name: group.size for group in groups}
    chosen = widths(target.value, round_to)
    if any(width < sizes[name] for name, width in chosen.items()):
        return Decision(chosen)
    problem = prunes_nothing(widths, sizes, target.key, target.value, round_to)
    return Decision(chosen, problem=problem)


def decide(target: MeasuredTarget, measuring: Measuring, table: Path) -> Decision:
    """Measure what the target asks for, and choose.

    Args:
        target: how much to prune.
        measuring: measures the curves.
        table: where the latency table is or will be, if the target needs one.

    Raises:
        PruneError: the target is out of reach, or something cannot be measured.
    """
    analysis = measuring.begin()
    options = measuring.section.sensitivity
    with ExitStack() as resources:
        chooser = _Chooser(target, measuring, _Prices(measuring, table, resources))
        # Before hours of measuring: could the target be reached if nothing hurt?
        deepest = {group.name: Curve((options.ratios[-1],), (0.0,)) for group in measuring.groups}
        target.widths(chooser.search(deepest))
        *first, last = target.depths(options.stop_loss, distances=bool(measuring.unit))
        decision: Decision | None = None
        for depth in first:
            try:
                decision = chooser.choose(measuring.curves(analysis, depth))
                break
            except OutOfReach as error:
                measuring.logger.info(
                    f"prune: {target.key} {target.value:g} is out of reach so far: {error}"
                )
        if decision is None:
            decision = chooser.choose(measuring.curves(analysis, last))
    file = analysis.file
    return replace(
        decision, baseline=file.baseline, spread=file.spread, beside=file.beside, file=file
    )


class _Prices:
    """What any widths of the measured network cost."""

    def __init__(self, measuring: Measuring, table: Path, resources: ExitStack) -> None:
        self._measuring, self._table, self._resources = measuring, table, resources

    def flops(self) -> Cost:
        return flops_of(self._measuring.network.graph, self._measuring.network.costs)

    def params(self) -> Cost:
        return params_of(self._measuring.network.graph, self._measuring.network.costs)

    def milliseconds(self) -> Cost:
        return self.latency.cost

    @functools.cached_property
    def latency(self) -> NetworkLatency:
        """The latency table, opened; what it has not is measured."""
        measuring = self._measuring
        section, logger = measuring.section, measuring.logger
        deepest = section.sensitivity.ratios[-1]
        few = {g.name: narrowest(g.size, deepest, section.round_to) for g in measuring.groups}
        latency = NetworkLatency(
            measuring.network, section.latency, few, self._table, logger, section.round_to
        )
        self._resources.enter_context(latency)
        logger.info(f"prune: the unpruned network takes {latency.before:.4g} ms: {latency.how}")
        return latency


class _Chooser:
    """From curves to widths, for one target on one network."""

    def __init__(self, target: MeasuredTarget, measuring: Measuring, prices: _Prices) -> None:
        self._target, self._prices = target, prices
        self._logger, self._round_to = measuring.logger, measuring.section.round_to
        self._sizes = {group.name: group.size for group in measuring.network.graph.groups}

    def search(self, curves: Mapping[str, Curve]) -> Search:
        """A search over these curves, with what widths cost by all that is known now."""
        return Search(curves, self._sizes, self._target.cost(self._prices), self._round_to)

    def choose(self, curves: Mapping[str, Curve]) -> Decision:
        """Widths for these curves; says before what other targets would cost.

        Raises:
            OutOfReach: the curves do not hold that much.
        """
        search = self.search(curves)
        rows = feasibility(search)
        for line in feasibility_table(rows, self._target.counted):
            self._logger.info(line)
        if self._target.timed:
            decision = self._choose_measured(curves)
        else:
            decision = Decision(self._target.widths(search))
        if all(width >= self._sizes[name] for name, width in decision.widths.items()):
            return replace(decision, feasibility=rows, problem=self._nothing(curves))
        self._say_if_missed(decision)
        return replace(decision, feasibility=rows)

    def _nothing(self, curves: Mapping[str, Curve]) -> PruneError:
        """What to say of a target that these curves give no channel."""

        def widths(value: Value, round_to: int) -> dict[str, int]:
            cost = self._target.cost(self._prices)
            other = replace(self._target, value=cast(float, value))
            return other.widths(Search(curves, self._sizes, cost, round_to))

        return prunes_nothing(
            widths, self._sizes, self._target.key, self._target.value, self._round_to
        )

    def _choose_measured(self, curves: Mapping[str, Curve]) -> Decision:
        """Widths that are measured to keep a budget of milliseconds."""
        latency = self._prices.latency
        tried: list[tuple[float, Decision]] = []
        for _ in range(_LATENCY_ROUNDS):
            try:
                widths = self._target.widths(self.search(curves))
            except OutOfReach:
                # What was measured says that the prediction had promised too much.
                if not tried or min(missed for missed, _ in tried) > NEAR:
                    raise
                break
            whole = {**self._sizes, **widths}
            if any(widths == known.widths for _, known in tried):
                break
            timed = Latency(latency.before, latency(whole), latency.achieved(whole), latency.how)
            self._logger.info(f"prune: {latency_line(timed)}")
            found = Decision(widths, latency=timed, latency_table=latency.path)
            tried.append((self._target.missed_by(timed.pruned), found))
            if tried[-1][0] <= NEAR:
                break
            latency.correct(whole)
        return min(tried, key=lambda attempt: attempt[0])[1]

    def _say_if_missed(self, decision: Decision) -> None:
        if decision.latency is not None:
            removed, found = decision.latency.pruned, "choice that was measured saves"
        else:
            found = "that these layers allow is"
            cost = self._target.cost(self._prices)
            removed = 1 - cost({**self._sizes, **decision.widths}) / cost(self._sizes)
        if self._target.missed_by(removed) > NEAR:
            self._logger.warning(
                f"prune: {self._target.key} is {self._target.value:g}; the nearest {found} "
                f"{removed:.3f}"
            )
