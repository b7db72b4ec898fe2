"""What says how much to prune: one object for each of the section's targets.

A target knows its key and value, what it counts, what has to be measured for it, and how widths
follow from what was measured.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from ..graph.groups import ChannelGroup
from ..section import PruneSection
from .budget import widths_by_budget, widths_by_max_loss
from .costs import Cost
from .rounding import width_for_ratio
from .search import Search
from .uniform import ratio_of

# How much loss a layer may show by itself before a budget stops looking at it; each next one is
# used only where the ones before do not leave enough to prune.
_STOP_LOSSES = (0.3, 0.7, float("inf"))
# The same before them where losses are distances of outputs: these are squares, of which a whole
# network is good for some hundredths before it is of no use.
_STOP_DISTANCE = 0.03

FLOPS, PARAMETERS, LATENCY = "FLOPs", "parameters", "latency"


class Prices(Protocol):
    """What any widths of one network cost, in what targets count."""

    def flops(self) -> Cost:
        """Multiply-accumulates, exact."""

    def params(self) -> Cost:
        """Trainable numbers, exact."""

    def milliseconds(self) -> Cost:
        """Latency on this machine, predicted from measurements."""


@dataclass(frozen=True)
class Depth:
    """How deep a layer is measured: until its loss exceeds ``bound``. With ``curve`` the losses up
    to there are wanted, without it only that they are below."""

    bound: float
    curve: bool


@dataclass(frozen=True)
class Target:
    """``key`` is its name in the section, ``counted`` what it counts, in words; ``timed`` whether
    that is only predicted, so that what is chosen has to be measured."""

    key: ClassVar[str]
    counted: ClassVar[str] = FLOPS
    timed: ClassVar[bool] = False


@dataclass(frozen=True)
class Ratio(Target):
    """A share of every group's channels, or one for each layer-name pattern: nothing to measure."""

    key: ClassVar[str] = "ratio"
    value: float | Mapping[str, float]

    def widths(self, groups: Sequence[ChannelGroup], round_to: int) -> dict[str, int]:
        """Group name → channels kept."""
        return {
            group.name: width_for_ratio(group.size, ratio_of(group, self.value), round_to)
            for group in groups
        }


@dataclass(frozen=True)
class MeasuredTarget(Target, ABC):
    """A target for which the sensitivity of every group is measured."""

    value: float

    def cost(self, prices: Prices) -> Cost:
        """What this target counts, for any widths."""
        return prices.flops()

    @abstractmethod
    def depths(self, stop_loss: float | None, distances: bool = False) -> tuple[Depth, ...]:
        """How deep to measure, and how much deeper where that is not enough.

        Args:
            stop_loss: ``Prune.sensitivity.stop_loss``, None where the user leaves it to the target.
            distances: whether losses are distances of outputs.
        """

    @abstractmethod
    def widths(self, search: Search) -> dict[str, int]:
        """Group name → channels kept, for the curves that the search is about.

        Raises:
            OutOfReach: the curves, as far as they were measured, do not hold that much.
        """

    def missed_by(self, removed: float) -> float:
        """How far a choice that removes this share of what is counted is from the value."""
        return 0.0


@dataclass(frozen=True)
class MaxLoss(MeasuredTarget):
    """The loss that every group may cost by itself."""

    key: ClassVar[str] = "max_loss"

    def depths(self, stop_loss: float | None, distances: bool = False) -> tuple[Depth, ...]:
        return (Depth(self.value, curve=False),)

    def widths(self, search: Search) -> dict[str, int]:
        return widths_by_max_loss(search.curves, search.sizes, self.value, search.round_to)


@dataclass(frozen=True)
class Budget(MeasuredTarget):
    """A share of what the whole network costs."""

    def depths(self, stop_loss: float | None, distances: bool = False) -> tuple[Depth, ...]:
        automatic = (_STOP_DISTANCE, *_STOP_LOSSES) if distances else _STOP_LOSSES
        bounds = automatic if stop_loss is None else (stop_loss,)
        return tuple(Depth(bound, curve=True) for bound in bounds)

    def widths(self, search: Search) -> dict[str, int]:
        return widths_by_budget(search, self.value, self.key)

    def missed_by(self, removed: float) -> float:
        return abs(removed - self.value)


@dataclass(frozen=True)
class PrunedFlops(Budget):
    """A share of the FLOPs."""

    key: ClassVar[str] = "pruned_flops"


@dataclass(frozen=True)
class PrunedParams(Budget):
    """A share of the parameters."""

    key: ClassVar[str] = "pruned_params"
    counted: ClassVar[str] = PARAMETERS

    def cost(self, prices: Prices) -> Cost:
        return prices.params()


@dataclass(frozen=True)
class PrunedLatency(Budget):
    """A share of the milliseconds that one run takes."""

    key: ClassVar[str] = "pruned_latency"
    counted: ClassVar[str] = LATENCY
    timed: ClassVar[bool] = True

    def cost(self, prices: Prices) -> Cost:
        return prices.milliseconds()


_TARGETS: tuple[type[Ratio] | type[MeasuredTarget], ...] = (
    Ratio,
    MaxLoss,
    PrunedFlops,
    PrunedParams,
    PrunedLatency,
)


def target_of(section: PruneSection) -> Ratio | MeasuredTarget:
    """The target of an enabled section; raises :class:`PruneError` where it has none."""
    key, value = section.target
    (kind,) = (kind for kind in _TARGETS if kind.key == key)
    return kind(value)  # type: ignore[arg-type]  # the section's check
