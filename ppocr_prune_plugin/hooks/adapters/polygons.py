"""The geometry of PaddleOCR's detection metric, without doing the same again and again.

``DetectionIoUEvaluator`` compares every text that was found with every one in the labels, and
makes two polygons anew for each of these pairs, twice; in an analysis, for the same labels at
every point. While :func:`cached_polygons` is open, polygons are made once, and pairs whose
bounding boxes do not meet are known not to overlap. The metric's own code runs, and its numbers
are the same.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

_MODULE = "ppocr.metrics.eval_det_iou"
_KEPT = 2**15  # polygons, of about a kilobyte


@contextmanager
def cached_polygons() -> Iterator[None]:
    """Let PaddleOCR's detection metric remember its polygons while inside."""
    module = sys.modules.get(_MODULE)
    original = getattr(module, "Polygon", None)
    if original is None:  # another metric, or a tree that does it in another way
        yield
        return

    def polygon(points: Any) -> Polygon:
        try:
            array = np.asarray(points, np.float64)
        except (TypeError, ValueError):
            return original(points)  # the metric sees what it would have seen
        return _polygon(original, array.shape, array.tobytes())

    module.Polygon = polygon  # type: ignore[union-attr]
    try:
        yield
    finally:
        module.Polygon = original  # type: ignore[union-attr]


def polygons(corners: Iterable[Any]) -> list[Polygon]:
    """Polygons ``[points, 2]`` each, with the geometry that is remembered."""
    from shapely.geometry import Polygon as Shape

    arrays = [np.asarray(points, np.float64) for points in corners]
    return [_polygon(Shape, array.shape, array.tobytes()) for array in arrays]


class Polygon:
    """What the metric asks of a polygon of shapely's."""

    def __init__(self, shape: Any) -> None:
        self._shape = shape
        self.area: float = shape.area
        self.is_valid: bool = shape.is_valid
        self._box: tuple[float, ...] = shape.bounds  # NaN where it is empty: nothing is apart

    def intersection(self, other: Polygon) -> Any:
        return _Area(0.0) if self._apart(other) else self._shape.intersection(other._shape)

    def union(self, other: Polygon) -> Any:
        if self._apart(other):
            return _Area(self.area + other.area)
        return self._shape.union(other._shape)

    def _apart(self, other: Polygon) -> bool:
        left, low, right, high = self._box
        a, b, c, d = other._box
        return right < a or c < left or high < b or d < low


class _Area:
    def __init__(self, area: float) -> None:
        self.area = area


@functools.lru_cache(maxsize=_KEPT)
def _polygon(make: Any, shape: tuple[int, ...], content: bytes) -> Polygon:
    return Polygon(make(np.frombuffer(content).reshape(shape)))
