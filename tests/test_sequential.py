"""Losses measured on as few images as the question allows, with PaddleOCR's own metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ppocr_prune_plugin.hooks.adapters.metric_states import Both, MetricStates
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.sensitivity.sequential import Question, SequentialTest, spread
from ppocr_prune_plugin.sensitivity.spill import ArrayStore

BOX = np.asarray([[0, 0], [20, 0], [20, 10], [0, 10]], np.float32)


@pytest.fixture(autouse=True)
def _tree(tree: Path) -> None:
    use_tree(tree)


def detections(found: Sequence[int], boxes: int = 4) -> list[tuple[Any, Any]]:
    """Answers to pages of ``boxes`` texts each, of which so many are found: what PaddleOCR's
    post-processing gives, and the batch."""
    rows = [BOX + [0, 30 * row] for row in range(boxes)]
    batch = [None, None, [rows], [[False] * boxes]]
    return [([{"points": rows[:count], "scores": [0.9] * count}], batch) for count in found]


def readings(right: Sequence[int]) -> list[tuple[Any, Any]]:
    """Answers to one text each, right or wrong."""
    return [(([("text" if ok else "txt", 0.9)], [("text", 1.0)]), []) for ok in right]


class Answers:
    """An evaluation, by a real PaddleOCR metric, of answers that are known beforehand.

    ``kinds`` are all the answers there are; ``before`` and ``after`` say which of them the
    unpruned and the pruned model give to each image.
    """

    metric, data, current = "main", "known", None

    def __init__(
        self,
        metric: Any,
        kinds: list[Any],
        before: Sequence[int],
        after: Sequence[int],
        folder: Path,
    ) -> None:
        self.images, self.sizes = len(before), [1] * len(before)
        self.activations = ArrayStore(0, folder)
        self._states = MetricStates(metric)
        both = Both(metric, self._states)
        for answer in kinds:
            both(*answer)
        assert both.agrees(float(both.get_metric()[metric.main_indicator]))
        self._before = [self._states.collected[kind] for kind in before]
        self._after = [self._states.collected[kind] for kind in after]
        self.seen = 0

    def __call__(self) -> float:
        return self.combined(self._after, [1] * len(self._after))

    def baseline(self) -> float:
        return self.combined(self._before, [1] * len(self._before))

    def unpruned(self) -> list[Any]:
        return self._before

    def states(self, units: Sequence[int]) -> list[Any]:
        self.seen += len(units)
        return [self._after[unit] for unit in units]

    def combined(self, states: Sequence[Any], counts: Sequence[int]) -> float:
        return self._states.combined(states, counts)

    def outputs(self, unit: int) -> Any:
        raise NotImplementedError


def pages(random: np.random.Generator, hurt: float, number: int, folder: Path) -> Answers:
    """Detection: each text is found by the unpruned model in 95 of 100 cases, and of those lost by
    the pruned one with the probability ``hurt``."""
    from ppocr.metrics.det_metric import DetMetric

    before = random.binomial(4, 0.95, number)
    after = random.binomial(before, 1 - hurt)
    return Answers(DetMetric(), detections(range(5)), before, after, folder)


def test_decisions_on_few_images_are_those_on_all(tmp_path: Path) -> None:
    """At most one in a hundred may differ; where the answer is clear, few images are seen."""
    random, wrong, seen = np.random.default_rng(1), 0, {}
    for hurt in (0.0, 0.02, 0.05, 0.1, 0.5):
        for _ in range(8):
            evaluation = pages(random, hurt, 200, tmp_path)
            base = evaluation.baseline()
            test = SequentialTest(evaluation, base, exact=False)
            found = test.measure(Question(0.05, curve=False))
            truth = (base - evaluation()) / base
            wrong += (found.loss > 0.05) != (truth > 0.05)
            assert (found.images == 200) == (found.low == found.high)
            if found.images == 200:
                assert found.loss == pytest.approx(truth)
            seen.setdefault(hurt, []).append(evaluation.seen)
    assert wrong <= 1
    assert np.mean(seen[0.5]) <= 20, "a deep cut shows on the first look"
    assert np.mean(seen[0.1]) > 120, "at the bound itself nearly all images are needed"


def test_curves_are_measured_until_they_are_sharp(tmp_path: Path) -> None:
    random, covered = np.random.default_rng(2), 0
    for _ in range(20):
        evaluation = pages(random, 0.1, 200, tmp_path)
        base = evaluation.baseline()
        found = SequentialTest(evaluation, base, exact=False).measure(Question(0.5, curve=True))
        truth = (base - evaluation()) / base
        covered += found.low - 1e-9 <= truth <= found.high + 1e-9
        assert found.high - found.low <= 2 * max(0.005, 0.1 * found.loss) + 1e-9
    assert covered >= 19


def test_rare_damage_is_not_overlooked(tmp_path: Path) -> None:
    """3 of 100 texts are hurt, none of those seen first: a bootstrap alone would know nothing."""
    from ppocr.metrics.rec_metric import RecMetric

    right, order = [1] * 400, np.random.default_rng(0).permutation(400)
    after = list(right)
    for unit in order[100:112]:  # the order in which images are looked at
        after[unit] = 0
    evaluation = Answers(RecMetric(main_indicator="acc"), readings([0, 1]), right, after, tmp_path)
    test = SequentialTest(evaluation, evaluation.baseline(), exact=False)
    found = test.measure(Question(0.02, curve=False))
    assert found.loss > 0.02 and evaluation.seen > 100


def test_exact_sees_everything(tmp_path: Path) -> None:
    evaluation = pages(np.random.default_rng(3), 0.5, 60, tmp_path)
    base = evaluation.baseline()
    found = SequentialTest(evaluation, base, exact=True).measure(Question(0.05, curve=False))
    assert found.images == 60 and found.loss == (base - evaluation()) / base


def test_the_spread_over_images(tmp_path: Path) -> None:
    """Of an accuracy of 0.8 on 400 texts it is ± 2 standard errors of 0.02."""
    from ppocr.metrics.rec_metric import RecMetric

    right = np.random.default_rng(4).permutation([1] * 320 + [0] * 80).tolist()
    evaluation = Answers(RecMetric(main_indicator="acc"), readings([0, 1]), right, right, tmp_path)
    interval = spread(evaluation)
    assert interval is not None
    assert interval[0] == pytest.approx(0.76, abs=0.01)
    assert interval[1] == pytest.approx(0.84, abs=0.01)


def test_metrics_of_metrics_are_taken_apart() -> None:
    """Distillation gathers one metric per model, made at the first batch; FCE one list per
    threshold."""
    from ppocr.metrics.det_metric import DetFCEMetric
    from ppocr.metrics.distillation_metric import DistillationMetric

    metric = DistillationMetric(key="Student", base_metric_name="DetMetric", main_indicator="hmean")
    states = MetricStates(metric)
    both = Both(metric, states)
    for preds, batch in detections([4, 3, 1, 4]):
        both({"Student": preds, "Teacher": preds[:1]}, batch)
    assert both.agrees(float(both.get_metric()["hmean"]))
    first = states.combined(states.collected[:1], [1])
    assert first == 1.0 and states.combined(states.collected[2:], [3, 1]) < 1.0

    metric = DetFCEMetric()
    both = Both(metric, MetricStates(metric))
    for answer in detections([4, 2, 4]):
        both(*answer)
    assert both.agrees(float(both.get_metric()[metric.main_indicator]))


def test_a_metric_that_is_no_sum_is_found_out() -> None:
    """Its batches are weighted by their place: no choice of images has a metric of its own."""
    from ppocr.metrics.rec_metric import RecMetric

    class Forgetful(RecMetric):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            self.correct_num /= 2
            return super().__call__(*args, **kwargs)

    metric = Forgetful(main_indicator="acc")
    both = Both(metric, MetricStates(metric))
    for answer in readings([1, 0, 1, 1]):
        both(*answer)
    assert not both.agrees(float(both.get_metric()["acc"]))
