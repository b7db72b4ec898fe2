"""Several inputs to compare two networks on: which one a network answers is not known before."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from ..graph.trace import is_spec, map_inputs
from ..network import random_inputs

Array = npt.NDArray[Any]

# Of the values: a few units in the last place of a float32.
_NUDGE = 1e-6
_CELL = 16  # pixels of a mosaic's cell


def candidates(inputs: Sequence[Any]) -> list[list[Any]]:
    """A page with dark strokes, one with light strokes, noise, and a mosaic of gray cells.

    Args:
        inputs: ``(shape, dtype)`` pairs, nested as ``forward`` takes them; other things stay. What
            is not an image is drawn at random.

    Returns:
        The same with arrays, once for each kind; always the same ones.
    """
    found = []
    for seed, draw in enumerate((_page, _negative, _noise, _mosaic)):
        drawn = functools.partial(draw, random=np.random.default_rng(seed))
        found.append(_filled(inputs, drawn))
    return found


def nudged(inputs: Sequence[Any], arrays: Sequence[Any]) -> list[Any]:
    """Arrays as :func:`candidates` gave them for these inputs, off by about one rounding."""
    random, given = np.random.default_rng(0), iter(_leaves(arrays))

    def shifted(array: Array) -> Array:
        factor = 1 + _NUDGE * random.standard_normal(array.shape)
        return (array * factor).astype(array.dtype)

    def leaf(item: Any) -> Any:
        array = next(given)
        return shifted(array) if is_spec(item) and array.dtype.kind == "f" else array

    return list(map_inputs(list(inputs), leaf))


def _filled(inputs: Sequence[Any], draw: Callable[[Any], Array]) -> list[Any]:
    return list(map_inputs(list(inputs), lambda item: draw(item) if is_spec(item) else item))


def _leaves(inputs: Any) -> list[Any]:
    if isinstance(inputs, list):
        return [leaf for item in inputs for leaf in _leaves(item)]
    return [inputs]


def _page(spec: Any, random: np.random.Generator) -> Array:
    array: Array = random_inputs([spec], int(random.integers(2**31)))[0]
    return array


def _negative(spec: Any, random: np.random.Generator) -> Array:
    page = _page(spec, random)
    return -page if page.ndim == 4 and page.dtype.kind == "f" else page


def _noise(spec: Any, random: np.random.Generator) -> Array:
    shape, dtype = spec
    noise: Array = random.standard_normal(tuple(shape)).astype(dtype)
    return noise


def _mosaic(spec: Any, random: np.random.Generator) -> Array:
    shape, dtype = tuple(spec[0]), spec[1]
    if len(shape) != 4:
        return _noise(spec, random)
    height, width = shape[2:]
    cells = random.uniform(-2, 2, (shape[0], 1, -(-height // _CELL), -(-width // _CELL)))
    pixels = cells.repeat(_CELL, axis=2).repeat(_CELL, axis=3)[:, :, :height, :width]
    return np.broadcast_to(pixels, shape).astype(dtype)
