"""How many images a point needs: a sequential test, by bootstrap over images.

The question is always about the metric on the *whole* evaluation set. After some units of images
the unseen ones are filled in by Pólya's urn from those seen (the Bayesian bootstrap for finite
populations: Lo, Annals of Statistics 16, 1988), many times; the spread of the losses that come out
says how sure the answer is. The unpruned and the pruned network see the same images. Where the
answer is open, some more images are looked at, in the end all of them.

Who looks often is misled more often. How many deviations an estimate may be off at *any* of the
looks follows from how its error shrinks from look to look (Pocock's boundary, Biometrika 64, 1977,
here for a finite set, where the error ends at nothing).

Texts that are hurt seldom may not have been seen at all, and a bootstrap knows nothing of them.
Before a loss counts as *below* a bound, so many texts must have been seen that the share of hurt
ones, were it as high as the bound, would have shown ("rule of three").
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from .spill import ArrayStore

CONFIDENCE = 0.99
_FIRST_LOOK = 16  # units
_NEXT_LOOK = 2**0.5  # times the units of the look before
_DRAWS = 200
_PATHS = 50_000  # errors simulated for the boundary

# A curve is known well enough where its error is below this loss, or this part of the loss.
_TOLERANCE, _RELATIVE_TOLERANCE = 0.005, 0.1


@dataclass(frozen=True)
class Figures:
    """A value of the main metric, and by name what was counted beside it."""

    metric: float
    beside: Mapping[str, float] = field(default_factory=dict)


class Evaluation(Protocol):
    """Evaluates the live model on a fixed set of images, in units of one or a few images.

    ``metric`` is the name of the main metric, higher is better; ``images`` the number of images;
    ``data`` tells one set from another; ``sizes`` the images of each unit; ``current`` is the unit
    that is going through the model, and ``activations`` takes what may be kept of it.
    """

    metric: str
    images: int
    data: str
    sizes: Sequence[int]
    current: int | None
    activations: ArrayStore

    def __call__(self) -> float:
        """The metric on the whole set."""

    def figures(self) -> Figures:
        """The metric on the whole set, and what is counted beside it."""
        return Figures(self())

    def baseline(self) -> float:
        """The metric of the unpruned model, which must be live at the first call."""

    def beside(self) -> Mapping[str, float]:
        """What was counted beside that."""
        return {}

    def unpruned(self) -> list[Any] | None:
        """What each unit adds to the metric of the unpruned model; None where the metric is not
        made of such parts."""

    def states(self, units: Sequence[int]) -> list[Any]:
        """What each of these units adds to the metric of the live model."""

    def outputs(self, unit: int) -> Any:
        """What the live model answers to one unit."""

    def combined(self, states: Sequence[Any], counts: Sequence[int]) -> float:
        """The metric of units with these states, each taken as often as ``counts`` says."""


@dataclass(frozen=True)
class Question:
    """What is asked of a loss: whether it exceeds ``bound``, and where it does not, its value
    (``curve``) within the tolerance."""

    bound: float
    curve: bool

    def answered(self, loss: float, low: float, high: float) -> bool:
        """Whether an interval of confidence is an answer."""
        if low > self.bound:
            return True
        tolerance = max(_TOLERANCE, _RELATIVE_TOLERANCE * loss)
        return high <= self.bound and (not self.curve or (high - low) / 2 <= tolerance)


@dataclass(frozen=True)
class Measured:
    """A loss, the metric behind it, the images it was taken on, and two bounds: with a confidence
    of :data:`CONFIDENCE` each, the loss on the whole set is not below ``low``, nor above ``high``.
    """

    loss: float
    metric: float
    images: int
    low: float
    high: float


class SequentialTest:
    """Measures losses of the live, pruned model on as few images as the question allows.

    Args:
        evaluation: evaluates it.
        baseline: the metric of the unpruned model on the whole set.
        exact: look at the whole set always. Otherwise the unpruned model must be live now.
    """

    def __init__(self, evaluation: Evaluation, baseline: float, exact: bool) -> None:
        self._evaluation, self._baseline = evaluation, baseline
        total = len(evaluation.sizes)
        self._unpruned = None if exact or total <= _FIRST_LOOK else evaluation.unpruned()
        self._order = np.random.default_rng(0).permutation(total).tolist()
        self._looks = _looks(total)

    def measure(self, question: Question) -> Measured:
        """Measure the live model."""
        if self._unpruned is None:
            return self._whole(self._evaluation())
        states: list[Any] = []
        for look in self._looks:
            states += self._evaluation.states(self._order[len(states) : look])
            if look == len(self._order):
                break
            measured = self._estimate(states)
            if question.answered(measured.loss, measured.low, measured.high):
                return measured
        return self._whole(self._evaluation.combined(states, [1] * len(states)))

    def _whole(self, metric: float) -> Measured:
        loss = (self._baseline - metric) / self._baseline
        loss = loss if math.isfinite(loss) else 1.0
        return Measured(loss, metric, self._evaluation.images, loss, loss)

    def _estimate(self, states: Sequence[Any]) -> Measured:
        seen, combined = len(states), self._evaluation.combined
        ones = [1] * seen
        metric = combined(states, ones)
        before = combined(self._seen_unpruned(seen), ones)
        loss = _loss(before, metric)
        draws = [
            _loss(unpruned, combined(states, counts))
            for counts, unpruned in zip(self._counts(seen), self._unpruned_draws(seen), strict=True)
        ]
        width = _boundary(tuple(self._looks)) * float(np.std(draws))
        unseen = -math.log(1 - CONFIDENCE) * self._text * (len(self._order) - seen) / seen
        images = sum(self._evaluation.sizes[unit] for unit in self._order[:seen])
        return Measured(loss, metric, images, loss - width, loss + max(width, unseen))

    def _seen_unpruned(self, seen: int) -> list[Any]:
        assert self._unpruned is not None
        return [self._unpruned[unit] for unit in self._order[:seen]]

    @functools.lru_cache(maxsize=32)  # noqa: B019 - one object per analysis
    def _counts(self, seen: int) -> list[list[int]]:
        """How often each seen unit stands for one of the whole set, draw by draw."""
        random = np.random.default_rng(seen)
        shares = random.dirichlet(np.ones(seen), _DRAWS)
        rest = len(self._order) - seen
        return [(1 + random.multinomial(rest, share)).tolist() for share in shares]

    @functools.lru_cache(maxsize=32)  # noqa: B019 - one object per analysis
    def _unpruned_draws(self, seen: int) -> list[float]:
        states = self._seen_unpruned(seen)
        return [self._evaluation.combined(states, counts) for counts in self._counts(seen)]

    @functools.cached_property
    def _text(self) -> float:
        """What losing one text costs: the largest loss from one less in any count of a unit's."""
        assert self._unpruned is not None
        ones = [1] * len(self._unpruned)
        losses: list[float] = []
        first = self._order[0]
        for changed in _one_less(self._unpruned[first]):
            states = [*self._unpruned[:first], changed, *self._unpruned[first + 1 :]]
            losses.append(_loss(self._baseline, self._evaluation.combined(states, ones)))
        largest = max(losses, default=0.0)
        return largest if largest > 0 else 1 / len(self._unpruned)  # nothing counted: a whole unit


