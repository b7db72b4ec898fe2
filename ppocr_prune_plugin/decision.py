"""How wide every group will be: what the section's target, what was measured, and what widths cost
say together."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from . import surgery
from .graph.groups import ChannelGroup
from .latency.model import NetworkLatency
from .measuring import Measuring
from .network import Network
from .ratios.budget import NEAR, Cost, Curve, OutOfReach
from .ratios.feasibility import Rows, feasibility
from .ratios.rounding import narrowest
from .ratios.targets import MeasuredTarget
from .report.data import Latency
from .report.lines import feasibility_table, latency_line
from .section import PruneSection
from .sensitivity.store import SensitivityFile

# A latency is predicted, then measured; the search is repeated with what that taught.
_LATENCY_ROUNDS = 4


@dataclass(frozen=True)
class Decision:
    """What is going to be done, and why.

    ``widths`` are the channels that groups keep, ``baseline`` and ``spread`` the metric of the
    unpruned model and where it would lie on other sets of as many images; ``file`` holds the
    measured curves; ``feasibility`` are rows (share of what the target counts, predicted loss);
    ``latency`` is what was measured of networks of these widths, ``latency_table`` where. All but
    the widths are there only where they were needed.
    """

    widths: Mapping[str, int]
    baseline: float | None = None
    spread: tuple[float, float] | None = None
    file: SensitivityFile | None = None
    feasibility: Rows = ()
    latency: Latency | None = None
    latency_table: Path | None = None

    def predicted_losses(self, groups: Sequence[ChannelGroup]) -> dict[str, float]:
        """What each group's curve says of its new width; nothing where nothing was measured."""
        if self.file is None:
            return {}
        return {
            group.name: float(
                self.file.curve(group.name).loss(
                    1 - self.widths.get(group.name, group.size) / group.size
                )
            )
            for group in groups
        }


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
    file = analysis.file
    with ExitStack() as stack:
        chooser = _Chooser(target, measuring, table, stack)
        chooser.require_reachable()
        *first, last = target.depths(measuring.section.sensitivity.stop_loss)
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
    return replace(decision, baseline=file.baseline, spread=file.spread, file=file)


class _Chooser:
    """From curves to widths, for one target on one network."""

    def __init__(
        self, target: MeasuredTarget, measuring: Measuring, table: Path, stack: ExitStack
    ) -> None:
        self._target = target
        self._section: PruneSection = measuring.section
        self._logger: logging.Logger = measuring.logger
        self._sizes = {group.name: group.size for group in measuring.network.graph.groups}
        self._groups = measuring.groups
        self._table = table
        prices = _Prices(measuring, table, stack)
        self._cost = target.cost(prices)

    def require_reachable(self) -> None:
        """Before hours of measuring: could the target be reached if nothing hurt?"""
        deepest = self._section.sensitivity.ratios[-1]
        harmless = {group.name: Curve((deepest,), (0.0,)) for group in self._groups}
        self._target.require_reachable(harmless, self._sizes, self._cost, self._section.round_to)

    def choose(self, curves: Mapping[str, Curve]) -> Decision:
        """Widths for these curves; says before what other targets would cost.

        Raises:
            OutOfReach: the curves do not hold that much.
        """
        rows = feasibility(curves, self._sizes, self._cost, self._section.round_to)
        for line in feasibility_table(rows, self._target.counted):
            self._logger.info(line)
        if isinstance(self._cost, NetworkLatency):
            decision = self._choose_measured(self._cost, curves)
        else:
            decision = Decision(self._widths(curves))
        self._say_if_missed(decision)
        return replace(decision, feasibility=tuple(rows))

    def _widths(self, curves: Mapping[str, Curve]) -> dict[str, int]:
        return self._target.widths(curves, self._sizes, self._cost, self._section.round_to)

    def _choose_measured(self, latency: NetworkLatency, curves: Mapping[str, Curve]) -> Decision:
        """Widths that are measured to keep a budget of milliseconds."""
        tried: list[tuple[float, Decision]] = []
        for _ in range(_LATENCY_ROUNDS):
            try:
                widths = self._widths(curves)
            except OutOfReach:
                # What was measured says that the prediction had promised too much.
                if not tried or min(distance for distance, _ in tried) > NEAR:
                    raise
                break
            whole = {**self._sizes, **widths}
            timed = Latency(latency.before, latency(whole), latency.achieved(whole), latency.how)
            self._logger.info(f"prune: {latency_line(timed)}")
            if any(widths == known.widths for _, known in tried):
                break
            decision = Decision(widths, latency=timed, latency_table=self._table)
            tried.append((self._target.missed_by(timed.pruned), decision))
            if tried[-1][0] <= NEAR:
                break
            latency.correct(whole)
        return min(tried, key=lambda attempt: attempt[0])[1]

    def _say_if_missed(self, decision: Decision) -> None:
        if decision.latency is not None:
            removed = decision.latency.pruned
        else:
            whole = {**self._sizes, **decision.widths}
            removed = 1 - self._cost(whole) / self._cost(self._sizes)
        if self._target.missed_by(removed) > NEAR:
            self._logger.warning(
                f"prune: {self._target.key} is {self._target.value:g}; the nearest that these "
                f"layers allow is {removed:.3f}"
            )


class _Prices:
    """What widths of the run's network cost."""

    def __init__(self, measuring: Measuring, table: Path, stack: ExitStack) -> None:
        self._measuring, self._table, self._stack = measuring, table, stack
        self._network: Network = measuring.network

    def flops(self) -> Cost:
        network = self._network
        return lambda widths: network.costs.flops(surgery.shapes_after(network.graph, widths))

    def params(self) -> Cost:
        network = self._network
        return lambda widths: network.costs.params(surgery.shapes_after(network.graph, widths))

    def milliseconds(self) -> Cost:
        """Open the latency table and measure what it has not."""
        measuring = self._measuring
        section, logger = measuring.section, measuring.logger
        deepest = section.sensitivity.ratios[-1]
        few = {g.name: narrowest(g.size, deepest, section.round_to) for g in measuring.groups}
        latency = NetworkLatency(self._network, section.latency, few, self._table, logger)
        self._stack.enter_context(latency)
        logger.info(f"prune: the unpruned network takes {latency.before:.4g} ms: {latency.how}")
        return latency
