"""Criteria against naive loops, and the rules for widths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from paddle import nn

from ppocr_prune_plugin.criteria import fpgm, kept_by_importance, l1, l2, resolve
from ppocr_prune_plugin.graph.groups import ChannelGroup, build_graph
from ppocr_prune_plugin.ratios.rounding import width_for_ratio, widths

RANDOM = np.random.default_rng(5)
FILTERS = RANDOM.standard_normal((12, 4 * 3 * 3)) + 3.0  # far from zero: differences are small


def test_norms_equal_loops() -> None:
    assert np.allclose(l1(FILTERS), [sum(abs(w) for w in row) / len(row) for row in FILTERS])
    assert np.allclose(l2(FILTERS), [sum(w * w for w in row) ** 0.5 for row in FILTERS])


def test_fpgm_equals_a_loop_over_pairs() -> None:
    expected = [sum(np.linalg.norm(a - b) for b in FILTERS) for a in FILTERS]
    assert np.allclose(fpgm(FILTERS), expected)
    equal = np.repeat(FILTERS[:1], 5, axis=0)
    assert np.array_equal(fpgm(equal), np.zeros(5))


def test_fpgm_keeps_its_precision_far_from_the_origin() -> None:
    moved = FILTERS + 1e6
    assert np.allclose(fpgm(moved), fpgm(FILTERS), rtol=1e-5)


def test_fpgm_removes_what_others_can_replace_and_l1_what_is_small() -> None:
    filters = np.array([[10.0, 0.0], [0.0, 10.0], [6.0, 6.0], [6.1, 6.0], [0.1, 0.1]])
    assert 4 not in kept_by_importance(l1(filters), 4)
    assert {2, 3}.isdisjoint(kept_by_importance(fpgm(filters), 3))


def test_kept_channels_are_sorted_and_the_most_important() -> None:
    assert kept_by_importance(np.array([3.0, 1.0, 2.0, 5.0]), 2) == (0, 3)
    assert kept_by_importance(np.array([3.0, 1.0, 2.0, 5.0]), 4) == (0, 1, 2, 3)
    assert kept_by_importance(np.zeros(4), 3) == (1, 2, 3)


class Residual(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2D(3, 6, 1), nn.Conv2DTranspose(6, 6, 1, groups=2)
        self.norm, self.head = nn.BatchNorm2D(6), nn.Conv2D(6, 2, 1)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        return self.head(x + self.norm(self.body(x)))


@pytest.fixture(scope="module")
def residual() -> tuple[ChannelGroup, dict[str, np.ndarray]]:
    model = Residual()
    (group,) = build_graph(model, [([1, 3, 4, 4], "float32")]).groups
    random = np.random.default_rng(2)
    arrays = {
        name: random.standard_normal(t.shape).astype("float32")
        for name, t in model.state_dict().items()
    }
    return group, arrays


def scores(name: str, group: ChannelGroup, arrays: dict[str, np.ndarray]) -> np.ndarray:
    return resolve(name).importance(group, arrays)


def test_the_root_decides(residual: tuple[ChannelGroup, dict[str, np.ndarray]]) -> None:
    """Both of its filters per channel: a grouped convolution reads the sum."""
    group, arrays = residual
    assert group.size == 3 and group.root.parameter == "stem.weight"
    assert {m.parameter for m in group.producers} == {"stem.weight", "body.weight"}
    stem = arrays["stem.weight"]
    expected = [np.abs(stem[[i, i + 3]]).mean() for i in range(3)]
    assert np.allclose(scores("l1", group, arrays), expected)
    pairs = np.concatenate([stem[:3], stem[3:]], axis=1).reshape(3, -1)
    distances = [sum(np.linalg.norm(a - b) for b in pairs) for a in pairs]
    assert np.allclose(scores("fpgm", group, arrays), distances)
    other = {**arrays, "body.weight": arrays["body.weight"][:, ::-1]}
    for criterion in ("l1", "l2", "fpgm"):
        unchanged = scores(criterion, group, arrays)
        assert np.array_equal(scores(criterion, group, other), unchanged), criterion


def test_bn_scale(residual: tuple[ChannelGroup, dict[str, np.ndarray]]) -> None:
    group, arrays = residual
    scales = np.abs(arrays["norm.weight"]).reshape(2, 3).mean(axis=0)
    assert np.allclose(scores("bn_scale", group, arrays), scales / scales.mean())


def test_bn_scale_falls_back_to_l1_without_a_batch_norm() -> None:
    model = nn.Sequential(nn.Conv2D(3, 4, 1), nn.Conv2D(4, 2, 1))
    (group,) = build_graph(model, [([1, 3, 4, 4], "float32")]).groups
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert np.array_equal(scores("bn_scale", group, arrays), scores("l1", group, arrays))


def test_random_is_the_same_in_every_run(
    residual: tuple[ChannelGroup, dict[str, np.ndarray]],
) -> None:
    group, arrays = residual
    first = scores("random", group, arrays)
    assert np.array_equal(first, scores("random", group, arrays))
    assert len(set(first.tolist())) == 3


@pytest.mark.parametrize(
    ("size", "round_to", "allowed"),
    [
        (32, 8, [32, 24, 16, 8]),
        (20, 8, [20, 16, 8]),
        (8, 8, [8]),
        (5, 8, [5, 4, 3, 2, 1]),
        (4, 1, [4, 3, 2, 1]),
        (1, 1, [1]),
    ],
)
def test_widths(size: int, round_to: int, allowed: list[int]) -> None:
    assert widths(size, round_to) == allowed


@pytest.mark.parametrize(
    ("size", "ratio", "round_to", "width"),
    [
        (32, 0.0, 8, 32),
        (32, 0.3, 8, 24),  # 22.4
        (32, 0.375, 8, 24),  # 20 lies between 16 and 24: the wider
        (32, 0.99, 8, 8),
        (20, 0.05, 8, 20),  # 19
        (20, 0.15, 8, 16),  # 17
        (5, 0.5, 8, 3),
        (3, 0.5, 1, 2),
        (5, 0.5, 1, 3),
        (10, 0.3, 1, 7),
        (10, 0.999, 1, 1),
    ],
)
def test_width_for_ratio(size: int, ratio: float, round_to: int, width: int) -> None:
    assert width_for_ratio(size, ratio, round_to) == width