def spread(evaluation: Evaluation, share: float = 0.95) -> tuple[float, float] | None:
    """Interval of the unpruned model's metric over other sets of as many images (bootstrap over
    units of images); None where the metric is not made of parts."""
    states = evaluation.unpruned()
    if states is None or len(states) < 2:
        return None
    random = np.random.default_rng(0)
    equal = np.full(len(states), 1 / len(states))
    draws = [
        evaluation.combined(states, random.multinomial(len(states), equal).tolist())
        for _ in range(_DRAWS)
    ]
    low, high = np.quantile(draws, [(1 - share) / 2, (1 + share) / 2])
    return float(low), float(high)


def _looks(total: int) -> list[int]:
    """Units seen after each look."""
    looks = []
    seen = _FIRST_LOOK
    while seen < total:
        looks.append(seen)
        seen = math.ceil(seen * _NEXT_LOOK)
    return [*looks, total]


@functools.lru_cache
def _boundary(looks: tuple[int, ...]) -> float:
    """How many deviations too low an estimate is at the worst of its looks, at most, with the
    confidence that is asked for.

    The error after n of N units is, but for a factor, a random walk whose variance is 1/n - 1/N:
    at the last look it is nothing, and from there it grows towards the first.
    """
    variance = 1 / np.asarray(looks[:-1], float) - 1 / looks[-1]
    steps = np.sqrt(-np.diff(variance, append=0.0))
    normal = np.random.default_rng(0).standard_normal((_PATHS, len(steps)))
    errors = np.cumsum((normal * steps)[:, ::-1], axis=1)[:, ::-1]
    worst = (errors / np.sqrt(variance)).max(axis=1)
    return float(np.quantile(worst, CONFIDENCE))


def _loss(before: float, after: float) -> float:
    loss = (before - after) / before if before > 0 else 0.0
    return loss if math.isfinite(loss) else 1.0


def _one_less(state: Any) -> list[Any]:
    """Copies of nested dicts and lists of numbers, each with one positive whole number less one."""
    found: list[Any] = []
    if isinstance(state, dict):
        for key, value in state.items():
            found += [{**state, key: changed} for changed in _one_less(value)]
    elif isinstance(state, list):
        for place, value in enumerate(state):
            found += [[*state[:place], c, *state[place + 1 :]] for c in _one_less(value)]
    elif isinstance(state, int | np.integer) and not isinstance(state, bool) and state > 0:
        found.append(state - 1)
    return found
