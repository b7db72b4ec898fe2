"""First-order Taylor expansion of the training loss."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..errors import PruneError
from ..graph.groups import ChannelGroup
from .interface import Array, Arrays, Context, filters


class Taylor:
    """How much the training loss would change without a filter, to first order: the absolute sum
    of weight times gradient, averaged over training batches (Molchanov et al., "Pruning
    Convolutional Neural Networks for Resource Efficient Inference", ICLR 2017, and "Importance
    Estimation for Neural Network Pruning", CVPR 2019).

    All layers that produce the channels are added up: their scores are in one unit, the loss's.
    """

    def __init__(self) -> None:
        self._gradients: Sequence[Arrays] = ()

    def prepare(self, context: Context) -> None:
        """Take the gradients of some training batches."""
        self._gradients = context.gradients()

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Scores of the group's channels.

        Raises:
            PruneError: no training batch was seen.
        """
        if not self._gradients:
            raise PruneError(
                "Prune.criterion: taylor needs gradients, and there is no training batch. Check "
                "the Train section, or use fpgm, l1 or l2."
            )
        total: Array = np.zeros(group.size)
        for gradients in self._gradients:
            for member in group.producers:
                if member.parameter in gradients:  # the loss may not depend on it
                    product = filters(member, arrays) * filters(member, gradients)
                    total += np.abs(product.sum(axis=1, dtype=np.float64))
        return total / len(self._gradients)
