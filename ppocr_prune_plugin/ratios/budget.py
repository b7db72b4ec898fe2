"""From sensitivity curves to widths: by the most that a layer may cost, or by a budget."""

from __future__ import annotations

from collections.abc import Mapping

from ..errors import PruneError
from .curves import Curve
from .rounding import widths
from .search import Search


class OutOfReach(PruneError):
    """The groups cannot give what a target asks for; the message says how much they can."""


def widths_by_max_loss(
    curves: Mapping[str, Curve], sizes: Mapping[str, int], max_loss: float, round_to: int
) -> dict[str, int]:
    """For every group by itself the narrowest width that costs no more than ``max_loss``.

    Rounding goes to the wider side, so that the promise holds after it.
    """
    chosen = {}
    for name, curve in curves.items():
        wanted = sizes[name] * (1 - curve.largest_ratio(max_loss))
        # Ratios in files are rounded: a hundredth of a channel is none.
        allowed = [width for width in widths(sizes[name], round_to) if width >= wanted - 0.01]
        chosen[name] = min(allowed)
    return chosen


def widths_by_budget(search: Search, share: float, key: str) -> dict[str, int]:
    """Widths that remove ``share`` of the cost where the curves say it hurts least.

    Args:
        search: over the groups.
        share: of the whole network's cost to remove.
        key: name of the target, for the message.

    Raises:
        OutOfReach: more than the groups can give, with the most that they can.
    """
    if share > search.most + 0.005:
        raise OutOfReach(
            f"Prune.{key} is {share:g}, but the layers that can be pruned, cut as far as their "
            f"sensitivity was measured, hold only {search.most:.3f} of it. Ask for at most "
            f"{int(search.most * 1000) / 1000:g}, or widen the choice (Prune.skip, Prune.round_to, "
            "Prune.sensitivity.ratios)."
        )
    return search.spend(share)
