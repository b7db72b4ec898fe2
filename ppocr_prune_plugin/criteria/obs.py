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
    """One reader: a factor ``F`` of ``A = F^T F``, ``[any, inputs]``, and the inverse moment of its
    inputs, kept up to date while channels go."""

    def __init__(self, reader: Reader, indices: Array, read: ReadMoments, arrays: Arrays) -> None:
        _, moment = read.moments[reader.weight].about(bool(reader.bias))
        self._indices = indices
        ridge = _RIDGE * (float(np.diag(moment).mean()) or 1.0)
        self._inverse = np.linalg.inv(moment + ridge * np.eye(len(moment)))
        if read.remark:
            weight = np.moveaxis(arrays[reader.weight].astype(np.float64), reader.axis, -1)
            factor = weight.reshape(-1, weight.shape[-1])
            # Errors count as shares of what the layer gives, so that readers can be added up.
            self._factor = factor / (float(((factor @ moment) * factor).sum()) or 1.0) ** 0.5
        else:
            values, vectors = np.linalg.eigh(read.reactions[reader.weight])
            self._factor = (vectors * np.sqrt(np.maximum(values, 0.0))).T

    def costs(self) -> Array:
        """Growth of the error for each channel of the group."""
        diagonal = np.diag(self._inverse)
        gone = diagonal <= 0
        each = np.square(self._factor).sum(axis=0) / np.where(gone, 1.0, diagonal)
        each[gone] = 0.0
        costs: Array = each[self._indices].sum(axis=1)
        return costs

    def remove(self, channel: int) -> None:
        """Let a channel go, at all of its places, and adjust the rest."""
        for place in self._indices[channel].reshape(-1):
            pivot = self._inverse[place, place]
            if pivot <= 0:
                continue
            row = self._inverse[place] / pivot
            self._factor = self._factor - np.outer(self._factor[:, place], row)
            self._inverse = self._inverse - np.outer(self._inverse[:, place], row)
            self._factor[:, place] = 0.0
            self._inverse[place, :] = self._inverse[:, place] = 0.0
