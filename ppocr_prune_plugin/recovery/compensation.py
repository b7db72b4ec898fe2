"""Give back to the readers of pruned channels what the removed ones carried, without training.

Most of a removed channel is a linear combination of those that stay. So every layer that reads
them gets a weight that reads that combination instead: with ``x`` the channels that it reads, ``P``
those that stay and ``R`` those that go,

    x_R ~ B x_P + b,   W'_P = W_P + W_R B,   bias' = bias + W_R b,

where ``B`` and ``b`` are the ridge regression of ``x_R`` on ``x_P`` over all positions of a few
images. It is a closed form of first and second moments, which are taken once, of the unpruned
network in evaluation mode; labels are not needed. The idea is that of He et al. (ICCV 2017) and of
neuron merging (Kim et al., NeurIPS 2020); how far to trust the regression is decided for each
reader on the images that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .. import surgery
from ..graph.channels import ChannelGraph
from ..graph.live import tensors_of
from ..moments import Moments, Reader, ReadMoments
from ..plan import GroupPlan

Array = npt.NDArray[Any]

# Weights of the ridge, as shares of the mean variance; the last trusts the means alone. The first
# are for channels that are exact combinations of others.
_RIDGES = (1e-11, 1e-8, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, np.inf)


@dataclass(frozen=True)
class Compensation:
    """The cure for any cut of a network whose moments were taken before it."""

    model: paddle.nn.Layer
    graph: ChannelGraph
    read: ReadMoments

    def apply(self, groups: Sequence[GroupPlan], undo: surgery.Undo) -> dict[str, float]:
        """Give the readers of what was removed new weights and biases, in place.

        Args:
            groups: what is kept; the model was cut by it.
            undo: of that cut; it learns how to take this back.

        Returns:
            Weight → the share of what the removed channels gave to the layer's outputs that is
            still missing, between 0 and 1, judged on images that the regression has not seen.
        """
        masks = surgery.kept_masks(self.graph, groups)
        tensors = tensors_of(self.model)
        missing: dict[str, float] = {}
        for reader in self.read.readers:
            mask = masks.get(reader.weight, {}).get(reader.axis)
            moments = self.read.moments.get(reader.weight)
            if mask is None or mask.all() or moments is None or not moments.usable:
                continue
            weight = undo.arrays[reader.weight]
            for axis, kept in masks[reader.weight].items():
                if axis != reader.axis:
                    weight = np.compress(kept, weight, axis=axis)
            # [outputs and taps, inputs]
            rows = np.moveaxis(weight.astype(np.float64), reader.axis, -1)
            removed = rows[..., ~mask].reshape(-1, int((~mask).sum()))
            shift = bool(reader.bias)
            ridge, missing[reader.weight] = _best_ridge(moments, mask, removed, shift)
            if missing[reader.weight] >= 1:  # nothing is known of what was removed
                continue
            slope, offset = _Regression.of(moments, mask, shift, (0, 1)).solved(ridge)
            new = rows[..., mask] + rows[..., ~mask] @ slope
            write = np.moveaxis(new, -1, reader.axis).astype(weight.dtype)
            tensors[reader.weight].set_value(np.ascontiguousarray(write))
            if shift:
                self._shift(reader, rows[..., ~mask] @ offset, tensors, undo)
        return missing

    @staticmethod
    def _shift(
        reader: Reader, added: Array, tensors: Mapping[str, paddle.Tensor], undo: surgery.Undo
    ) -> None:
        """Add to the bias what the removed channels gave on average.

        ``added``: ``[outputs, *taps]``; every tap of a convolution meets every output position,
        those of a transposed one share them.
        """
        bias = tensors[reader.bias]
        total = added.reshape(len(added), -1).sum(axis=1) / reader.shares
        old = bias.numpy()
        undo.arrays.setdefault(reader.bias, old)
        bias.set_value((old + (-total if reader.mean else total)).astype(old.dtype))


@dataclass(frozen=True)
class _Regression:
    """The regression of removed channels on those kept, for any ridge.

    ``values`` and ``vectors`` are the spectrum of the kept channels' moment, ``cross`` is that of
    the removed with the kept ones, ``[removed, kept]``; ``means`` are of the removed and the kept
    (None: no shift can be given back).
    """

    values: Array
    vectors: Array
    cross: Array
    means: tuple[Array, Array] | None

    @classmethod
    def of(cls, moments: Moments, mask: Array, shift: bool, halves: Sequence[int]) -> _Regression:
        """The regression over some halves of the images."""
        mean, second = moments.about(shift, halves)
        values, vectors = np.linalg.eigh(second[np.ix_(mask, mask)])
        means = (mean[~mask], mean[mask]) if shift else None
        return cls(np.maximum(values, 0.0), vectors, second[np.ix_(~mask, mask)], means)

    def solved(self, ridge: float) -> tuple[Array, Array]:
        """Slope ``[removed, kept]`` and offset ``[removed]``."""
        if np.isinf(ridge):
            slope = np.zeros_like(self.cross)
        else:
            scale = float(self.values.mean()) or 1.0
            slope = (self.cross @ self.vectors / (self.values + ridge * scale)) @ self.vectors.T
        if self.means is None:
            return slope, np.zeros(len(slope))
        removed, kept = self.means
        return slope, removed - slope @ kept


def _best_ridge(moments: Moments, mask: Array, weight: Array, shift: bool) -> tuple[float, float]:
    """The ridge whose regression on one half of the images serves the other half best, and the
    share of the removed channels' contribution that is missing then.

    ``weight``: ``[outputs and taps, removed]``.
    """
    power = weight.T @ weight
    r, p = ~mask, mask
    known = [moments.about(False, (half,)) for half in (0, 1)]
    means = [(mean[r], mean[p]) for mean, _ in known]
    seconds = [(m[np.ix_(r, r)], m[np.ix_(r, p)], m[np.ix_(p, p)]) for _, m in known]

    def error(slope: Array, offset: Array, half: int) -> float:
        """Mean square of ``W (x_R - B x_P - b)`` over the positions of a half."""
        (removed, kept), (own, between, others) = means[half], seconds[half]
        cross = between @ slope.T
        rest = own - cross - cross.T + slope @ others @ slope.T
        off = np.outer(removed - slope @ kept, offset)
        rest = rest - off - off.T + np.outer(offset, offset)
        return max(float((power * rest).sum()), 0.0)

    nothing = np.zeros((int((~mask).sum()), int(mask.sum()))), np.zeros(int((~mask).sum()))
    whole = sum(error(*nothing, half) for half in (0, 1))
    if whole <= 0:
        return np.inf, 0.0
    fits = [_Regression.of(moments, mask, shift, (half,)) for half in (0, 1)]
    errors = {
        ridge: sum(error(*fits[half].solved(ridge), 1 - half) for half in (0, 1))
        for ridge in _RIDGES
    }
    best = min(errors, key=errors.__getitem__)
    return best, min(errors[best] / whole, 1.0)
