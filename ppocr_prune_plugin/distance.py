"""How far two answers of a network are apart, in a unit for each kind of output.

What a tensor is shows in what the unpruned network gives: rows that are shares of one whole are
distributions (the steps of a text, the classes of an image), the rest are maps. All distances lie
between 0 (the same) and 1; labels are not needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .graph.live import tensors_in

Array = npt.NDArray[Any]

MAPS = "1 - soft Dice of maps"
DISTRIBUTIONS = "total variation of distributions"

_WHOLE = 1e-3  # how far the shares of one whole may be from it together


def outputs_of(answer: Any) -> list[Array]:
    """The floating-point tensors of an answer, in their order, as single precision."""
    found = [t for t in tensors_in(answer) if "float" in str(t.dtype) and t.size]
    return [t.astype("float32").numpy() for t in found]


def unit_of(output: Array) -> str:
    """What distances from this output of the unpruned network are measured in."""
    rows = output.ndim in (2, 3) and output.shape[-1] > 1
    if rows and output.min() >= -_WHOLE and np.abs(output.sum(axis=-1) - 1).max() < _WHOLE:
        return DISTRIBUTIONS
    return MAPS


def distances(before: Sequence[Array], after: Sequence[Array]) -> Array:
    """Distance of each image, ``[images]``: the mean over the outputs of both answers.

    Args:
        before: outputs of the unpruned network, ``[images, ...]`` each.
        after: those of the pruned one.
    """
    if not before:
        return np.zeros(0)
    if len(after) != len(before):
        return np.ones(len(before[0]))
    return np.mean([_distance(x, y) for x, y in zip(before, after, strict=True)], axis=0)


def _distance(before: Array, after: Array) -> Array:
    if unit_of(before) == DISTRIBUTIONS:
        return _of_distributions(before, after)
    if before.shape != after.shape:
        return np.ones(len(before))
    return _of_maps(before, after)


def _of_maps(before: Array, after: Array) -> Array:
    """``1 - 2ab / (aa + bb)``, the soft Dice loss with squares: what differs, squared, as a share
    of what both hold."""
    x = before.reshape(len(before), -1).astype(np.float64)
    y = after.reshape(len(after), -1).astype(np.float64)
    whole = np.square(x).sum(axis=1) + np.square(y).sum(axis=1)
    apart = np.square(x - y).sum(axis=1) / np.where(whole > 0, whole, 1.0)
    return _bounded(apart)


def _of_distributions(before: Array, after: Array) -> Array:
    """Half of the absolute differences of each row, averaged; a step that only one of both texts
    has counts whole."""
    if before.ndim != after.ndim or before.shape[-1] != after.shape[-1]:
        return np.ones(len(before))
    if before.ndim == 2:
        before, after = before[:, None], after[:, None]
    steps, all_steps = sorted((before.shape[1], after.shape[1]))
    apart = np.abs(before[:, :steps] - after[:, :steps]).sum(axis=-1, dtype=np.float64) / 2
    return _bounded((apart.sum(axis=1) + (all_steps - steps)) / all_steps)


def _bounded(found: Array) -> Array:
    """Between 0 and 1; what is no number is as far away as can be."""
    return np.clip(np.where(np.isfinite(found), found, 1.0), 0.0, 1.0)
