"""The rendered data set: the same for a seed, and labelled where the ink is."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo.render import render

Labels = list[tuple[str, list[dict[str, object]]]]


def labels(root: Path, part: str) -> Labels:
    lines = (root / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    return [(path, json.loads(boxes)) for path, boxes in (line.split("\t") for line in lines)]


def contents(root: Path) -> dict[str, bytes]:
    files = [path for path in root.rglob("*") if path.is_file()]
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


def test_same_seed_same_files(tmp_path: Path) -> None:
    first = contents(render(tmp_path / "a", train=2, val=2, seed=3))
    assert first == contents(render(tmp_path / "b", train=2, val=2, seed=3))
    other = contents(render(tmp_path / "c", train=2, val=2, seed=4))
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first)
    assert first["train/0000.jpg"] != first["val/0000.jpg"]
    assert first["train/0000.jpg"] != first["train/0001.jpg"]


@pytest.mark.parametrize("part", ["train", "val"])
def test_boxes_lie_inside_the_picture_in_order_and_hold_ink(rendered: Path, part: str) -> None:
    pages = 0
    for path, boxes in labels(rendered, part):
        image = cv2.imread(str(rendered / path), cv2.IMREAD_GRAYSCALE)
        height, width = image.shape
        assert boxes, path
        pages += height > width
        for box in boxes:
            quad = np.array(box["points"], np.float32)
            assert box["transcription"]
            assert (quad >= 0).all() and (quad < [width, height]).all(), (path, box)
            # Clockwise in an image, whose y axis points down, starting at the text's top left.
            assert cv2.contourArea(quad, oriented=True) > 20
            assert quad[0, 0] < quad[1, 0] and quad[0, 1] < quad[3, 1]
            assert _contrast(image, quad) > 30, (path, box)
    assert 0 < pages < len(labels(rendered, part))


def test_nothing_is_labelled_twice(rendered: Path) -> None:
    for path, boxes in labels(rendered, "train"):
        image = cv2.imread(str(rendered / path))
        count = np.zeros(image.shape[:2], np.uint8)
        for box in boxes:
            mask = np.zeros_like(count)
            cv2.fillConvexPoly(mask, np.array(box["points"], np.int32), 1)
            count += mask
        assert (count > 1).sum() < 5, path


def _contrast(image: np.ndarray, quad: np.ndarray) -> float:
    """Difference of brightness between ink and ground inside a box."""
    mask = np.zeros_like(image)
    cv2.fillConvexPoly(mask, quad.astype(np.int32), 1)
    low, high = np.percentile(image[mask == 1], [3, 97])
    return float(high - low)
