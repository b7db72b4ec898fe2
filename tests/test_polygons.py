"""The detection metric with its polygons remembered gives the same numbers, sooner."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppocr_prune_plugin.hooks.adapters.polygons import cached_polygons
from ppocr_prune_plugin.hooks.adapters.tree import use_tree


@pytest.fixture(autouse=True)
def _tree(tree: Path) -> None:
    use_tree(tree)


def quadrangles(random: np.random.Generator, number: int) -> np.ndarray[Any, Any]:
    """Texts anywhere on a page, some of them upside down or crossing themselves."""
    centre, size = random.uniform(0, 400, (number, 1, 2)), random.uniform(0, 80, (number, 1, 2))
    corners = np.asarray([[-1, -1], [1, -1], [1, 1], [-1, 1]]) / 2
    return centre + corners * size + random.normal(0, 6, (number, 4, 2))


def test_the_numbers_are_the_same() -> None:
    from ppocr.metrics import eval_det_iou
    from ppocr.metrics.det_metric import DetMetric

    random, original = np.random.default_rng(0), eval_det_iou.Polygon
    pages = []
    for _ in range(30):
        labels = quadrangles(random, 12)
        found = np.concatenate([labels + random.normal(0, 3, labels.shape), quadrangles(random, 9)])
        ignored = random.random(12) < 0.2
        pages.append(([{"points": found}], [None, None, labels[None], ignored[None]]))
    plain, cached = DetMetric(), DetMetric()
    for page in pages:
        plain(*page)
        with cached_polygons():
            cached(*page)
    assert cached.results == plain.results
    matched = sum(result["detMatched"] for result in plain.results)
    assert 0 < matched < sum(result["detCare"] for result in plain.results)
    assert eval_det_iou.Polygon is original


def test_polygons_with_different_numbers_of_corners() -> None:
    """Curved texts come as lists."""
    from ppocr.metrics.eval_det_iou import DetectionIoUEvaluator

    label = {"points": [(0, 0), (30, 5), (60, 0), (60, 20), (30, 25), (0, 20)], "ignore": False}
    found = {"points": [(0, 0), (60, 0), (60, 20), (0, 20)]}
    far = {"points": [(200, 0), (210, 0), (205, 9)]}
    plain = DetectionIoUEvaluator().evaluate_image([label], [far, found])
    with cached_polygons():
        assert DetectionIoUEvaluator().evaluate_image([label], [far, found]) == plain
    assert plain["detMatched"] == 1
