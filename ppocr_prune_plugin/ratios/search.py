"""The search for widths that keep a budget where it hurts least."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from .costs import Cost, IntArray
from .curves import Curve
from .rounding import width_for_ratio, widths

# Where measured losses cannot tell two steps apart, many shallow cuts are safer than one deep one.
_DEPTH_PENALTY = 0.005

# Of the whole cost: so far from its target a budget may land without a word.
NEAR = 0.01

Floats = npt.NDArray[np.float64]
Places = dict[str, int]
"""Group name → which of the widths that it may have, 0 for the widest."""


class Search:
    """Looks for widths of some groups of a network, for one budget after another.

    Args:
        curves: group name → curve; only these groups are pruned.
        sizes: group name → channels, of every group.
        cost: of any widths; those chosen are never narrower than others that cost no more.
        round_to: as in the section.
    """

    def __init__(
        self, curves: Mapping[str, Curve], sizes: Mapping[str, int], cost: Cost, round_to: int
    ) -> None:
        self.curves, self.sizes, self.round_to = curves, sizes, round_to
        self._options: dict[str, list[int]] = {}
        self._losses: dict[str, list[float]] = {}
        prices: dict[str, Floats] = {}
        for name, curve in curves.items():
            deepest = curve.ratios[-1] if curve.ratios else 0.0
            allowed = [
                width
                for width in widths(sizes[name], round_to)
                if 1 - width / sizes[name] <= deepest + 1e-9
            ]
            ratios = 1 - np.asarray(allowed) / sizes[name]
            losses = curve.loss(ratios)
            self._options[name] = allowed
            self._losses[name] = losses.tolist()
            prices[name] = losses + _DEPTH_PENALTY * ratios**2
        self._trials = _Trials(cost, sizes, self._options, prices)
        self._before = self._trials.current
        narrowest = {name: len(options) - 1 for name, options in self._options.items()}
        self._least = self._widened(narrowest)[1]

    @property
    def most(self) -> float:
        """The largest share of the cost that can go."""
        return 1 - self._least / self._before

    def spend(self, share: float) -> dict[str, int]:
        """Widths that remove a share of the cost, :attr:`most` at most, where it hurts least.

        A steepest descent on the exact cost: again and again the step that saves most for the loss
        it adds, then a last step that lands nearest to the target; compared with the one-threshold
        rule (the same loss allowed to every group), and the better of the two is taken.
        """
        target, slack = self._before * (1 - share), NEAR * self._before
        found = [self._widened(self._greedy(target)), self._widened(self._threshold(target))]
        near = min(abs(cost - target) for _, cost in found)
        if near > slack:  # the last step was a large one: get there with smaller ones
            found.append(self._widened(self._greedy(target, target - slack)))
            near = min(near, abs(found[-1][1] - target))
        tolerance = max(near, slack)
        best, _ = min(
            ((places, cost) for places, cost in found if abs(cost - target) <= tolerance),
            key=lambda one: (self._loss(one[0]), one[1]),
        )
        return {name: self._options[name][place] for name, place in best.items()}

    def _loss(self, places: Places) -> float:
        """Predicted loss: the sum over the groups, each measured by itself."""
        return sum(self._losses[name][place] for name, place in places.items())

    def _greedy(self, target: float, floor: float = -np.inf) -> Places:
        """Step by step to the target; no step goes below the floor."""
        trials = self._trials
        trials.go_to(dict.fromkeys(self._options, 0))
        while trials.current > target:
            step = trials.cheapest(target, floor)
            if step is None:
                break
            trials.take(*step)
        # Undo steps that the target does not need: the most costly first.
        allowed = target + 0.002 * self._before
        while (name := trials.dearest(allowed)) is not None:
            trials.take(name, trials.places[name] - 1)
        return dict(trials.places)

    def _threshold(self, target: float) -> Places:
        """One loss for all groups, by bisection, as PaddleSlim's ``get_ratios_by_sensitive``."""
        low, high = 0.0, max((max(losses) for losses in self._losses.values()), default=0.0)
        for _ in range(40):
            middle = (low + high) / 2
            if self._trials.cost_of(self._by_loss(middle)) > target:
                low = middle
            else:
                high = middle
        return self._by_loss(high)

    def _by_loss(self, loss: float) -> Places:
        chosen = {}
        for name, curve in self.curves.items():
            width = width_for_ratio(self.sizes[name], curve.largest_ratio(loss), self.round_to)
            options = self._options[name]
            chosen[name] = options.index(max(width, options[-1]))
        return chosen

    def _widened(self, places: Places) -> tuple[Places, int]:
        """The same with every group as wide as it can be for no more cost, and what that is."""
        trials = self._trials
        trials.go_to(places)
        grown = True
        while grown:  # ends: widths only grow
            grown = False
            for name in self._options:
                wider = trials.widest_for_free(name)
                if wider is not None:
                    trials.take(name, wider)
                    grown = True
        return dict(trials.places), trials.current


