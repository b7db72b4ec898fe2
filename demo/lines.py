"""Cut the lines of text out of a labelled detection data set, as a recogniser gets them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from ppocr_prune_plugin.errors import PruneError

LINE_HEIGHT = 48  # of a recogniser's input, pixels


def cut_lines(data: Path, labels: Path, out: Path, count: int) -> list[Path]:
    """Write the first ``count`` legible lines as PNG files below ``out``; return their paths.

    ``labels`` is PaddleOCR's for detection, with image names relative to ``data``.

    Raises:
        PruneError: an image cannot be read, or no line is long enough.
    """
    out.mkdir(parents=True, exist_ok=True)
    paths: list[Path] = []
    for row in labels.read_text(encoding="utf-8").splitlines():
        name, _, boxes = row.partition("\t")
        image = cv2.imread(str(data / name))
        if image is None:
            raise PruneError(f"{data / name} cannot be read as an image")
        for box in json.loads(boxes or "[]"):
            if len(paths) == count:
                return paths
            line = straightened(image, box["points"])
            if box.get("transcription") in ("*", "###") or line is None:
                continue
            paths.append(out / f"{len(paths):04d}.png")
            cv2.imwrite(str(paths[-1]), line)
    if not paths:
        raise PruneError(f"{labels}: has no line of text that is longer than high")
    return paths


def straightened(
    image: npt.NDArray[np.uint8], points: Sequence[Sequence[float]]
) -> npt.NDArray[np.uint8] | None:
    """The quadrilateral ``points`` (clockwise from the top left), 48 pixels high; None where it is
    no quadrilateral, or higher than wide."""
    corners = np.array(points, np.float32)
    if corners.shape != (4, 2):
        return None
    sides = np.linalg.norm(corners - np.roll(corners, -1, axis=0), axis=1)
    width, height = max(sides[0], sides[2]), max(sides[1], sides[3])
    if height < 4 or width < height:
        return None
    width = max(LINE_HEIGHT, round(float(width * LINE_HEIGHT / height)))
    target = np.array([[0, 0], [width, 0], [width, LINE_HEIGHT], [0, LINE_HEIGHT]], np.float32)
    matrix = cv2.getPerspectiveTransform(corners, target)
    line: npt.NDArray[np.uint8] = cv2.warpPerspective(image, matrix, (width, LINE_HEIGHT))
    return line
