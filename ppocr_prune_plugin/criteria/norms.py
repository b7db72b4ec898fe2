"""Criteria that look at the filters of a group's root, as PaddleSlim's pruners do.

Where several layers produce the same channels (a residual sum), only the root is asked. Adding up
the scores of all of them was tried, each relative to its mean, on the trained PP-OCRv4 detector
(hmean) and on the angle classifier's residual groups (change of the features, ratios 1/8 to 1/2):
neither is better. The root alone chooses the filters that PaddleSlim chooses, so that a plan, a
sensitivity file and what is known of these criteria carry over.
"""

from __future__ import annotations

import numpy as np

from ..graph.groups import ChannelGroup
from .interface import Array, Arrays, filters


def l1(weights: Array) -> Array:
    """Mean absolute weight of each filter. ``[channels, numbers] -> [channels]``."""
    result: Array = np.abs(weights).mean(axis=1)
    return result


def l2(weights: Array) -> Array:
    """Euclidean norm of each filter. ``[channels, numbers] -> [channels]``."""
    result: Array = np.sqrt(np.square(weights).sum(axis=1))
    return result


def fpgm(weights: Array) -> Array:
    """Sum of Euclidean distances to all other filters. ``[channels, numbers] -> [channels]``.

    One matrix product instead of a loop over filters. Reckoned in double precision and rounded to
    that of the weights, so that equal filters have equal scores.
    """
    wide = weights.astype(np.float64)
    centred = wide - wide.mean(axis=0)  # distances stay; less is lost in the product
    squares = np.square(centred).sum(axis=1)
    distances = centred @ centred.T
    distances *= -2
    distances += squares[:, None]
    distances += squares[None, :]
    np.fill_diagonal(distances, 0)
    np.maximum(distances, 0, out=distances)
    # What cancels to almost nothing is nothing: the two filters are the same.
    distances[distances < 1e-12 * squares.max(initial=0)] = 0
    return np.sqrt(distances, out=distances).sum(axis=1).astype(weights.dtype)


class L1:
    """Mean absolute weight (Li et al., "Pruning Filters for Efficient ConvNets", ICLR 2017)."""

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores of the root's filters."""
        return l1(filters(group.root, arrays))


class L2:
    """Euclidean norm."""

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores of the root's filters."""
        return l2(filters(group.root, arrays))


class FPGM:
    """Distance to all other filters: those near the geometric median can be replaced by the others
    (He et al., "Filter Pruning via Geometric Median", CVPR 2019)."""

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores of the root's filters."""
        return fpgm(filters(group.root, arrays))
