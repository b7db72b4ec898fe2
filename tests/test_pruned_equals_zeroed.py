"""Removing channels of real detectors computes what it should, for every group of each of them."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import paddle
import pytest
from architectures import DETECTORS
from fixtures_networks import (
    Detector,
    arrays_of,
    build,
    calibrate,
    image,
    prune_along,
    tensors_of,
    zeroed,
)
from zero_reasons import why_not_zero

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.checkpoint import infer_kept_channels
from ppocr_prune_plugin.graph.flow import IN
from ppocr_prune_plugin.graph.groups import ChannelGroup, build_graph, find_groups
from ppocr_prune_plugin.plan import GroupPlan

TOLERANCE = 1e-4
EXACT = 1e-8  # of the same sums in float64
GetDetector = Callable[[str], Detector]

every_detector = pytest.mark.parametrize("name", DETECTORS)


def half(group: ChannelGroup, seed: int = 0) -> GroupPlan:
    """Keep a random half of a group."""
    random = np.random.default_rng([seed, group.size])
    kept = np.sort(random.choice(group.size, max(1, group.size // 2), replace=False))
    return GroupPlan(group.name, group.size, tuple(kept.tolist()), len(kept))


def any_width(graph_groups: tuple[ChannelGroup, ...], seed: int) -> list[GroupPlan]:
    """Keep a random number of random channels of every group."""
    random = np.random.default_rng(seed)
    plans = []
    for group in graph_groups:
        width = int(random.integers(1, group.size))
        kept = np.sort(random.choice(group.size, width, replace=False))
        plans.append(GroupPlan(group.name, group.size, tuple(kept.tolist()), width))
    return plans


def shapes_of(model: paddle.nn.Layer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def assert_same_arrays(model: paddle.nn.Layer, expected: dict[str, np.ndarray]) -> None:
    found = arrays_of(model)
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert array.dtype == found[name].dtype and np.array_equal(array, found[name]), name


@every_detector
def test_every_operation_has_a_rule(detector: GetDetector, name: str) -> None:
    built = detector(name)
    assert built.graph.unknown == {}
    assert find_groups(built.deployed).unknown == {}


@every_detector
def test_removing_equals_zeroing(detector: GetDetector, name: str) -> None:
    """What is removed equals what its readers ignore, for every group; and, where the graph says
    so, what is zeroed."""
    built = detector(name)
    model, graph = built.model, built.graph
    before = arrays_of(model)
    whole = built.run()
    effects = []
    for group in graph.groups:
        plan = half(group)
        with zeroed(model, [m for m in group.members if m.role == IN], plan.removed):
            ignored = built.run()
        with zeroed(model, [m for m in group.members if m.role != IN], plan.removed):
            silent = built.run()
        undo = surgery.prune(model, graph, [plan])
        removed = built.run()
        shapes = shapes_of(model)
        surgery.restore(model, undo)

        assert np.abs(removed - ignored).max() < EXACT, group.name
        if not why_not_zero(built.program, group):
            assert np.abs(removed - silent).max() < EXACT, group.name
        effects.append(np.abs(removed - whole).max())
        assert shapes == surgery.shapes_after(graph, {group.name: plan.kept_channels}), group.name
        assert infer_kept_channels(graph, shapes) == {group.name: plan.kept_channels}, group.name
    assert_same_arrays(model, before)
    assert np.array_equal(built.run(), whole)
    # The comparison means something: nearly every group matters to the output.
    assert np.mean(np.array(effects) > 10 * TOLERANCE) > 0.9, effects


def test_zero_equals_removed_in_all_but_affine_blocks(detector: GetDetector) -> None:
    """Which groups are let off above, and why: in PPLCNetV3 a learnable affine block adds one bias
    to all channels, also to those that are zero. All other detectors have no such group."""
    reasons = {
        name: {g.name: why_not_zero(detector(name).program, g) for g in detector(name).graph.groups}
        for name in DETECTORS
    }
    for name, of_groups in reasons.items():
        let_off = {reason for reason in of_groups.values() for reason in reason}
        if name.startswith("lcnetv3"):
            assert let_off and all(r.endswith("lab.bias is added to them") for r in let_off)
            assert sum(not reason for reason in of_groups.values()) >= 8  # squeeze layers, neck
        else:
            assert not let_off, name


def test_a_group_behind_an_affine_block_trains_when_pruned(detector: GetDetector) -> None:
    built = detector("lcnetv3_rsefpn")
    model, graph = built.model, built.graph
    before = arrays_of(model)
    inexact = [group for group in graph.groups if why_not_zero(built.program, group)]
    assert inexact
    for group in inexact:
        undo = surgery.prune(model, graph, [half(group)])
        try:
            assert built.run().shape == (1, 3, 32, 64)
            with training(model):
                trained = train_step(model, paddle.optimizer.SGD(0.01, model.parameters()))
            assert all(trained[member.parameter] for member in group.producers), group.name
        finally:
            for tensor in model.parameters():
                tensor.clear_gradient(False)
            surgery.restore(model, undo)
            for name, tensor in built.tensors().items():
                tensor.set_value(before[name])
    assert_same_arrays(model, before)


class training:
    """Train mode inside; afterwards the modes are as before."""

    def __init__(self, model: paddle.nn.Layer) -> None:
        self.layers = model.sublayers(include_self=True)

    def __enter__(self) -> None:
        self.modes = [layer.training for layer in self.layers]
        self.layers[0].train()

    def __exit__(self, *_: object) -> None:
        for layer, mode in zip(self.layers, self.modes, strict=True):
            layer.training = mode


def train_step(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer) -> dict[str, bool]:
    """One step on a random image; says which parameters changed."""
    before = {name: p.numpy().copy() for name, p in model.named_parameters()}
    dtype = next(iter(model.parameters())).dtype
    loss = model(image(2).astype(dtype))["maps"].mean()
    loss.backward()
    optimizer.step()
    optimizer.clear_grad()
    assert np.isfinite(float(loss))
    return {
        name: not np.array_equal(before[name], p.numpy()) for name, p in model.named_parameters()
    }


@pytest.fixture(scope="module")
def fresh(detector: GetDetector) -> GetDetector:
    """Like ``detector``, with a model of its own that may be changed."""

    def make(name: str) -> Detector:
        model = build(name)
        calibrate(model, image(4))
        return replace(detector(name), model=model)

    return make


@every_detector
def test_all_groups_at_once(fresh: GetDetector, name: str) -> None:
    """Shapes tell the widths; an Adam with a past goes on training; re-parameterising works."""
    built = fresh(name)
    model, graph = built.model, built.graph
    model.train()
    adam = paddle.optimizer.Adam(1e-4, parameters=model.parameters())
    train_step(model, adam)
    keys, states = set(model.state_dict()), set(adam.state_dict())
    old_moments = {key: t.numpy() for key, t in adam.state_dict().items() if "moment1" in key}

    plans = any_width(graph.groups, seed=3)
    widths = {plan.name: plan.kept_channels for plan in plans}
    prune_along(model, graph, plans, adam)

    shapes = shapes_of(model)
    assert shapes == surgery.shapes_after(graph, widths)
    assert infer_kept_channels(graph, shapes) == {
        name: width for name, width in widths.items() if width != graph[name].size
    }
    assert set(model.state_dict()) == keys and set(adam.state_dict()) == states
    root = next(p for p in plans if p.kept_channels > 1)
    moments = {
        key: tensor.numpy() for key, tensor in adam.state_dict().items() if key in old_moments
    }
    weight = dict(model.named_parameters())[graph[root.name].root.parameter]
    key = next(key for key in moments if key.startswith(weight.name + "_"))
    assert moments[key].shape == tuple(weight.shape)
    assert np.isin(moments[key], old_moments[key]).all() and moments[key].any()

    changed = train_step(model, adam)
    assert np.mean(list(changed.values())) > 0.9
    assert set(model.state_dict()) == keys and set(adam.state_dict()) == states

    model.eval()
    out = model(image(1))["maps"].numpy()
    assert np.isfinite(out).all() and out.shape == (1, 1, 32, 64)
    parts = [layer for layer in model.sublayers() if hasattr(layer, "rep")]
    assert bool(parts) == name.startswith("lcnetv3")
    for layer in parts:
        layer.rep()
    assert np.abs(model(image(1))["maps"].numpy() - out).max() < TOLERANCE


def test_a_loaded_optimizer_state_is_cut_before_its_first_step(fresh: GetDetector) -> None:
    """PaddleOCR loads ``.pdopt`` into an optimizer that has no accumulators yet."""
    built = fresh("mv3_rsefpn")
    model, graph = built.model, built.graph
    model.train()
    first = paddle.optimizer.Adam(1e-4, parameters=model.parameters())
    train_step(model, first)
    state = {key: value.numpy() for key, value in first.state_dict().items()}
    later = paddle.optimizer.Adam(1e-4, parameters=model.parameters())
    later.set_state_dict(state)
    plans = [half(group) for group in graph.groups]
    prune_along(model, graph, plans, later)
    with paddle.utils.unique_name.guard():  # names start anew, as in another process
        train_step(model, later)
    moments = {key: tuple(v.shape) for key, v in later.state_dict().items() if "moment" in key}
    sizes = {p.name: tuple(p.shape) for p in model.parameters()}
    assert len(moments) > 100
    for key, shape in moments.items():
        assert shape == sizes[key.rsplit("_moment", 1)[0]], key


def test_half_precision_states_are_cut() -> None:
    """AMP level O2: weights in bfloat16; master weights, and accumulators named after these.

    Paddle has no bfloat16 kernels for a training step on CPUs, so that the states are made by
    hand."""
    model = paddle.nn.Sequential(paddle.nn.Linear(4, 6), paddle.nn.ReLU(), paddle.nn.Linear(6, 3))
    graph = build_graph(model, [([1, 4], "float32")])
    model.to(dtype="bfloat16")
    adam = paddle.optimizer.Adam(1e-2, parameters=model.parameters(), multi_precision=True)
    block = paddle.base.framework.default_main_program().global_block()
    adam._create_accumulators(block, model.parameters())
    whole = {name: master.numpy() for name, master in adam._master_weights.items()}
    undo = prune_along(model, graph, [GroupPlan("0", 6, (1, 4), 2)], adam)
    for weight, axis in ((model[0].weight, 1), (model[2].weight, 0)):
        master = adam._master_weights[weight.name]
        kept = np.take(whole[weight.name], [1, 4], axis)
        assert weight.dtype == paddle.bfloat16
        assert np.array_equal(master.numpy(), kept)
        assert np.array_equal(weight.astype("float32").numpy(), kept)
        assert adam._accumulators["moment1"][master.name].shape == list(kept.shape)
        assert adam._accumulators["beta1_pow_acc"][master.name].shape == [1]
    surgery.restore(model, undo)
    assert np.array_equal(model[0].weight.astype("float32").numpy(), whole[model[0].weight.name])


def test_shapes_of_another_network_fit_no_pruning(detector: GetDetector) -> None:
    graph = detector("lcnetv3_rsefpn").graph
    for other in ("mv3_rsefpn", "resnet18_dbfpn", "lcnetv3_lkpan"):
        assert infer_kept_channels(graph, detector(other).graph.shapes) is None, other
    own = dict(graph.shapes)
    assert infer_kept_channels(graph, own) == {}
    own["head.binarize.conv3.weight"] = (24, 2, 2, 2)  # a map more, as with other classes
    assert infer_kept_channels(graph, own) == {}
    own["head.binarize.conv3.weight"] = (24, 1, 3, 3)  # another kernel
    assert infer_kept_channels(graph, own) is None
    group = graph.groups[0]
    for member in group.members:  # one layer contradicts the others
        pruned = surgery.shapes_after(graph, {group.name: group.size - 2})
        pruned[member.parameter] = graph.shapes[member.parameter]
        assert infer_kept_channels(graph, pruned) is None, member
    assert infer_kept_channels(graph, {"student.conv.weight": (8, 3, 3, 3)}) is None


def test_another_number_of_classes_says_nothing_of_pruning() -> None:
    """What the last layer puts out may differ; what a layer reads was put out by another."""

    def classifier(classes: int) -> paddle.nn.Layer:
        return paddle.nn.Sequential(
            paddle.nn.Conv2D(3, 8, 3), paddle.nn.Flatten(), paddle.nn.Linear(8 * 36, classes)
        )

    inputs = [([1, 3, 8, 8], "float32")]
    graph = build_graph(classifier(10), inputs)
    assert [group.size for group in graph.groups] == [8]
    other = dict(build_graph(classifier(4), inputs).shapes)
    assert infer_kept_channels(graph, other) == {}
    narrow = {"0.weight": (5, 3, 3, 3), "0.bias": (5,), "2.weight": (5 * 36, 4), "2.bias": (4,)}
    assert infer_kept_channels(graph, narrow) == {"0": 5}
    assert infer_kept_channels(graph, {**narrow, "2.weight": (6 * 36, 4)}) is None
    frozen = dataclasses.replace(graph, groups=())
    assert infer_kept_channels(frozen, narrow, {("2.weight", 0)}) is None
    assert infer_kept_channels(frozen, other, {("2.weight", 0)}) == {}
