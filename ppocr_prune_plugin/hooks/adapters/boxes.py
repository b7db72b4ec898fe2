"""How well a detector's boxes fit, beside the metric that PaddleOCR counts of them.

A box counts at an IoU of 0.5, and hmean hardly shows that boxes cut through the text. Boxes and
lines are matched here as ``DetectionIoUEvaluator`` does it: a line takes the first box that is free
and overlaps enough; lines to be ignored, and boxes that lie mostly in them, are left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .polygons import Polygon, polygons

Array = npt.NDArray[Any]

_MATCHING, _STRICTER = 0.5, 0.7  # IoU from which on a box and a line match
_IGNORED = 0.5  # share of a box that lies in a line to be ignored

HMEAN, OVERLAP = f"hmean at {_STRICTER}", "mean IoU"


def fits_of(metric: Any) -> Fits | None:
    """What counts beside a metric of PaddleOCR's; None where it is not the one of all boxes that
    were found (``DetMetric``)."""
    return Fits() if type(metric).__name__ == "DetMetric" else None


class Fits:
    """Gathers boxes, given what PaddleOCR's metric is given."""

    def __init__(self) -> None:
        self._lines = self._boxes = self._matched = 0
        self._overlaps: list[float] = []

    def __call__(self, preds: Sequence[Mapping[str, Any]], batch: Sequence[Any]) -> None:
        """Take in a batch: for each image the boxes that were found in it (``preds``), the polygons
        of its lines (``batch[2]``) and which of them are to be ignored (``batch[3]``)."""
        for found, lines, ignored in zip(preds, batch[2], batch[3], strict=False):
            self.add(lines, ignored, found["points"])

    def add(self, lines: Sequence[Any], ignored: Sequence[Any], boxes: Sequence[Any]) -> None:
        """Take in an image: polygons ``[points, 2]`` of its lines, and of the boxes found."""
        overlaps, _, _ = overlaps_of(lines, ignored, boxes)
        self._lines += overlaps.shape[0]
        self._boxes += overlaps.shape[1]
        self._matched += sum(1 for _ in matches(overlaps, _STRICTER))
        self._overlaps += [float(overlaps[pair]) for pair in matches(overlaps, _MATCHING)]

    def figures(self) -> dict[str, float]:
        """The hmean of boxes that match by 0.7, and the mean IoU of those that match by 0.5."""
        both = self._lines + self._boxes
        return {
            HMEAN: 2 * self._matched / both if both else 0.0,
            OVERLAP: float(np.mean(self._overlaps)) if self._overlaps else 0.0,
        }


class WithFits:
    """A metric of PaddleOCR's for ``tools.program.eval``, and beside it how well boxes fit."""

    def __init__(self, metric: Any, fits: Fits) -> None:
        self._metric, self._fits = metric, fits

    def __call__(self, preds: Any, batch: Any, **kwargs: Any) -> None:
        """Called by PaddleOCR once a batch."""
        self._fits(preds, batch)
        self._metric(preds, batch, **kwargs)

    def get_metric(self) -> Any:
        """Called by PaddleOCR at the end."""
        return self._metric.get_metric()


def overlaps_of(
    lines: Sequence[Any], ignored: Sequence[Any], boxes: Sequence[Any]
) -> tuple[Array, list[int], list[int]]:
    """IoU of the lines that count with the boxes that count, ``[lines, boxes]``, and the places of
    either in what was given."""
    known = [
        (place, polygon, bool(skipped))
        for place, (polygon, skipped) in enumerate(zip(polygons(lines), ignored, strict=True))
        if polygon.is_valid
    ]
    skipped = [polygon for _, polygon, ignore in known if ignore]
    wanted = [(place, polygon) for place, polygon, ignore in known if not ignore]
    found = [
        (place, polygon)
        for place, polygon in enumerate(polygons(boxes))
        if polygon.is_valid and not any(_lies_in(polygon, other) for other in skipped)
    ]
    overlaps = np.zeros((len(wanted), len(found)))
    for row, (_, line) in enumerate(wanted):
        for column, (_, box) in enumerate(found):
            shared = line.intersection(box).area
            if shared:
                overlaps[row, column] = shared / (line.area + box.area - shared)
    return overlaps, [place for place, _ in wanted], [place for place, _ in found]


def matches(overlaps: Array, least: float = _MATCHING) -> Iterator[tuple[int, int]]:
    """Pairs of a line and the box that it takes."""
    free = np.ones(overlaps.shape[1], bool)
    for line, row in enumerate(overlaps):
        fitting = np.flatnonzero(free & (row > least))
        if fitting.size:
            free[fitting[0]] = False
            yield line, int(fitting[0])


def _lies_in(box: Polygon, line: Polygon) -> bool:
    return bool(box.area) and box.intersection(line).area / box.area > _IGNORED