class _Trials:
    """Where the search stands, and what every other width of every group would change.

    ``places`` are the present widths, ``current`` is their cost. After a step only the parts of
    the cost that the group is in are computed again.
    """

    def __init__(
        self,
        cost: Cost,
        sizes: Mapping[str, int],
        options: Mapping[str, list[int]],
        prices: Mapping[str, Floats],
    ) -> None:
        self.places: Places = dict.fromkeys(options, 0)
        self._cost, self._widths = cost, dict(sizes)
        self._options = {name: np.asarray(found, np.int64) for name, found in options.items()}
        # All options in one row, by group name: of equal steps the first is taken.
        self._names = sorted(options)
        lengths = [len(options[name]) for name in self._names]
        ends = np.cumsum(lengths)
        self._span = {
            name: slice(int(end) - length, int(end))
            for name, end, length in zip(self._names, ends, lengths, strict=True)
        }
        self._group = np.repeat(np.arange(len(lengths)), lengths)
        self._place = np.concatenate([np.arange(length) for length in lengths])
        self._price = np.concatenate([prices[name] for name in self._names])
        self._here = np.zeros(len(self._place), np.int64)  # the group's place now
        self._paid = np.empty(len(self._place))  # the price of that
        self._change = np.empty(len(self._place), np.int64)
        self._inside = [sorted(part.groups & options.keys()) for part in cost.parts]
        self._parts: dict[str, list[int]] = {name: [] for name in options}
        for number, inside in enumerate(self._inside):
            for name in inside:
                self._parts[name].append(number)
        # What each part costs with each width of each group that it is about.
        self._along: dict[str, dict[int, IntArray]] = {name: {} for name in options}
        self.current = cost.total(sizes)
        for number in range(len(cost.parts)):
            self._price_part(number)
        for name in options:
            self._settle(name)

    def cost_of(self, places: Places) -> int:
        """The cost of other widths; the search stays where it is."""
        chosen = {name: int(self._options[name][place]) for name, place in places.items()}
        return self._cost.total({**self._widths, **chosen})

    def take(self, name: str, place: int) -> None:
        """Give one group another width."""
        self.go_to({name: place})

    def go_to(self, places: Places) -> None:
        """Give groups other widths."""
        moved = [name for name, place in places.items() if place != self.places[name]]
        touched = sorted({number for name in moved for number in self._parts[name]})
        before = sum(self._part_now(number) for number in touched)
        for name in moved:
            self.places[name] = places[name]
            self._widths[name] = int(self._options[name][places[name]])
        for number in touched:
            self._price_part(number)
        self.current += sum(self._part_now(number) for number in touched) - before
        for name in {*moved, *(name for number in touched for name in self._inside[number])}:
            self._settle(name)

    def _price_part(self, number: int) -> None:
        part = self._cost.parts[number]
        for name in self._inside[number]:
            self._along[name][number] = part.along(self._widths, name, self._options[name])

    def _part_now(self, number: int) -> int:
        name = self._inside[number][0]
        return int(self._along[name][number][self.places[name]])

    def _settle(self, name: str) -> None:
        """What each width of a group would change."""
        span, place = self._span[name], self.places[name]
        whole = sum(self._along[name].values(), np.zeros(len(self._options[name]), np.int64))
        self._change[span] = whole - whole[place]
        self._here[span] = place
        self._paid[span] = self._price[span.start + place]

    def cheapest(self, target: float, floor: float) -> tuple[str, int] | None:
        """The deeper cut, not below the floor, that saves most for the loss it adds."""
        saved = -self._change
        allowed = (self._place > self._here) & (saved > 0) & (self.current - saved >= floor)
        steps = np.flatnonzero(allowed)
        if not steps.size:
            return None
        saved = saved[steps]
        # Beyond the target nothing more is gained.
        score = (self._price - self._paid)[steps] / np.minimum(saved, self.current - target)
        best = score == score.min()
        best &= saved == saved[best].max()
        step = steps[np.flatnonzero(best)[0]]
        return self._names[self._group[step]], int(self._place[step])

    def dearest(self, allowed: float) -> str | None:
        """The group whose last step added most, of those that the cost allows to take it back."""
        best: tuple[float, str] | None = None
        for name, place in self.places.items():
            at = self._span[name].start + place
            if place and self.current + self._change[at - 1] <= allowed:
                gain = float(self._price[at] - self._price[at - 1])
                if best is None or (gain, name) > best:
                    best = gain, name
        return None if best is None else best[1]

    def widest_for_free(self, name: str) -> int | None:
        """The widest place, wider than the group's own, that costs no more."""
        start = self._span[name].start
        free = np.flatnonzero(self._change[start : start + self.places[name]] <= 0)
        return int(free[0]) if free.size else None
