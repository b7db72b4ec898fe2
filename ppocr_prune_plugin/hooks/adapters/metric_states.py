"""A PaddleOCR metric taken apart: what each batch adds to it, and the metric of any choice of
batches.

PaddleOCR's metrics gather counts and lists over batches and make numbers of them in
``get_metric``. What a batch adds is found by giving it to a metric that was reset; added up over
all batches this must be what the metric itself says, or the metric is not made of such parts.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

State = dict[str, Any]


class MetricStates:
    """Stands in for a metric in ``tools.program.eval``; gathers what each batch adds.

    Attributes:
        collected: one state for each call.
    """

    def __init__(self, metric: Any) -> None:
        self._metric = copy.deepcopy(metric)
        self._empty: State | None = None
        self.main_indicator: str = metric.main_indicator
        self.collected: list[State] = []

    def __call__(self, preds: Any, batch: Any, **kwargs: Any) -> None:
        """Called by PaddleOCR once a batch."""
        if "epoch_reset" in kwargs:
            kwargs["epoch_reset"] = True  # what the batches before have left counts elsewhere
        if self._empty is None:
            self._metric(preds, batch, **kwargs)  # some make their parts at the first batch
            self._metric.reset()
            self._empty = _content(self._metric)
        self._metric.reset()
        self._metric(preds, batch, **kwargs)
        self.collected.append(_added(self._empty, _content(self._metric)))

    def get_metric(self) -> dict[str, float]:
        """Called by PaddleOCR at the end; it adds its own speed."""
        return {}

    def combined(self, states: Sequence[State], counts: Sequence[int]) -> float:
        """The main metric of these states, each taken as often as ``counts`` says."""
        assert self._empty is not None
        self._metric.reset()
        _put(self._metric, self._empty, states, counts)
        return float(self._metric.get_metric()[self.main_indicator])


class Both:
    """The metric itself and its states side by side, to see whether they agree."""

    def __init__(self, metric: Any, states: MetricStates) -> None:
        self._metric, self._states = metric, states
        self.failed: Exception | None = None

    def __call__(self, preds: Any, batch: Any, **kwargs: Any) -> None:
        """Called by PaddleOCR once a batch."""
        if self.failed is None:
            try:
                self._states(copy.deepcopy(preds), batch, **dict(kwargs))
            except Exception as error:  # a metric of any kind
                self.failed = error
        self._metric(preds, batch, **kwargs)

    def get_metric(self) -> Any:
        """Called by PaddleOCR at the end."""
        return self._metric.get_metric()

    def agrees(self, value: float) -> bool:
        """Whether the states of all batches make this value of the main metric."""
        states = self._states
        if self.failed is not None or not states.collected:
            return False
        try:
            mine = states.combined(states.collected, [1] * len(states.collected))
        except Exception:  # a metric of any kind
            return False
        return math.isclose(mine, value, rel_tol=1e-9, abs_tol=1e-12)


def _content(metric: Any) -> State:
    """Numbers, lists, and dicts and metrics of them."""
    found: State = {}
    for name, value in (metric if isinstance(metric, dict) else vars(metric)).items():
        if isinstance(value, list):
            found[name] = list(value)
        elif isinstance(value, int | float | np.number) and not isinstance(value, bool):
            found[name] = value
        elif isinstance(value, dict) or hasattr(value, "get_metric"):
            inner = _content(value)
            if inner:
                found[name] = inner
    return found


def _added(before: State, after: State) -> State:
    added: State = {}
    for name, value in after.items():
        old = before.get(name)
        if isinstance(value, dict):
            added[name] = _added(old if isinstance(old, dict) else {}, value)
        elif isinstance(value, list):
            added[name] = value[len(old) :] if isinstance(old, list) else value
        else:
            added[name] = value - (old or 0)
    return added


def _put(metric: Any, empty: State, states: Sequence[State], counts: Sequence[int]) -> None:
    inside = metric if isinstance(metric, dict) else vars(metric)
    for name in {name: None for state in states for name in state}:
        # What was there before any batch counts once; lists keep the order of the batches.
        values = [
            (state[name], n) for state, n in zip(states, counts, strict=True) if name in state
        ]
        if isinstance(values[0][0], dict):
            below = empty.get(name)
            _put(
                inside[name],
                below if isinstance(below, dict) else {},
                [value for value, _ in values],
                [n for _, n in values],
            )
        elif isinstance(values[0][0], list):
            items = list(empty.get(name) or [])
            for value, n in values:
                items += value * n
            inside[name] = items
        else:
            inside[name] = (empty.get(name) or 0) + sum(value * n for value, n in values)
