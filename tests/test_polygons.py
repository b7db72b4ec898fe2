"""The detection metric with its polygons remembered gives the same numbers, sooner; and what is
counted beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppocr_prune_plugin.hooks.adapters.boxes import HMEAN, OVERLAP, Fits, fits_of
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


def pages() -> Iterator[tuple[list[dict[str, Any]], list[Any]]]:
    """Boxes that were found on a page, and its labels, as the metric is given them."""
    random = np.random.default_rng(0)
    for _ in range(30):
        labels = quadrangles(random, 12)
        found = np.concatenate([labels + random.normal(0, 3, labels.shape), quadrangles(random, 9)])
        ignored = random.random(12) < 0.2
        yield [{"points": found}], [None, None, labels[None], ignored[None]]


def test_the_numbers_are_the_same() -> None:
    from ppocr.metrics import eval_det_iou
    from ppocr.metrics.det_metric import DetMetric

    original = eval_det_iou.Polygon
    plain, cached = DetMetric(), DetMetric()
    for page in pages():
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


def test_boxes_are_matched_as_the_metric_matches_them() -> None:
    """With its own evaluator set to 0.7 it says the same."""
    from ppocr.metrics.det_metric import DetFCEMetric, DetMetric
    from ppocr.metrics.eval_det_iou import DetectionIoUEvaluator

    stricter = DetMetric()
    stricter.evaluator = DetectionIoUEvaluator(iou_constraint=0.7)
    fits = fits_of(stricter)
    assert fits is not None and fits_of(DetFCEMetric()) is None
    for page in pages():
        stricter(*page)
        fits(*page)
    figures = fits.figures()
    assert figures[HMEAN] == pytest.approx(stricter.get_metric()["hmean"], abs=1e-12)
    assert 0 < figures[HMEAN] < 1
    assert 0.5 < figures[OVERLAP] < 1


def test_how_well_boxes_fit() -> None:
    def box(left: float, right: float, top: float = 0) -> list[tuple[float, float]]:
        return [(left, top), (right, top), (right, top + 10), (left, top + 10)]

    fits = Fits()
    # IoU 0.8 and 0.6, a line without a box, a box for which there is no line.
    fits.add([box(0, 100), box(200, 300), box(400, 500)], [False] * 3, [box(0, 80), box(200, 260)])
    fits.add([], [], [box(0, 10)])
    assert fits.figures() == {HMEAN: pytest.approx(2 * 1 / 6), OVERLAP: pytest.approx(0.7)}
    # Neither a line that nobody can read, nor what was found in it.
    fits.add([box(0, 100), box(0, 100, 50)], [True, False], [box(10, 20), box(0, 100, 50)])
    assert fits.figures() == {HMEAN: pytest.approx(2 * 2 / 8), OVERLAP: pytest.approx(2.4 / 3)}
    assert Fits().figures() == {HMEAN: 0.0, OVERLAP: 0.0}
