"""At which widths an operation is measured, and what it takes between them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

# Engines work on blocks of 8 or 16 channels: between multiples of 8 nothing is to be seen.
_BLOCK = 8

Times = Callable[[tuple[int, ...]], float]
"""Milliseconds of an operation with so many channels."""


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
        if len(high) == 1:
            self._by_outputs = _line(outputs, [time((width,)) for width in outputs])
            return
        of_outputs = [time((high[0], width)) for width in outputs]
        self._by_outputs = _line(outputs, of_outputs)
        inputs = points(low[0], high[0], 2 if most <= 2 else 4, multiple)
        of_inputs = [time((width, high[1])) for width in inputs]
        self._saved_by_inputs = of_inputs[-1] - _line(inputs, of_inputs)
        # What fewer inputs save at few outputs, compared with what they save at all outputs.
        saved = of_inputs[-1] - of_inputs[0]
        corner = of_outputs[0] - time((low[0], low[1]))
        least = min(max(corner / saved, 0.0), 1.0) if saved > 0 else 1.0
        span = high[1] - low[1]
        place = (np.arange(high[1] + 1) - low[1]) / span if span else np.ones(high[1] + 1)
        self._share_by_outputs = least + (1 - least) * np.clip(place, 0.0, 1.0)

    def __call__(self, sizes: Sequence[Any]) -> Any:
        """Milliseconds; sizes are numbers, or arrays of one length."""
        time = self._by_outputs[sizes[-1]]
        if len(sizes) == 1:
            return time
        saved = self._saved_by_inputs[sizes[0]] * self._share_by_outputs[sizes[1]]
        return np.maximum(time - saved, 0.0)


def _line(xs: Sequence[int], ys: Sequence[float]) -> Any:
    """Straight from point to point, for every number up to the last; below the first as after."""
    if len(xs) == 1:
        return np.full(xs[0] + 1, ys[0])
    x = np.arange(xs[-1] + 1)
    k = np.clip(np.searchsorted(xs, x, side="right"), 1, len(xs) - 1)
    x0, y0 = np.take(xs, k - 1), np.take(ys, k - 1)
    x1, y1 = np.take(xs, k), np.take(ys, k)
    return y0 + (y1 - y0) * (x - x0) / (x1 - x0)
