"""A target that prunes nothing: which value of which key would prune something."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from ..errors import PruneError

Value = float | Mapping[str, float]
Widths = Callable[[Value, int], Mapping[str, int]]

_MOST = 0.99
_STEPS = 12  # of a bisection between a number and its double: three digits


def prunes_nothing(
    widths: Widths, sizes: Mapping[str, int], key: str, value: Value, round_to: int
) -> PruneError:
    """What to say of a target that leaves every group as wide as it is.

    Args:
        widths: group name → channels kept, for any value of the target and any ``round_to``.
        sizes: group name → channels.
        key: the target's name in the section.
        value: its value.
        round_to: as in the section.
    """

    def prunes(tried: Value, rounding: int) -> bool:
        try:
            return any(width < sizes[name] for name, width in widths(tried, rounding).items())
        except PruneError:  # more than there is
            return False

    shown = dict(value) if isinstance(value, Mapping) else f"{value:g}"
    ways = [*_larger(prunes, key, value, round_to), *_finer(prunes, value, round_to)]
    return PruneError(
        f"Prune.{key} is {shown}, which prunes nothing. "
        + (f"The nearest that does: {', or '.join(ways)}. " if ways else "Ask for more. ")
        + "To train the network as it is, set Prune.enable=false."
    )


def _larger(
    prunes: Callable[[Value, int], bool], key: str, value: Value, round_to: int
) -> list[str]:
    """The least larger value that prunes, as it is written in a section."""
    if not isinstance(value, Mapping):
        found = _least(lambda tried: prunes(tried, round_to), value)
        return [] if found is None else [f"Prune.{key}={found:g}"]
    least: dict[str, float] = {}
    for pattern in value:

        def changed(tried: float, pattern: str = pattern) -> bool:
            return prunes({**value, pattern: tried}, round_to)

        found = _least(changed, value[pattern])
        if found is not None:
            least[pattern] = found
    if not least:
        return []
    pattern = min(least, key=lambda name: least[name])
    return [f'Prune.{key}["{pattern}"]={least[pattern]:g}']


def _finer(prunes: Callable[[Value, int], bool], value: Value, round_to: int) -> list[str]:
    """The largest smaller rounding that lets the same value prune."""
    return next(
        (
            [f"Prune.round_to={rounding}"]
            for rounding in range(round_to - 1, 0, -1)
            if prunes(value, rounding)
        ),
        [],
    )


def _least(prunes: Callable[[float], bool], value: float) -> float | None:
    """The least value above ``value`` that prunes, to three digits; None where none does."""
    low, high = value, max(2 * value, 1e-4)
    while not prunes(high):
        if high >= _MOST:
            return None
        low, high = high, min(2 * high, _MOST)
    for _ in range(_STEPS):
        middle = (low + high) / 2
        low, high = (low, middle) if prunes(middle) else (middle, high)
    unit = 10.0 ** (math.floor(math.log10(high)) - 2)
    shown = float(f"{math.ceil(high / unit) * unit:.3g}")  # upwards: it has to prune
    return shown if prunes(shown) else high
