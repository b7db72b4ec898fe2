"""Judge a pruned network by a function of the caller's: a number that is higher for better."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..errors import PruneError
from .sequential import Evaluation
from .spill import ArrayStore


class FunctionEvaluation(Evaluation):
    """The function looks at the whole set each time: one unit, whose images nobody counts.

    Args:
        function: returns the metric of the live model.
        run: runs something through the model in evaluation mode; returns its outputs.
        store: takes activations; none are kept, since the function's runs are its own affair.
    """

    def __init__(
        self, function: Callable[[], float], run: Callable[[], Any], store: ArrayStore
    ) -> None:
        self._function, self._run = function, run
        self._baseline: float | None = None
        name = getattr(function, "__qualname__", type(function).__qualname__)
        self.metric = "evaluate()"
        self.data = f"that of {getattr(function, '__module__', '')}.{name}"
        self.images = 1
        self.sizes = [1]
        self.current: int | None = None
        self.activations = store

    def __call__(self) -> float:
        return float(self._function())

    def baseline(self) -> float:
        """The first answer.

        Raises:
            PruneError: nothing can be measured against it.
        """
        if self._baseline is None:
            found = self()
            if not math.isfinite(found) or found <= 0:
                raise PruneError(
                    f"evaluate() returns {found:g} for the unpruned model. It has to be a number "
                    "above 0, higher for better: a loss is the share of it that a cut costs."
                )
            self._baseline = found
        return self._baseline

    def unpruned(self) -> None:
        return None

    def states(self, units: Sequence[int]) -> list[float]:
        return [self() for _ in units]

    def outputs(self, unit: int) -> Any:
        return self._run()

    def combined(self, states: Sequence[float], counts: Sequence[int]) -> float:
        return sum(s * n for s, n in zip(states, counts, strict=True)) / sum(counts)
