"""The search for widths the plain way: the cost of the whole network for every trial.

Slow, and plainly what is meant: the search of the package has to choose the same.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ppocr_prune_plugin.ratios.costs import Cost, Part, Size
from ppocr_prune_plugin.ratios.curves import Curve
from ppocr_prune_plugin.ratios.rounding import width_for_ratio, widths

Count = Callable[[Mapping[str, int]], int]

DEPTH_PENALTY, NEAR, TOLERANCE = 0.005, 0.01, 0.002


def cost_of(count: Count, sizes: Mapping[str, int]) -> Cost:
    """Any function of widths as a cost of one part."""
    return Cost(0, (Part(tuple(Size(0, ((name, 1),)) for name in sizes), _Each(count, sizes)),))


@dataclass(frozen=True)
class _Each:
    count: Count
    sizes: Mapping[str, int]

    def __call__(self, sizes: tuple[Any, ...]) -> Any:
        rows = np.broadcast_arrays(*sizes)
        found = [
            self.count(dict(zip(self.sizes, map(int, row), strict=True)))
            for row in zip(*(np.atleast_1d(array) for array in rows), strict=True)
        ]
        return np.asarray(found) if rows[0].ndim else found[0]


@dataclass
class PlainSearch:
    curves: Mapping[str, Curve]
    sizes: Mapping[str, int]
    count: Count
    round_to: int
    evaluations: int = 0

    def __post_init__(self) -> None:
        self.options = {
            name: [
                width
                for width in widths(self.sizes[name], self.round_to)
                if 1 - width / self.sizes[name] <= curve.ratios[-1] + 1e-9
            ]
            for name, curve in self.curves.items()
        }

    def cost(self, chosen: Mapping[str, int]) -> int:
        self.evaluations += 1
        return self.count({**self.sizes, **chosen})

    def loss(self, chosen: Mapping[str, int]) -> float:
        return sum(self._loss(name, width) for name, width in chosen.items())

    def _loss(self, name: str, width: int) -> float:
        return float(self.curves[name].loss(1 - width / self.sizes[name]))

    def _price(self, name: str, width: int) -> float:
        return self._loss(name, width) + DEPTH_PENALTY * (1 - width / self.sizes[name]) ** 2

    def spend(self, share: float) -> dict[str, int]:
        before = self.cost({})
        target, slack = before * (1 - share), NEAR * before
        found = [self._widened(self.greedy(target)), self._widened(self.threshold(target))]
        near = min(abs(self.cost(c) - target) for c in found)
        if near > slack:
            found.append(self._widened(self.greedy(target, target - slack)))
            near = min(near, abs(self.cost(found[-1]) - target))
        allowed = [c for c in found if abs(self.cost(c) - target) <= max(near, slack)]
        return min(allowed, key=lambda c: (self.loss(c), self.cost(c)))

    def greedy(self, target: float, floor: float = -np.inf) -> dict[str, int]:
        chosen = {name: options[0] for name, options in self.options.items()}
        while (current := self.cost(chosen)) > target:
            scores = []
            for name, options in self.options.items():
                for width in (w for w in options if w < chosen[name]):
                    saved = current - self.cost({**chosen, name: width})
                    if saved > 0 and current - saved >= floor:
                        added = self._price(name, width) - self._price(name, chosen[name])
                        useful = min(saved, current - target)
                        scores.append((added / useful, -saved, name, -width))
            if not scores:
                break
            *_, name, width = min(scores)
            chosen[name] = -width
        allowed = target + TOLERANCE * self.cost({})
        while True:
            back = []
            for name, options in self.options.items():
                at = options.index(chosen[name])
                if at and self.cost({**chosen, name: options[at - 1]}) <= allowed:
                    gain = self._price(name, options[at]) - self._price(name, options[at - 1])
                    back.append((gain, name, options[at - 1]))
            if not back:
                return chosen
            _, name, wider = max(back)
            chosen[name] = wider

    def threshold(self, target: float) -> dict[str, int]:
        low, high = 0.0, max(float(max(c.loss(np.asarray(c.ratios)))) for c in self.curves.values())
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (
                (middle, high) if self.cost(self._by_loss(middle)) > target else (low, middle)
            )
        return self._by_loss(high)

    def _by_loss(self, loss: float) -> dict[str, int]:
        chosen = {}
        for name, curve in self.curves.items():
            wanted = width_for_ratio(self.sizes[name], curve.largest_ratio(loss), self.round_to)
            chosen[name] = min(self.options[name], key=lambda option: abs(option - wanted))
        return chosen

    def _widened(self, chosen: Mapping[str, int]) -> dict[str, int]:
        result, grown = dict(chosen), True
        while grown:
            grown = False
            for name, options in self.options.items():
                current = self.cost(result)
                for width in (w for w in options if w > result[name]):
                    if self.cost({**result, name: width}) <= current:
                        result[name], grown = width, True
                        break
        return result
