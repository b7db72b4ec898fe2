"""What a network gets back after a cut without training: compensation, and batch-norm statistics.

Where the readers of what was removed can be compensated, running statistics fit what layers give
mostly as they are; re-estimating them then may help or harm. Which of the two is nearer to the
unpruned network is measured, on the outputs for the calibration images.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import paddle

from .. import surgery
from ..distance import Array, distances, outputs_of
from ..graph.channels import ChannelGraph
from ..moments import ReadMoments, evaluating
from ..plan import GroupPlan
from .batch_norm import BatchNormRecalibration
from .compensation import Compensation

Run = Callable[[], object]

_JUDGED = 2  # batches of some images: enough to tell whether batch norms should be re-estimated


@dataclass(frozen=True)
class Recovered:
    """What was done after a cut.

    ``missing`` is the mean share of what removed channels gave to their readers that could not be
    given back (None: nothing was compensated); ``distance`` how far the outputs are from the
    unpruned network's (:mod:`..distance`; None: not measured); ``norms`` whether
    batch-norm statistics were re-estimated.
    """

    missing: float | None
    distance: float | None
    norms: bool

    def __str__(self) -> str:
        said = []
        if self.missing is not None:
            said.append(
                f"readers compensated ({1 - self.missing:.0%} of what removed channels gave them "
                "is given back)"
            )
        said.append(f"batch norms {'re-estimated' if self.norms else 'left as they are'}")
        if self.distance is not None:
            said.append(
                f"outputs on calibration images are {self.distance:.4f} away from the unpruned "
                "network's (0: the same, 1: nothing left)"
            )
        return ", ".join(said)


class Recovery:
    """Cures cuts of one network.

    Args:
        model: the unpruned network.
        graph: its channel groups.
        norm_batches: each runs a calibration batch through the model; batch norms are re-estimated
            on them (none: they stay).
        read: the moments of what its layers read; None where nothing is compensated.
        batches: the batches that these were taken on.
    """

    def __init__(
        self,
        model: paddle.nn.Layer,
        graph: ChannelGraph,
        norm_batches: Sequence[Run],
        read: ReadMoments | None = None,
        batches: Sequence[Run] = (),
    ) -> None:
        self._model = model
        self._norms = BatchNormRecalibration(model, norm_batches)
        self._has_norms = bool(norm_batches)
        usable = read is not None and any(m.usable for m in read.moments.values())
        self._compensation = Compensation(model, graph, read) if usable and read else None
        self._batches = batches[:_JUDGED]
        self._unpruned = self._outputs() if self._compensation is not None else []

    def apply(self, graph: ChannelGraph, groups: Sequence[GroupPlan], undo: surgery.Undo) -> None:
        """Cure the cut of single groups, which are looked at one after another."""
        if self._compensation is None:
            self._norms.apply(graph, groups, undo)
        else:
            self._compensation.apply(groups, undo)

    def finish(
        self, graph: ChannelGraph, groups: Sequence[GroupPlan], undo: surgery.Undo
    ) -> Recovered:
        """Cure the cut that stays, in the way that comes nearest to the unpruned network."""
        if self._compensation is None:
            self._norms.apply(graph, groups, undo)
            return Recovered(None, None, self._has_norms)
        missing = self._compensation.apply(groups, undo)
        share = float(np.mean(list(missing.values()))) if missing else 0.0
        distance = self._distance()
        if not self._has_norms:
            return Recovered(share, distance, False)
        before = self._norms.live()
        self._norms.apply(graph, groups, undo)
        again = self._distance()
        if again < distance:
            return Recovered(share, again, True)
        self._norms.put(before)
        return Recovered(share, distance, False)

    def _outputs(self) -> list[list[Array]]:
        """What the model answers to the calibration batches, in evaluation mode."""
        with evaluating(self._model), paddle.no_grad():
            return [outputs_of(run()) for run in self._batches]

    def _distance(self) -> float:
        """Mean distance from the unpruned network's outputs."""
        found = [
            distances(whole, pruned)
            for whole, pruned in zip(self._unpruned, self._outputs(), strict=True)
        ]
        return float(np.concatenate(found).mean()) if found else 0.0
