"""Readers of pruned channels get back what a linear map of the kept ones can give."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import arrays_of, calibrate
from paddle import nn
from paddle.nn import functional

from demo.weights import build, network_input
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.distance import distances, outputs_of
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.moments import Moments, collect
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.recovery.compensation import Compensation
from ppocr_prune_plugin.recovery.recovery import Recovery

INPUTS = [([1, 3, 16, 24], "float32")]


def images(count: int, seed: int = 0) -> paddle.Tensor:
    """Smooth images: neighbouring channels and pixels are alike, as in those of a camera."""
    random = np.random.default_rng(seed)
    coarse = random.standard_normal((count, 3, 8, 12)).astype("float32")
    return functional.interpolate(paddle.to_tensor(coarse), scale_factor=2, mode="bilinear")


class Dense(nn.Layer):
    """Convolution, batch norm and activation, read by a convolution of another kind."""

    def __init__(self, reader: nn.Layer, depthwise: bool = False) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 8, 1)
        self.depthwise = nn.Conv2D(8, 8, 3, padding=1, groups=8) if depthwise else None
        self.reader = reader
        self.bn = nn.BatchNorm2D(4)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.first(x)
        if self.depthwise is not None:
            x = self.depthwise(x)
        return self.bn(self.reader(x))


class Rows(nn.Layer):
    """Linear layers and a recurrent one."""

    def __init__(self, recurrent: Any) -> None:
        super().__init__()
        self.first = nn.Linear(3, 8)
        self.reader = nn.Linear(8, 6)
        self.recurrent = recurrent

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = x.mean(axis=2).transpose([0, 2, 1])
        return self.recurrent(self.reader(self.first(x)))[0]


class Tied(nn.Layer):
    """Two layers with one weight, which read the same channels at two places."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 8, 1)
        self.a, self.b = nn.Conv2D(8, 4, 1), nn.Conv2D(8, 4, 1)
        self.b.weight = self.a.weight

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.first(x)
        return self.a(x) + self.b(3 * x + 1)


def dependent(weight: paddle.Tensor, bias: paddle.Tensor, axis: int) -> None:
    """Make the last two channels combinations of the first ones (and a constant)."""
    array = np.moveaxis(weight.numpy().copy(), axis, 0)
    array[-1] = 0.5 * array[0] - 2 * array[2]
    array[-2] = array[1] + array[3]
    weight.set_value(np.ascontiguousarray(np.moveaxis(array, 0, axis)))
    shift = bias.numpy().copy()
    shift[-1], shift[-2] = 0.5 * shift[0] - 2 * shift[2] + 0.7, shift[1] + shift[3] - 0.3
    bias.set_value(shift)


