"""Draw what two exported detectors find in one image, side by side."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree

from .exported import load
from .weights import network_input


def draw_side_by_side(
    image: Path,
    models: Sequence[tuple[str, Path]],
    post_process: dict[str, Any],
    out: Path,
) -> list[int]:
    """Write ``out`` with one panel per (title, exported model); return the numbers of boxes.

    ``post_process`` is the config's ``PostProcess`` section. Raises :class:`PruneError` where the
    image cannot be read.
    """
    use_tree(find_tree())
    from ppocr.postprocess import build_post_process

    decode = build_post_process(dict(post_process), {})
    pixels = cv2.imread(str(image))
    if pixels is None:
        raise PruneError(f"{image} cannot be read as an image")
    x = network_input("det", image)
    height, width = pixels.shape[:2]
    shape = np.array([[height, width, x.shape[2] / height, x.shape[3] / width]], np.float32)
    panels, counts = [], []
    for title, folder in models:
        boxes = decode({"maps": load(folder)(x)[0]}, shape)[0]["points"]
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
