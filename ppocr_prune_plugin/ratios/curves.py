"""Loss as a function of the ratio removed."""

from __future__ import annotations

import functools
from bisect import bisect_right
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True)
class Curve:
    """Loss of one group as a function of the ratio removed: measured points, rising in ratio."""

    ratios: tuple[float, ...]
    losses: tuple[float, ...]

    def loss(self, ratio: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Interpolated from (0, 0) through the points, made monotone first; flat after the last."""
        return np.asarray(np.interp(ratio, *self._knots))

    def largest_ratio(self, loss: float) -> float:
        """The largest measured-or-interpolated ratio whose loss is at most ``loss``."""
        xs, ys = self._knots
        last = bisect_right(ys, loss) - 1
        if last == len(xs) - 1:
            return xs[-1]
        slope = (xs[last + 1] - xs[last]) / (ys[last + 1] - ys[last])
        return slope * (loss - ys[last]) + xs[last]

    @functools.cached_property
    def _knots(self) -> tuple[list[float], list[float]]:
        losses = np.maximum.accumulate([0.0, *self.losses])
        return [0.0, *self.ratios], losses.tolist()
