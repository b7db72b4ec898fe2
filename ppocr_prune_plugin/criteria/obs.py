"""How far a network's outputs move when a channel goes and the others make up for it.

The optimal brain surgeon (Hassibi and Stork, 1993) on whole channels: when channel ``c`` goes and
those that stay stand in for it as well as they can, the outputs' squared error grows, by each layer
that reads it, by ``A_cc / (G^-1)_cc``: ``G`` is the second moment of what the layer reads, ``A``
that of the gradient of the network's outputs by it, taken as independent of each other (as K-FAC
does: Martens and Grosse, 2015). Channels go one after another, each time the cheapest, and what is
left is adjusted before the next one is looked at. Where the outputs have no gradient, the error of
the reader's own outputs counts instead: ``A = W^T W``, as a share of what the layer gives.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PruneError
from ..graph.groups import ChannelGroup
from ..moments import Reader, ReadMoments
from .interface import Arrays, Context

Array = npt.NDArray[Any]

# Share of the mean variance that keeps the inverse of a moment from running away.
_RIDGE = 1e-3
# Wide groups lose several channels at a time, so that at most so many steps are made.
_STEPS = 512
# Share of a layer's inputs that are gone, from which on it is worth to copy the rest.
_DROPPED = 0.2


class Obs:
    """Scores are the order in which channels go; the last ones to go score highest."""

    asks_for_gradients = False  # of the training loss

    def __init__(self) -> None:
        self._read: ReadMoments | None = None

    def prepare(self, context: Context) -> None:
        """Take the moments of the unpruned network.

        Raises:
            PruneError: there are no images to take them on.
        """
        self._read = context.moments()
        seen = any(moments.usable for moments in self._read.moments.values())
        if not seen and (self._read.readers or not self._read.left):
            raise PruneError(
                "Prune.criterion is obs, which looks at what the network computes on training "
                "images, and there are none. Fill the Train section, or take Prune.criterion: l1."
            )

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Order in which the channels of a group go, ``[group.size]``."""
        assert self._read is not None, "prepare() comes first"
        readers = [
            _Layer(reader, member.indices, self._read, arrays)
            for reader in self._read.readers
            for member in group.members
            if (member.parameter, member.axis) == (reader.weight, reader.axis)
            and reader.weight in self._read.moments
            and self._read.moments[reader.weight].usable
            and (self._read.remark or reader.weight in self._read.reactions)
        ]
        size = group.size
        scores = np.zeros(size)
        if not readers:  # nothing that was seen reads them: by what makes them
            for member in group.producers:
                weight = np.moveaxis(arrays[member.parameter], member.axis, 0)[member.indices]
                scores += np.abs(weight.astype(np.float64)).reshape(size, -1).sum(axis=1)
            return scores
        alive = np.ones(size, dtype=np.bool_)
        at_once = -(-size // _STEPS)
        while alive.any():
            costs = np.where(alive, sum(reader.costs() for reader in readers), np.inf)
            for channel in np.argsort(costs, kind="stable")[: min(at_once, int(alive.sum()))]:
                scores[channel] = size - alive.sum()
                alive[channel] = False
                for reader in readers:
                    reader.remove(int(channel))
        return scores


class _Layer:
    """One reader: the inverse moment of its inputs ``[inputs, inputs]`` above a factor ``F`` of
    ``A = F^T F``, ``[any, inputs]``, which change alike when a channel goes. The columns of those
    that are gone are dropped now and then; ``_place`` is where an input stands."""

    def __init__(self, reader: Reader, indices: Array, read: ReadMoments, arrays: Arrays) -> None:
        _, moment = read.moments[reader.weight].about(bool(reader.bias))
        self._indices = indices
        ridge = _RIDGE * (float(np.diag(moment).mean()) or 1.0)
        inverse = np.linalg.inv(moment + ridge * np.eye(len(moment)))
        if read.remark:
            weight = np.moveaxis(arrays[reader.weight].astype(np.float64), reader.axis, -1)
            factor = weight.reshape(-1, weight.shape[-1])
            # Errors count as shares of what the layer gives, so that readers can be added up.
            factor = factor / (float(((factor @ moment) * factor).sum()) or 1.0) ** 0.5
            if len(factor) > len(moment):
                upper: Array = np.asarray(np.linalg.qr(factor, mode="r"))
                factor = upper
        else:
            values, vectors = np.linalg.eigh(read.reactions[reader.weight])
            factor = (vectors * np.sqrt(np.maximum(values, 0.0))).T
        self._both = np.concatenate([inverse, factor])
        self._spare = np.empty_like(self._both)  # new memory each time takes longer than the sums
        self._place = np.arange(len(moment))
        self._gone: list[int] = []

    def costs(self) -> Array:
        """Growth of the error for each channel of the group."""
        size = self._both.shape[1]
        diagonal, factor = np.diag(self._both), self._both[size:]
        gone = diagonal <= 0
        each = np.zeros(len(self._place))
        growth = np.einsum("ij,ij->j", factor, factor) / np.where(gone, 1.0, diagonal)
        there = self._place >= 0
        each[there] = np.where(gone, 0.0, growth)[self._place[there]]
        costs: Array = each[self._indices].sum(axis=1)
        return costs

    def remove(self, channel: int) -> None:
        """Let a channel go, at all of its places, and adjust the rest."""
        for place in self._place[self._indices[channel].reshape(-1)]:
            pivot = self._both[place, place] if place >= 0 else 0.0
            if pivot <= 0:
                continue
            column = self._both[:, place].copy()
            np.multiply(column[:, None], self._both[place] / pivot, out=self._spare)
            self._both -= self._spare
            self._both[place] = self._both[:, place] = 0.0
            self._gone.append(int(place))
        if len(self._gone) > _DROPPED * self._both.shape[1]:
            self._drop()

    def _drop(self) -> None:
        """Go on without what is gone."""
        size = self._both.shape[1]
        left = np.ones(len(self._both), dtype=np.bool_)
        left[self._gone] = False
        places = np.where(left[:size], left[:size].cumsum() - 1, -1)
        self._place = np.where(self._place >= 0, places[self._place], -1)
        self._both = np.ascontiguousarray(self._both[left][:, left[:size]])
        self._spare = np.empty_like(self._both)
        self._gone = []
