"""Criteria that look at something else than the weights of filters."""

from __future__ import annotations

import zlib

import numpy as np

from ..graph.flow import AFFINE
from ..graph.groups import ChannelGroup, Member
from .interface import Array, Arrays, filters
from .norms import L1


class BatchNormScale:
    """Scale of the batch norms behind the filters (Liu et al., "Network Slimming", ICCV 2017).

    Several norms on the same channels count alike: each relative to its mean. Layers without a
    batch norm, such as those of RSEFPN, are ranked by :class:`L1`.
    """

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores of the group's channels."""
        norms = _batch_norms(group, arrays)
        if not norms:
            return L1().importance(group, arrays)
        total: Array = np.zeros(group.size)
        for norm in norms:
            scores = np.abs(filters(norm, arrays)).mean(axis=1, dtype=np.float64)
            mean = scores.mean()
            if mean > 0:  # a norm that lets nothing through has no opinion
                total += scores / mean
        return total


def _batch_norms(group: ChannelGroup, arrays: Arrays) -> list[Member]:
    return [
        member
        for member in group.members
        if member.role == AFFINE
        and member.parameter.endswith(".weight")
        and f"{member.layer}._variance" in arrays
    ]


class Random:
    """Drawn by lot, for comparison; the same in every process and run."""

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores that depend on the group's name alone."""
        return np.random.default_rng(zlib.crc32(group.name.encode())).random(group.size)