def compensation_of(model: nn.Layer, count: int = 16) -> Compensation:
    batches: list[Callable[[], Any]] = [
        lambda: model(images(count // 2, 1)),
        lambda: model(images(count // 2, 2)),
    ]
    graph = build_graph(model, INPUTS)
    return Compensation(model, graph, collect(model, graph, batches))


def keep(compensation: Compensation, name: str, kept: tuple[int, ...]) -> list[GroupPlan]:
    group = compensation.graph[name]
    return [GroupPlan(name, group.size, kept, len(kept))]


READERS: dict[str, Callable[[], nn.Layer]] = {
    "pointwise": lambda: Dense(nn.Conv2D(8, 4, 1)),
    "without_bias": lambda: Dense(nn.Conv2D(8, 4, 1, bias_attr=False)),
    "three_by_three": lambda: Dense(nn.Conv2D(8, 4, 3)),
    "transposed": lambda: Dense(nn.Conv2DTranspose(8, 4, 2, 2)),
}


@pytest.mark.parametrize("name", READERS)
def test_a_dependent_channel_costs_nothing(name: str) -> None:
    """The constant part goes into the bias, or into the batch norm behind, exactly."""
    paddle.seed(1)
    model = READERS[name]()
    dependent(model.first.weight, model.first.bias, 0)
    if name == "transposed":  # a constant meets each tap by itself: only their mean is a bias
        model.first.bias.set_value(np.zeros(8, "float32"))
    calibrate(model.bn, model.reader(model.first(images(8))))
    model.eval()
    x = images(4, 5)
    before = model(x).numpy()
    compensation = compensation_of(model)
    assert compensation.read.left == {}
    arrays = arrays_of(model)
    plan = keep(compensation, "first", (0, 1, 2, 3, 4, 5))
    undo = surgery.prune(model, compensation.graph, plan)
    plain = np.abs(model(x).numpy() - before).max()
    missing = compensation.apply(plan, undo)
    change = np.abs(model(x).numpy() - before).max()
    assert plain > 0.1 * np.ptp(before)
    assert change < 1e-5 * np.ptp(before) and missing["reader.weight"] < 1e-8
    surgery.restore(model, undo)
    for key, array in arrays_of(model).items():
        assert np.array_equal(array, arrays[key]), key


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN"])
def test_linear_and_recurrent_readers(kind: str) -> None:
    paddle.seed(2)
    model = Rows(getattr(nn, kind)(6, 4, direction="bidirect"))
    dependent(model.first.weight, model.first.bias, 1)
    dependent(model.reader.weight, model.reader.bias, 1)
    model.eval()
    x = images(4, 5)
    before = model(x).numpy()
    compensation = compensation_of(model)
    assert {reader.layer for reader in compensation.read.readers} == {"reader", "recurrent"}
    assert compensation.read.remark == "", "recurrent layers have gradients in evaluation mode"
    plan = keep(compensation, "first", tuple(range(6))) + keep(
        compensation, "reader", tuple(range(4))
    )
    undo = surgery.prune(model, compensation.graph, plan)
    plain = np.abs(model(x).numpy() - before).max()
    compensation.apply(plan, undo)
    assert plain > 0.1 * np.ptp(before)
    assert np.abs(model(x).numpy() - before).max() < 1e-5 * np.ptp(before)


def test_a_shared_weight_is_read_everywhere() -> None:
    """What both layers read counts, and one weight serves both; biases of their own stay."""
    paddle.seed(5)
    model = Tied()
    dependent(model.first.weight, model.first.bias, 0)
    model.first.bias.set_value(np.zeros(8, "float32"))
    model.eval()
    compensation = compensation_of(model)
    (reader,) = compensation.read.readers
    assert reader.weight == "a.weight" and reader.bias == ""
    x = images(4, 5)
    one = compensation_of(READERS["pointwise"]()).read.moments["reader.weight"]
    both = compensation.read.moments["a.weight"]
    assert both.count.sum() == pytest.approx(2 * one.count.sum(), rel=0.2)
    before = model(x).numpy()
    plan = keep(compensation, "first", (0, 1, 2, 3, 4, 5))
    undo = surgery.prune(model, compensation.graph, plan)
    plain = np.square(model(x).numpy() - before).mean()
    compensation.apply(plan, undo)
    assert model.b.weight is model.a.weight
    # What is constant in 3x + 1 is no combination of the channels: some of it is lost.
    assert np.square(model(x).numpy() - before).mean() < 0.2 * plain


def test_nothing_cut_changes_nothing() -> None:
    model = READERS["pointwise"]()
    compensation = compensation_of(model)
    arrays = arrays_of(model)
    undo = surgery.prune(model, compensation.graph, [])
    assert compensation.apply([], undo) == {}
    assert model.training  # modes are put back
    for key, array in arrays_of(model).items():
        assert np.array_equal(array, arrays[key]), key


def test_nothing_cut_changes_nothing_when_batch_norms_are_re_estimated() -> None:
    """The whole cure of a cut of nothing, bit for bit."""
    paddle.seed(6)
    model = Dense(nn.Conv2D(8, 4, 1))
    batches = [lambda: model(images(8, 1)), lambda: model(images(8, 2))]
    graph = build_graph(model, INPUTS)
    recovery = Recovery(model, graph, batches, collect(model, graph, batches), batches)
    arrays = arrays_of(model)
    recovered = recovery.finish(graph, [], surgery.prune(model, graph, []))
    assert recovered.distance == 0
    for key, array in arrays_of(model).items():
        assert np.array_equal(array, arrays[key]), key


def test_what_is_dropped_at_random_is_not_seen() -> None:
    model = nn.Sequential(nn.Conv2D(3, 8, 1), nn.Dropout(0.5), nn.Conv2D(8, 4, 1))
    model.train()
    graph = build_graph(model, INPUTS)
    found = []
    for seed in (1, 2):
        paddle.seed(seed)
        found.append(collect(model, graph, [lambda: model(images(4, 1))]).moments["2.weight"])
    assert np.array_equal(found[0].second, found[1].second)
    assert np.array_equal(found[0].total, found[1].total)


class Half(nn.Layer):
    """Its answer depends on the right half of an image alone, or (``detached``) has no gradient."""

    def __init__(self, detached: bool = False) -> None:
        super().__init__()
        self.first, self.reader = nn.Conv2D(3, 8, 1), nn.Conv2D(8, 4, 1)
        self.detached = detached

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        right = (paddle.arange(x.shape[-1]) >= x.shape[-1] // 2).astype("float32")
        y = self.reader(self.first(x)) * right
        return y.detach() if self.detached else y


def test_positions_count_by_what_the_answer_makes_of_them() -> None:
    model = Half()
    model.first.weight.set_value(np.eye(8, 3, dtype="float32")[:, :, None, None])
    model.first.bias.set_value(np.zeros(8, "float32"))
    left = np.zeros((4, 3, 16, 24), "float32")
    left[..., :12] = 1.0
    x = paddle.to_tensor(left)
    read = collect(model, build_graph(model, INPUTS), [lambda: model(x)])
    moments = read.moments["reader.weight"]
    # On average a position on the right reacts twice the mean: 0.3 against 0.3 + 0.7 * 2.
    mean, _ = moments.about(shift=True)
    assert mean[0] == pytest.approx(0.3 / (0.3 + 1.7), rel=0.15) and mean[3] == 0
    # A position's gradient is W^T s, with signs s that do not depend on each other.
    weight, reaction = model.reader.weight.numpy()[..., 0, 0], read.reactions["reader.weight"]
    assert read.remark == ""
    assert np.corrcoef(reaction.ravel(), (weight.T @ weight).ravel())[0, 1] > 0.9


class Pooled(nn.Layer):
    """Its answer is the mean over all positions, or (``whole=False``) the positions themselves."""

    def __init__(self, whole: bool = True) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, 16, 1)
        self.reader = nn.Conv2D(16, 4, 1, bias_attr=False)
        self.whole = whole

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.reader(functional.relu(self.first(x)))
        return y.mean([2, 3]) if self.whole else y


def test_what_is_read_on_average_counts_where_the_answer_depends_on_it() -> None:
    """Errors at many positions that have one sign add up, as behind squeeze-and-excitation."""
    positions, shown = 16 * 24, images(8)
    alike, apart = Pooled(), Pooled(whole=False)
    for model, least, most in ((alike, positions - 1, positions - 1), (apart, 0.0, 5.0)):
        read = collect(model, build_graph(model, INPUTS), [lambda m=model: m(shown)])
        count = read.moments["reader.weight"].count.sum() / (8 * positions)
        # 1 for the positions, and 0.7 for every pair that reacts alike.
        assert least - 0.01 <= (count - 1) / 0.7 <= most + 0.01
    compensation = compensation_of(alike)
    x = images(16, 7)
    before = alike(x).numpy()
    plans = keep(compensation, "first", tuple(range(11)))
    undo = surgery.prune(alike, compensation.graph, plans)
    plain = np.square(alike(x).numpy() - before).sum()
    compensation.apply(plans, undo)
    assert np.square(alike(x).numpy() - before).sum() < 0.2 * plain


def test_real_weights_give_nearer_outputs_for_every_group(
    det_weights: Path, rendered: Path
) -> None:
    """A sample of the groups; ``benchmarks/compensation.py`` cuts all of five networks."""
    model = build("det")
    model.set_state_dict(paddle.load(f"{det_weights}.pdparams"))
    graph = build_graph(model, [([1, 3, 320, 320], "float32")])
    fitted, judged = (
        [
            network_input("det", path)[:, :, 160:416, 160:416]
            for path in sorted((rendered / part).glob("*.jpg"))
        ]
        for part in ("train", "val")
    )
    x, batches = paddle.to_tensor(np.concatenate(judged)), []
    for start in range(0, len(fitted), 8):
        batch = paddle.to_tensor(np.concatenate(fitted[start : start + 8]))
        batches.append(functools.partial(model, batch))
    compensation = Compensation(model, graph, collect(model, graph, batches))
    known = set(compensation.read.moments)
    groups = [group for group in graph.groups if known & {m.parameter for m in group.members}]
    # Every fifth, and one whose reader is followed by squeeze-and-excitation.
    chosen = {group.name: group for group in [graph["backbone.layer_list.0"], *groups[::5]]}
    arrays, before, ranker = arrays_of(model), outputs_of(model(x)), Ranker("l1")
    moved: dict[str, tuple[float, float]] = {}
    for name, group in chosen.items():
        width = round(0.7 * group.size)
        plans = keep(compensation, name, ranker.rank(group, arrays).kept(width))
        undo = surgery.prune(model, graph, plans)
        plain = float(distances(before, outputs_of(model(x))).mean())
        compensation.apply(plans, undo)
        if plain > 1e-9:  # a channel that is zero in every image is no loss
            moved[name] = float(distances(before, outputs_of(model(x))).mean()), plain
        surgery.restore(model, undo)
    assert len(moved) >= 4 and all(cured < plain for cured, plain in moved.values()), moved


def test_without_a_gradient_all_positions_count_alike() -> None:
    model = Half(detached=True)
    read = collect(model, build_graph(model, INPUTS), [lambda: model(images(4))])
    assert read.remark and read.reactions == {}
    assert read.moments["reader.weight"].count.sum() == 4 * 16 * 24


def test_moments_that_take_too_much_memory_are_left(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers are left, and named, from where the memory for all of them is used up."""
    model = nn.Sequential(nn.Conv2D(3, 8, 1), nn.Conv2D(8, 6, 1), nn.Conv2D(6, 4, 1))
    monkeypatch.setattr("ppocr_prune_plugin.moments._MOST", Moments.bytes_of(8) + 100)
    read = compensation_of(model).read
    assert [reader.layer for reader in read.readers] == ["1"] and set(read.moments) == {"1.weight"}
    assert set(read.left) == {"2"} and "would take more than" in read.left["2"]


def test_an_independent_channel_is_not_made_worse() -> None:
    """Where nothing can be known of what was removed, its mean is all that is given back."""
    paddle.seed(3)
    random = np.random.default_rng(0)
    noise = paddle.to_tensor(random.standard_normal((32, 8, 6, 6)).astype("float32")) + 2.0

    class Reader(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2D(8, 8, 1)
            self.reader = nn.Conv2D(8, 4, 1)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.reader(self.first(x))

    model = Reader()
    model.first.weight.set_value(np.eye(8, dtype="float32")[:, :, None, None])
    model.eval()
    graph = build_graph(model, [([1, 8, 6, 6], "float32")])
    batches = [lambda: model(noise[:16]), lambda: model(noise[16:])]
    compensation = Compensation(model, graph, collect(model, graph, batches))
    before = model(noise).numpy()
    plan = [GroupPlan("first", 8, tuple(range(5)), 5)]
    undo = surgery.prune(model, graph, plan)
    lost = model(noise).numpy() - before
    varying = lost.var(axis=(0, 2, 3)).mean()  # what is not the mean
    missing = compensation.apply(plan, undo)
    after = np.square(model(noise).numpy() - before).mean()
    assert varying < 0.7 * np.square(lost).mean()
    assert after == pytest.approx(varying, rel=0.1)
    assert missing["reader.weight"] == pytest.approx(after / np.square(lost).mean(), rel=0.1)


def test_what_cannot_be_mixed_is_handed_on_or_named() -> None:
    """A depthwise layer passes what it is given to the next reader; grouped ones are left."""
    paddle.seed(4)
    handed = Dense(nn.Conv2D(8, 4, 1), depthwise=True)
    assert [reader.layer for reader in compensation_of(handed).read.readers] == ["reader"]
    grouped = compensation_of(Dense(nn.Conv2D(8, 4, 1, groups=2)))
    assert grouped.read.readers == ()
    assert grouped.read.left == {"reader": "Conv2D with 2 groups cannot mix channels"}


def test_the_same_every_time() -> None:
    model = READERS["three_by_three"]()
    first, second = compensation_of(model), compensation_of(model)
    results = []
    for compensation in (first, second):
        plan = keep(compensation, "first", (0, 3, 4))
        undo = surgery.prune(model, compensation.graph, plan)
        compensation.apply(plan, undo)
        results.append(arrays_of(model))
        surgery.restore(model, undo)
    for key, array in results[0].items():
        assert np.array_equal(array, results[1][key]), key
