"""Draw what two exported detectors find in one image, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ppocr_prune_plugin.errors import PruneError

from .detector import Detector


def draw_side_by_side(image: Path, models: Sequence[tuple[str, Detector]], out: Path) -> list[int]:
    """Write ``out`` with one panel per (title, detector); return the numbers of boxes.

    Raises :class:`PruneError` where the image cannot be read.
    """
    pixels = cv2.imread(str(image))
    if pixels is None:
        raise PruneError(f"{image} cannot be read as an image")
    width = pixels.shape[1]
    panels, counts = [], []
    for title, detector in models:
        boxes = detector.boxes(image)
        panel = pixels.copy()
        for box in boxes:
            corners = np.asarray(box, np.int32).reshape(-1, 1, 2)
            cv2.polylines(panel, [corners], True, (0, 0, 220), 2, cv2.LINE_AA)
        head = np.full((34, width, 3), 255, np.uint8)
        label = f"{title}: {len(boxes)} lines"
        cv2.putText(head, label, (8, 23), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1, cv2.LINE_AA)
        panels.append(np.vstack([head, panel]))
        counts.append(len(boxes))
    temporary = out.with_name(f".{out.name}")
    if not cv2.imwrite(str(temporary), np.hstack(panels)):
        raise PruneError(f"{out} cannot be written")
    os.replace(temporary, out)
    return counts
