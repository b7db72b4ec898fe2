"""What inference mode costs is read from it, and ``rep()`` works on what was pruned."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import paddle
import pytest
from fixtures_networks import calibrate
from fixtures_reparameterised import IMAGE, AroundStubborn, Network
from paddle import nn
from test_cost import macs

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.inference_mode import in_inference_mode
from ppocr_prune_plugin.network import apply_checked, inspect, plan_of, run_once
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.rebuilding import rebuild

# In the second, kernels and all widths are the same number.
NETWORKS: dict[str, Callable[[], nn.Layer]] = {
    "nested": Network,
    "kernel_as_large_as_width": lambda: Network(width=7, hidden=7, kernel_size=7),
    "around_stubborn": AroundStubborn,
}


def image() -> paddle.Tensor:
    random = np.random.default_rng(0)
    return paddle.to_tensor(random.standard_normal((1, 3, 32, 48)).astype("float32"))


def built(name: str) -> nn.Layer:
    paddle.seed(1)
    model = NETWORKS[name]()
    calibrate(model, paddle.concat([image()] * 2))
    return model


def items(graph: surgery.ChannelGraph, seed: int) -> list[GroupPlan]:
    """A random choice of channels of every group."""
    random = np.random.default_rng(seed)
    plans = []
    for group in graph.groups:
        width = int(random.integers(1, group.size))
        kept = np.sort(random.choice(group.size, width, replace=False))
        plans.append(GroupPlan(group.name, group.size, tuple(kept.tolist()), width))
    return plans


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("seed", range(3))
def test_costs_and_outputs_after_rep(name: str, seed: int) -> None:
    model = built(name)
    network = inspect(model, IMAGE)
    graph, costs = network.graph, network.costs
    whole = in_inference_mode(model)
    assert costs.flops(graph.shapes) == macs(whole, image())
    training = ("heads.thresh", "heads.auxiliary")
    used = [name for name, _ in whole.named_parameters() if not name.startswith(training)]
    assert costs.parameters == set(used)

    plan = plan_of(network, "random", items(graph, seed))
    assert plan.groups
    apply_checked(network, plan)
    twin = in_inference_mode(model)
    for before, after in zip(run_once(model, IMAGE), run_once(twin, IMAGE), strict=True):
        assert np.ptp(before) > 0
        assert np.abs(before - after).max() < 1e-4 * np.ptp(before)
    assert plan.flops.after == macs(twin, image()) < plan.flops.before
    parameters = dict(twin.named_parameters())
    assert plan.params.after == sum(parameters[n].size for n in used) < plan.params.before


def test_groups_of_training_alone_are_told_apart() -> None:
    """Names are gone after ``rep()``: which groups inference mode has is read off its axes."""
    network = inspect(built("nested"), IMAGE)
    names = {group.name for group in network.training_only}
    assert names == {"heads.thresh.conv1", "heads.auxiliary.conv1"}
    deployed = {group.name for group in network.graph.groups} - names
    assert {"heads.binarize.conv1", "mixers.0.expand", "mixers.0.spread"} <= deployed


def test_sizes_follow_the_channels_and_come_back() -> None:
    model = built("kernel_as_large_as_width")
    network = inspect(model, IMAGE)
    mixer = model.mixers[0]
    group = next(g for g in network.graph.groups if g.name.startswith("stem.second"))
    hidden = next(g for g in network.graph.groups if g.name == "mixers.0.spread")
    plans = [
        GroupPlan(group.name, 7, tuple(range(5)), 5),
        GroupPlan(hidden.name, 7, (1, 3, 5, 6), 4),
    ]
    undo = surgery.prune(model, network.graph, plans)
    assert mixer.token.channels == 5 and mixer.token.kernel_size == 7
    assert mixer.widths == [5, 4]
    surgery.restore(model, undo)
    assert mixer.token.channels == 7 and mixer.widths == [7, 7]


def test_the_structure_says_it_without_a_trace() -> None:
    """What is rebuilt from a stored structure can be re-parameterised, too."""
    model = built("nested")
    network = inspect(model, IMAGE)
    plan = plan_of(network, "random", items(network.graph, 5))
    apply_checked(network, plan)
    again = built("nested")
    found = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert rebuild(again, plan.structures[""], found) == {}
    again.set_state_dict(model.state_dict())
    for a, b in zip(run_once(in_inference_mode(again), IMAGE), run_once(model, IMAGE), strict=True):
        assert np.abs(a - b).max() < 1e-4 * np.ptp(b)


def test_a_size_in_the_code_freezes_its_channels() -> None:
    graph = inspect(built("around_stubborn"), IMAGE).graph
    assert {group.name for group in graph.groups} >= {"mixer.expand", "mixer.spread"}
    assert not any(g.name.startswith("stubborn") for g in graph.groups)
    reasons = {item.name: item.reason for item in graph.frozen}
    assert "rep() of Stubborn fails when it is narrower" in reasons["stubborn.conv"]
