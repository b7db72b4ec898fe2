"""At which widths an operation is measured, and what it takes between them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

# Engines work on blocks of 8 or 16 channels: between multiples of 8 nothing is to be seen.
_BLOCK = 8

Times = Callable[[tuple[int, ...]], float]
"""Milliseconds of an operation with so many channels."""

_Line = tuple[Sequence[int], Sequence[float]]


def points(low: int, high: int, most: int, multiple: int = 1) -> list[int]:
    """Up to ``most`` widths between two, both included, multiples of 8 where possible."""
    found = {low, high}
    blocks = list(range((low // _BLOCK + 1) * _BLOCK, high, _BLOCK))
    inner = max(most - len(found), 0)
    if len(blocks) > inner:
        step = (len(blocks) + 1) / (inner + 1)
        blocks = [blocks[min(round(step * (k + 1)) - 1, len(blocks) - 1)] for k in range(inner)]
    found.update(width for width in blocks if width % multiple == 0)
    return sorted(found)


class Interpolated:
    """Time as a function of one or two numbers of channels.

    Along the last (the outputs of a convolution) as measured, stairs included; along the inputs
    straight lines, steeper or flatter with the outputs. Measured are the first line at all
    inputs, the second at all outputs, and the corner where both are few.
    """

    def __init__(
        self, time: Times, low: Sequence[int], high: Sequence[int], most: int, multiple: int = 1
    ) -> None:
        """Measure with ``time`` between ``low`` and ``high``, at up to ``most`` widths."""
        outputs = points(low[-1], high[-1], most, multiple)
        self._cache: dict[tuple[int, ...], float] = {}
        if len(high) == 1:
            self._outputs: _Line = (outputs, [time((width,)) for width in outputs])
            self._inputs: _Line = ((), ())
            return
        self._outputs = (outputs, [time((high[0], width)) for width in outputs])
        inputs = points(low[0], high[0], 2 if most <= 2 else 4, multiple)
        self._inputs = (inputs, [time((width, high[1])) for width in inputs])
        full = self._inputs[1][-1]
        # What fewer inputs save at few outputs, compared with what they save at all outputs.
        saved = full - self._inputs[1][0]
        corner = self._outputs[1][0] - time((low[0], low[1]))
        self._corner = min(max(corner / saved, 0.0), 1.0) if saved > 0 else 1.0
        self._low, self._high = low[1], high[1]

    def __call__(self, sizes: tuple[int, ...]) -> float:
        """Milliseconds."""
        found = self._cache.get(sizes)
        if found is None:
            found = self._cache[sizes] = self._time(sizes)
        return found

    def _time(self, sizes: tuple[int, ...]) -> float:
        time = _at(self._outputs, sizes[-1])
        if len(sizes) == 1:
            return time
        saved = self._inputs[1][-1] - _at(self._inputs, sizes[0])
        span = self._high - self._low
        place = (sizes[1] - self._low) / span if span else 1.0
        share = self._corner + (1 - self._corner) * min(max(place, 0.0), 1.0)
        return max(time - saved * share, 0.0)


def _at(line: _Line, x: int) -> float:
    xs, ys = line
    k = min(max(bisect_right(xs, x), 1), len(xs) - 1)
    if len(xs) == 1:
        return ys[0]
    x0, x1 = xs[k - 1], xs[k]
    return ys[k - 1] + (ys[k] - ys[k - 1]) * (x - x0) / (x1 - x0)
