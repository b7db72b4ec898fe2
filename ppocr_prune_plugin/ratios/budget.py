"""From sensitivity curves to widths: by the most that a layer may cost, or by a budget."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import PruneError
from .rounding import width_for_ratio, widths

# Where measured losses cannot tell two steps apart, many shallow cuts are safer than one deep one.
_DEPTH_PENALTY = 0.005

# Of the whole cost: so far from its target a budget may land without a word.
NEAR = 0.01

Cost = Callable[[Mapping[str, int]], float]
"""FLOPs, parameters or milliseconds of the network when groups keep that many channels. Need not
fall with every channel removed: some widths run slower than wider ones."""


class OutOfReach(PruneError):
    """The groups cannot give what a target asks for; the message says how much they can."""


@dataclass(frozen=True)
class Curve:
    """Loss of one group as a function of the ratio removed: measured points, rising in ratio."""

    ratios: tuple[float, ...]
    losses: tuple[float, ...]

    def loss(self, ratio: float | npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        """Interpolated from (0, 0) through the points, made monotone first; flat after the last."""
        xs = np.concatenate([[0.0], self.ratios])
        ys = np.maximum.accumulate(np.concatenate([[0.0], self.losses]))
        return np.asarray(np.interp(ratio, xs, ys))

    def largest_ratio(self, loss: float) -> float:
        """The largest measured-or-interpolated ratio whose loss is at most ``loss``."""
        xs = np.concatenate([[0.0], self.ratios])
        ys = np.maximum.accumulate(np.concatenate([[0.0], self.losses]))
        inside = np.flatnonzero(ys <= loss)
        last = int(inside[-1])
        if last == len(xs) - 1:
            return float(xs[-1])
        return float(np.interp(loss, ys[last : last + 2], xs[last : last + 2]))


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


def widths_by_budget(
    curves: Mapping[str, Curve],
    sizes: Mapping[str, int],
    cost: Cost,
    share: float,
    round_to: int,
    key: str,
) -> dict[str, int]:
    """Widths that remove ``share`` of the cost where the curves say it hurts least.

    A steepest-descent search on the exact cost: again and again the step that saves most for the
    loss it adds, then a last step that lands nearest to the target; compared with the one-threshold
    rule (the same loss allowed to every group), and the better of the two is taken.

    Args:
        curves: group name → curve; only these groups are pruned.
        sizes: group name → channels.
        cost: of any widths; those chosen are never narrower than others that cost no more.
        share: of the whole network's cost to remove.
        round_to: as in the section.
        key: name of the target, for the message.

    Raises:
        OutOfReach: more than the groups can give, with the most that they can.
    """
    search = _Search(curves, sizes, cost, round_to)
    before = cost(sizes)
    narrowest = search.widened({name: options[-1] for name, options in search.options.items()})
    most = 1 - cost({**sizes, **narrowest}) / before
    if share > most + 0.005:
        raise OutOfReach(
            f"Prune.{key} is {share:g}, but the layers that can be pruned, cut as far as their "
            f"sensitivity was measured, hold only {most:.3f} of it. Ask for at most "
            f"{int(most * 1000) / 1000:g}, or widen the choice (Prune.skip, Prune.round_to, "
            "Prune.sensitivity.ratios)."
        )
    target = before * (1 - share)
    candidates = [search.widened(search.greedy(target)), search.widened(search.threshold(target))]
    near = min(abs(cost({**sizes, **c}) - target) for c in candidates)
    if near > NEAR * before:  # the last step was a large one: get there with smaller ones
        floor = target - NEAR * before
        candidates.append(search.widened(search.greedy(target, floor)))
        near = min(near, abs(cost({**sizes, **candidates[-1]}) - target))
    tolerance = max(near, NEAR * before)
    return min(
        (c for c in candidates if abs(cost({**sizes, **c}) - target) <= tolerance),
        key=lambda c: (search.loss(c), cost({**sizes, **c})),
    )


class _Search:
    def __init__(
        self,
        curves: Mapping[str, Curve],
        sizes: Mapping[str, int],
        cost: Cost,
        round_to: int,
    ) -> None:
        self.curves, self.sizes, self.cost, self.round_to = curves, sizes, cost, round_to
        self.options: dict[str, list[int]] = {}
        self.losses: dict[str, list[float]] = {}
        for name, curve in curves.items():
            deepest = curve.ratios[-1] if curve.ratios else 0.0
            allowed = [
                width
                for width in widths(sizes[name], round_to)
                if 1 - width / sizes[name] <= deepest + 1e-9
            ]
            self.options[name] = allowed
            ratios = 1 - np.asarray(allowed) / sizes[name]
            self.losses[name] = curve.loss(ratios).tolist()

    def loss(self, chosen: Mapping[str, int]) -> float:
        """Predicted loss: the sum over the groups, each measured by itself."""
        return sum(
            self.losses[name][self.options[name].index(width)] for name, width in chosen.items()
        )

    def greedy(self, target: float, floor: float = -np.inf) -> dict[str, int]:
        """Step by step to the target; no step goes below the floor."""
        place = dict.fromkeys(self.options, 0)
        current = self.cost(self.sizes)
        while current > target:
            best: tuple[float, float, str, int] | None = None
            for name, options in self.options.items():
                for further in range(place[name] + 1, len(options)):
                    trial = self._widths({**place, name: further})
                    saved = current - self.cost(trial)
                    if saved <= 0 or current - saved < floor:
                        continue
                    added = self._price(name, further) - self._price(name, place[name])
                    # Beyond the target nothing more is gained.
                    useful = min(saved, current - target)
                    score = (added / useful, -saved, name, further)
                    if best is None or score < best:
                        best = score
            if best is None:
                break
            place[best[2]] = best[3]
            current = self.cost(self._widths(place))
        return self._give_back(place, target)

    def _give_back(self, place: dict[str, int], target: float) -> dict[str, int]:
        """Undo steps that the target does not need: the most costly first."""
        tolerance = 0.002 * self.cost(self.sizes)
        while True:
            best: tuple[float, str] | None = None
            for name, at in place.items():
                if at == 0:
                    continue
                trial = self._widths({**place, name: at - 1})
                if self.cost(trial) <= target + tolerance:
                    gain = self._price(name, at) - self._price(name, at - 1)
                    if best is None or (gain, name) > best:
                        best = (gain, name)
            if best is None:
                return {name: self.options[name][at] for name, at in place.items()}
            place[best[1]] -= 1

    def widened(self, chosen: Mapping[str, int]) -> dict[str, int]:
        """The same with every group as wide as it can be for no more cost."""
        widths = dict(chosen)
        current = self.cost({**self.sizes, **widths})
        grown = True
        while grown:  # ends: widths only grow
            grown = False
            for name, options in self.options.items():
                for width in options:
                    if width <= widths[name]:
                        break
                    found = self.cost({**self.sizes, **widths, name: width})
                    if found <= current:
                        widths[name], current, grown = width, found, True
                        break
        return widths

    def _price(self, name: str, at: int) -> float:
        ratio = 1 - self.options[name][at] / self.sizes[name]
        return self.losses[name][at] + _DEPTH_PENALTY * ratio**2

    def threshold(self, target: float) -> dict[str, int]:
        """One loss for all groups, by bisection, as PaddleSlim's ``get_ratios_by_sensitive``."""
        low, high = 0.0, max((max(losses) for losses in self.losses.values()), default=0.0)
        for _ in range(40):
            middle = (low + high) / 2
            if self.cost({**self.sizes, **self._by_loss(middle)}) > target:
                low = middle
            else:
                high = middle
        return self._by_loss(high)

    def _by_loss(self, loss: float) -> dict[str, int]:
        chosen = {}
        for name, curve in self.curves.items():
            width = width_for_ratio(self.sizes[name], curve.largest_ratio(loss), self.round_to)
            distances = {option: abs(option - width) for option in self.options[name]}
            chosen[name] = min(distances, key=distances.__getitem__)
        return chosen

    def _widths(self, place: Mapping[str, int]) -> dict[str, int]:
        return {**self.sizes, **{name: self.options[name][at] for name, at in place.items()}}
