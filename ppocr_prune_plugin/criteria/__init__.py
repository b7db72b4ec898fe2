"""How important a filter is: the filters with the lowest scores of a group are removed first.

A criterion scores the filters of one weight; :func:`group_importance` combines the layers that
produce the same channels.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PruneError
from ..graph.flow import AFFINE
from ..graph.groups import ChannelGroup, Member

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]
Scores = npt.NDArray[np.float64]


def _filters(member: Member, arrays: Arrays) -> Scores:
    """Weights of a producer as ``[channels, numbers per channel]``, in the group's order."""
    weight = np.moveaxis(arrays[member.parameter].astype(np.float64), member.axis, 0)
    return weight[member.indices].reshape(len(member.indices), -1)


def l1(filters: Scores) -> Scores:
    """Mean absolute weight of each filter (Li et al., "Pruning Filters for Efficient ConvNets",
    ICLR 2017). ``[channels, numbers] -> [channels]``."""
    return np.abs(filters).mean(axis=1)


def l2(filters: Scores) -> Scores:
    """Euclidean norm of each filter. ``[channels, numbers] -> [channels]``."""
    return np.sqrt(np.square(filters).sum(axis=1))


def fpgm(filters: Scores) -> Scores:
    """Sum of Euclidean distances to all other filters: those near the geometric median can be
    replaced by the others (He et al., "Filter Pruning via Geometric Median", CVPR 2019).
    ``[channels, numbers] -> [channels]``. One matrix product instead of a loop over filters."""
    centred = filters - filters.mean(axis=0)  # distances stay; less is lost in the product
    squares = np.square(centred).sum(axis=1)
    distances = squares[:, None] + squares[None, :] - 2 * centred @ centred.T
    np.fill_diagonal(distances, 0)
    result: Scores = np.sqrt(np.maximum(distances, 0)).sum(axis=1)
    return result


_OF_FILTERS: dict[str, Callable[[Scores], Scores]] = {"l1": l1, "l2": l2, "fpgm": fpgm}


def group_importance(group: ChannelGroup, arrays: Arrays, criterion: str) -> Scores:
    """Score the channels of a group, ``[channels]``; higher is more important.

    Where several layers produce the same channels (a residual sum), each one's scores count in
    proportion to their mean, so that no layer speaks louder for having larger weights.

    Args:
        group: the channel group.
        arrays: parameter name → array, as in the model.
        criterion: ``l1``, ``l2``, ``fpgm``, ``bn_scale`` or ``random``.

    Raises:
        PruneError: ``bn_scale`` for a group without a batch norm.
    """
    if criterion == "random":
        # Seeded by the group's name: the same in every process and run.
        return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.size)
    if criterion == "bn_scale":
        scores = [np.abs(_filters(m, arrays)).mean(axis=1) for m in _bn_scales(group, arrays)]
        if not scores:
            raise PruneError(
                f"Prune.criterion: bn_scale needs a batch norm behind every pruned layer, and "
                f"{group.name} has none. Use l1, l2 or fpgm, or add it to Prune.skip."
            )
    else:
        scores = [_OF_FILTERS[criterion](_filters(m, arrays)) for m in group.producers]
    total: Scores = np.zeros(group.size)
    for score in scores:
        mean = score.mean()
        if mean > 0:  # a dead branch has no opinion
            total += score / mean
    return total


def _bn_scales(group: ChannelGroup, arrays: Arrays) -> list[Member]:
    """Scales of the batch norms in a group (Liu et al., "Network Slimming", ICCV 2017)."""
    return [
        member
        for member in group.members
        if member.role == AFFINE
        and member.parameter.endswith(".weight")
        and f"{member.layer}._variance" in arrays
    ]


def kept_by_importance(scores: Scores, kept_channels: int) -> tuple[int, ...]:
    """Indices of the channels that stay, sorted; among equals, those further back stay."""
    order = np.argsort(scores, kind="stable")
    return tuple(sorted(order[len(order) - kept_channels :].tolist()))
