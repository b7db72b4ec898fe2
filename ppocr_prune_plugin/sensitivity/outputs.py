"""Judge a pruned network by how far its outputs move from the unpruned network's: no labels.

It stands where an evaluation by a metric would stand. Its "metric" is 1 - distance, so that a loss
is a distance (:mod:`..distance`): it is smooth where a metric jumps from text to text, and needs
few images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..distance import Array, distances, outputs_of, unit_of
from ..errors import PruneError
from ..moments import evaluating
from .sequential import Evaluation
from .spill import ArrayStore

# Distances are smooth: so many images tell layers apart.
FEW = 8

State = tuple[float, int]
"""Similarities of the images of a unit, added up; the number of images."""


class OutputEvaluation(Evaluation):
    """Compares answers in evaluation mode.

    Args:
        model: the network, unpruned now.
        runs: each runs a batch of images through it, a unit.
        cache_mb: memory for activations, MiB; as much again on the disk.
        folder: where these spill to.
        most: so many images will do; batches after that are not run.
        data: tells these images from others.

    Raises:
        PruneError: there are no images, or nothing that comes out can be compared.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        runs: Sequence[Callable[[], object]],
        cache_mb: int,
        folder: Path,
        most: int = FEW,
        data: str = "",
    ) -> None:
        self._model = model
        self._runs: list[Callable[[], object]] = []
        self._unpruned: list[list[Array]] = []
        self.current: int | None = None
        size = cache_mb * 2**20
        self.activations = ArrayStore(size, folder, disk=size)
        for run in runs:
            if sum(len(outputs[0]) for outputs in self._unpruned if outputs) >= most:
                break
            self._runs.append(run)
            self._unpruned.append(outputs_of(self.outputs(len(self._runs) - 1)))
        if not self._unpruned or not all(self._unpruned):
            raise PruneError(
                "Prune.sensitivity.by is output, which compares what the network gives for "
                + (
                    "training images, and it gives nothing that can be compared. "
                    if runs
                    else "training images, and there are none: fill the Train section. "
                )
                + "Otherwise take Prune.sensitivity.by: metric."
            )
        self.sizes = [len(outputs[0]) for outputs in self._unpruned]
        self.images = sum(self.sizes)
        units = dict.fromkeys(unit_of(output) for output in self._unpruned[0])
        self.unit = " and ".join(units)
        self.metric = f"likeness of outputs (1 - distance; distance: {self.unit})"
        self.data = data or f"{self.images} calibration images"

    def __call__(self) -> float:
        states = self.states(range(len(self._runs)))
        return self.combined(states, [1] * len(states))

    def baseline(self) -> float:
        """The unpruned network is like itself."""
        return 1.0

    def unpruned(self) -> list[State]:
        return [(float(size), size) for size in self.sizes]

    def states(self, units: Sequence[int]) -> list[State]:
        return [self._state(unit) for unit in units]

    def outputs(self, unit: int) -> Any:
        with evaluating(self._model), paddle.no_grad():
            self.current = unit
            try:
                return self._runs[unit]()
            finally:
                self.current = None

    def combined(self, states: Sequence[State], counts: Sequence[int]) -> float:
        like, images = np.asarray(counts) @ np.asarray(states, dtype=np.float64)
        return float(like / images)

    def _state(self, unit: int) -> State:
        apart = distances(self._unpruned[unit], outputs_of(self.outputs(unit)))
        return float(np.sum(1 - apart)), len(apart)

    def close(self) -> None:
        """Free what was kept."""
        self.activations.clear()
