"""Batch norms after a cut: what lost nothing stays, a shift is followed, nothing is chance."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.chance import without_chance
from ppocr_prune_plugin.graph.groups import ChannelGraph, build_graph
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.recovery.batch_norm import BatchNormRecalibration

INPUTS = [([4, 3, 8, 8], "float32")]


class DropPath(nn.Layer):
    """As PaddleOCR's backbones have it: whole samples are dropped."""

    def forward(self, x: Any) -> Any:
        if not self.training:
            return x
        return x * paddle.floor(0.5 + paddle.rand([x.shape[0], 1, 1, 1])) / 0.5


class Net(nn.Layer):
    """Chance of every kind between two convolutions and the second one's batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(3, 8, 1, bias_attr=False), nn.Conv2D(8, 4, 1)
        self.norm, self.dropout, self.path = nn.BatchNorm2D(4), nn.Dropout(0.5), DropPath()
        self.rng = np.random.default_rng()

    def forward(self, x: Any) -> Any:
        x = self.path(self.dropout(self.first(x)))
        if self.training:
            x = nn.functional.dropout(x, 0.1)
            x = x * float(1 + 0.1 * self.rng.random() + 0.1 * np.random.rand() * random.random())
        return self.norm(self.second(x))


@pytest.fixture
def net() -> Iterator[tuple[Net, ChannelGraph, list[Any]]]:
    paddle.seed(0)
    model = Net()
    model.norm._mean.set_value(np.linspace(-1, 1, 4, dtype="float32"))
    model.norm._variance.set_value(np.linspace(0.5, 2, 4, dtype="float32"))
    batches = [functools.partial(model, paddle.rand([4, 3, 8, 8])) for _ in range(2)]
    yield model, build_graph(model, INPUTS), batches


def keeping(*kept: int) -> list[GroupPlan]:
    return [GroupPlan("first", 8, kept, len(kept))]


def statistics(model: Net) -> tuple[np.ndarray, np.ndarray]:
    return model.norm._mean.numpy(), model.norm._variance.numpy()


def test_what_lost_nothing_stays_as_it_was(net: tuple[Net, ChannelGraph, list[Any]]) -> None:
    """To the bit, although dropout and random depth lie before the norm; and whoever uses random
    numbers next gets what it would have got."""
    model, graph, batches = net
    model.train()
    before = statistics(model)
    recalibration = BatchNormRecalibration(model, batches)
    paddle.seed(5), np.random.seed(5), random.seed(5)
    recalibration.apply(graph, keeping(*range(8)), surgery.Undo())
    after = statistics(model)
    assert all(np.array_equal(a, b) for a, b in zip(before, after, strict=True))
    drawn = paddle.rand([3]).numpy(), np.random.rand(3), random.random()
    paddle.seed(5), np.random.seed(5), random.seed(5)
    assert np.array_equal(drawn[0], paddle.rand([3]).numpy())
    assert np.array_equal(drawn[1], np.random.rand(3)) and drawn[2] == random.random()
    assert model.training and model.dropout.training


def test_every_process_and_every_restart_gets_the_same(
    net: tuple[Net, ChannelGraph, list[Any]],
) -> None:
    model, graph, batches = net
    found = []
    for seed in (1, 2):
        paddle.seed(seed), np.random.seed(seed), random.seed(seed)
        recalibration = BatchNormRecalibration(model, batches)
        undo = surgery.prune(model, graph, keeping(0, 2, 4, 6))
        recalibration.apply(graph, keeping(0, 2, 4, 6), undo)
        found.append(statistics(model))
        surgery.restore(model, undo)
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])
    assert not np.allclose(found[0][1], np.linspace(0.5, 2, 4))


class Plain(nn.Layer):
    """Channel 7 adds ``shift`` to what the norm sees, and the others nothing but ``scale`` x."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2D(1, 8, 1), nn.Conv2D(8, 1, 1, bias_attr=False)
        self.norm = nn.BatchNorm2D(1)

    def forward(self, x: Any) -> Any:
        return self.norm(self.second(self.first(x)))


def plain(shift: float, scale: float) -> tuple[Plain, ChannelGraph, list[Any]]:
    model = Plain()
    model.first.weight.set_value(np.r_[1, np.zeros(6), scale].reshape(8, 1, 1, 1).astype("float32"))
    model.first.bias.set_value(np.r_[np.zeros(7), shift].astype("float32"))
    model.second.weight.set_value(np.ones((1, 8, 1, 1), "float32"))
    model.norm._mean.set_value(np.float32([10]))
    model.norm._variance.set_value(np.float32([4]))
    x = paddle.to_tensor(np.linspace(-1, 1, 64, dtype="float32").reshape(1, 1, 8, 8))
    return model, build_graph(model, [([1, 1, 8, 8], "float32")]), [lambda: model(x)]


def test_a_known_shift_is_followed_and_undone() -> None:
    """Without the last channel the sum is 3 smaller, and half as wide."""
    model, graph, batches = plain(shift=3.0, scale=1.0)
    recalibration = BatchNormRecalibration(model, batches)
    undo = surgery.prune(model, graph, keeping(*range(7)))
    recalibration.apply(graph, keeping(*range(7)), undo)
    mean, variance = model.norm._mean.numpy(), model.norm._variance.numpy()
    np.testing.assert_allclose(mean, [7], atol=1e-5)
    np.testing.assert_allclose(variance, [1], rtol=1e-5)
    surgery.restore(model, undo)
    assert model.norm._mean.numpy() == [10] and model.norm._variance.numpy() == [4]
    assert model.first.weight.shape == [8, 1, 1, 1]


@pytest.mark.parametrize(("scale", "factor"), [(99.0, 0.1), (-0.99, 10.0), (-1.0, 10.0)])
def test_a_variance_changes_by_a_factor_of_ten_at_most(scale: float, factor: float) -> None:
    """Also where there was none: the last channel may have cancelled the first."""
    model, graph, batches = plain(shift=0.0, scale=scale)
    recalibration = BatchNormRecalibration(model, batches)
    undo = surgery.prune(model, graph, keeping(*range(7)))
    recalibration.apply(graph, keeping(*range(7)), undo)
    np.testing.assert_allclose(model.norm._variance.numpy(), [4 * factor], rtol=1e-5)


def test_a_channel_that_never_varies_keeps_its_variance() -> None:
    model, graph, batches = plain(shift=0.0, scale=-1.0)
    recalibration = BatchNormRecalibration(model, batches)
    recalibration.apply(graph, keeping(*range(8)), surgery.Undo())
    assert model.norm._variance.numpy() == [4]


def test_an_estimate_that_is_no_number_is_none() -> None:
    model, graph, batches = plain(shift=0.0, scale=1.0)
    recalibration = BatchNormRecalibration(model, batches)
    model.first.weight.set_value(np.full((8, 1, 1, 1), np.inf, "float32"))
    recalibration.apply(graph, keeping(*range(8)), surgery.Undo())
    assert model.norm._mean.numpy() == [10] and model.norm._variance.numpy() == [4]


def test_chance_comes_back_after_an_error(net: tuple[Net, ChannelGraph, list[Any]]) -> None:
    model, _, _ = net
    model.train()
    state = model.rng.bit_generator.state
    with pytest.raises(ZeroDivisionError), without_chance(model):
        assert not model.dropout.training and not model.path.training and model.norm.training
        model.rng.random()
        raise ZeroDivisionError
    assert model.dropout.training and model.path.training
    assert model.rng.bit_generator.state == state
