"""Batch-norm statistics after a cut.

A batch norm behind a pruned layer still subtracts the mean, and divides by the deviation, of sums
that included the removed channels; most of the loss right after pruning comes from there and not
from what the channels knew. The statistics are re-estimated on a few training batches. Estimates
from few images are noisy, so that they are not put in place of the trained ones: what changes
between the unpruned and the pruned network *on the same images* is applied to those, and a
network that lost nothing stays exactly as it was. Nothing is left to chance (dropout, random
depth), so that this holds, and is the same in every process and after every restart. (That pruned
networks should be compared only after their batch norms were adapted is from EagleEye, Li et al.,
ECCV 2020.)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .. import surgery
from ..chance import without_chance
from ..graph.groups import ChannelGraph
from ..plan import GroupPlan

Array = npt.NDArray[Any]

_MEAN, _VARIANCE = "_mean", "_variance"
# A variance may shrink or grow by this much; beyond it the estimate has run out of images.
_LARGEST_FACTOR = 10.0
_LEAST = 1e-12  # variances below it are none


class BatchNormRecalibration:
    """Moves running statistics along with a cut.

    Args:
        model: the unpruned network.
        batches: each runs one calibration batch through the model, which is in training mode.
    """

    def __init__(self, model: paddle.nn.Layer, batches: Sequence[Callable[[], object]]) -> None:
        self._model = model
        self._batches = batches
        self._norms = _norms_of(model)
        self._trained = self._read()
        self._before = self._measure() if batches and self._norms else {}

    def apply(self, graph: ChannelGraph, groups: Sequence[GroupPlan], undo: surgery.Undo) -> None:
        """Recalibrate the model after ``groups`` were cut; ``undo`` learns how to take it back."""
        if not self._before:
            return
        masks = surgery.kept_masks(graph, groups)

        def kept(name: str, array: Array) -> Array:
            for mask in masks.get(name, {}).values():
                array = array[mask]
            return array

        after = self._measure()
        for name, found in after.items():
            before, trained = kept(name, self._before[name]), kept(name, self._trained[name])
            if name.endswith(_VARIANCE):
                # Of channels that never vary neither does the quotient.
                factor = np.maximum(found, _LEAST) / np.maximum(before, _LEAST)
                new = trained * np.clip(factor, 1 / _LARGEST_FACTOR, _LARGEST_FACTOR)
            else:
                new = trained + (found - before)  # exactly as it was where nothing changed
            # Half precision may overflow on the way: no estimate then.
            new = np.where(np.isfinite(new), new, trained)
            undo.arrays.setdefault(name, self._trained[name])
            self._tensor(name).set_value(new.astype(trained.dtype))

    def live(self) -> dict[str, Array]:
        """The statistics that the model has now."""
        return self._read()

    def put(self, statistics: Mapping[str, Array]) -> None:
        """Give the model other statistics, of the shapes that it has now."""
        for name, array in statistics.items():
            self._tensor(name).set_value(array)

    def _tensor(self, name: str) -> paddle.Tensor:
        layer, _, attribute = name.rpartition(".")
        return getattr(self._norms[layer], attribute)

    def _read(self) -> dict[str, Array]:
        return {
            f"{name}.{attribute}": getattr(layer, attribute).numpy()
            for name, layer in self._norms.items()
            for attribute in (_MEAN, _VARIANCE)
        }

    def _measure(self) -> dict[str, Array]:
        """Statistics over the calibration batches; the model's own are put back."""
        own = self._read()
        momenta = {name: layer._momentum for name, layer in self._norms.items()}
        modes = [(layer, layer.training) for layer in self._model.sublayers(include_self=True)]
        self._model.train()
        try:
            with paddle.no_grad(), without_chance(self._model):
                for count, run in enumerate(self._batches):
                    for layer in self._norms.values():
                        layer._momentum = count / (count + 1)  # a plain mean over the batches
                    run()
            return self._read()
        finally:
            for name, layer in self._norms.items():
                layer._momentum = momenta[name]
            self.put(own)
            for layer, mode in modes:
                layer.training = mode


def freeze(model: paddle.nn.Layer) -> list[Any]:
    """Let batch norms keep their running statistics, and normalise by them, whenever the model is
    trained from now on; scale and shift go on learning. Returns the hooks that do it, one for
    each.

    ``model.train()`` sets the mode of every layer anew, in every step: a layer takes it back just
    before it runs.
    """
    norms = _norms_of(model).values()
    return [layer.register_forward_pre_hook(_keep_statistics) for layer in norms]


def _norms_of(model: paddle.nn.Layer) -> dict[str, Any]:
    """Layers that keep running statistics, by name."""
    return {
        name: layer
        for name, layer in model.named_sublayers()
        if isinstance(getattr(layer, _MEAN, None), paddle.Tensor)
        and isinstance(getattr(layer, _VARIANCE, None), paddle.Tensor)
    }


def _keep_statistics(layer: paddle.nn.Layer, inputs: object) -> None:
    layer.training = False
