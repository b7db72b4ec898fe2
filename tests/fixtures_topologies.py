"""What the tests of topologies share: small networks, and the proof that pruning one is right."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import paddle
from fixtures_networks import arrays_of, calibrate, zeroed
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.flow import IN
from ppocr_prune_plugin.graph.groups import ChannelGraph, Member, build_graph
from ppocr_prune_plugin.plan import GroupPlan

SHAPE = (1, 3, 8, 8)

Forward = Callable[..., Any]


class Net(nn.Layer):
    """Layers by name and a forward function over them: ``Net(f, a=Conv2D(...))``."""

    def __init__(self, function: Forward, **layers: nn.Layer) -> None:
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)
        self.function = function

    def forward(self, x: paddle.Tensor) -> Any:
        return self.function(self, x)


def conv(inputs: int, filters: int, **options: Any) -> nn.Conv2D:
    return nn.Conv2D(inputs, filters, options.pop("kernel", 1), **options)


def outputs(model: nn.Layer, shape: tuple[int, ...]) -> list[np.ndarray]:
    x = paddle.to_tensor(np.random.default_rng(7).standard_normal(shape).astype("float32"))
    with paddle.no_grad():
        return [t.numpy() for t in paddle.utils.flatten(model(x))]


def check(model: nn.Layer, shape: tuple[int, ...] = SHAPE, **sizes: int) -> ChannelGraph:
    """The groups have these sizes, and are pruned right, one by one and all at once."""
    graph = build_graph(model, [(shape, "float32")])
    found = {group.name: group.size for group in graph.groups}
    assert found == sizes, (found, graph.frozen)
    calibrate(model, paddle.randn((4, *shape[1:])))
    model.eval()
    before, whole = arrays_of(model), outputs(model, shape)
    plans = []
    for group in graph.groups:
        kept = tuple(range(0, group.size, 2))
        plans.append(GroupPlan(group.name, group.size, kept, len(kept)))
    for chosen in [*([plan] for plan in plans), plans]:
        every = [(m, plan.removed) for plan in chosen for m in graph[plan.name].members]
        with partial_norms(model, every):
            expected = _ignoring(model, [item for item in every if is_read(graph, item[0])], shape)
        undo = surgery.prune(model, graph, chosen)
        pruned = outputs(model, shape)
        surgery.restore(model, undo)
        for ours, wanted in zip(pruned, expected, strict=True):
            assert np.allclose(ours, wanted, atol=1e-5), chosen
        if chosen:
            assert any(not np.allclose(a, b, atol=1e-3) for a, b in zip(pruned, whole, strict=True))
    after = arrays_of(model)
    assert all(np.array_equal(array, after[name]) for name, array in before.items())
    return graph


def is_read(graph: ChannelGraph, member: Member) -> bool:
    """Whether a member is to be zeroed for its channels to be ignored: an input of a layer; where
    two activations are multiplied, there are none, and channels of zeros count for nothing."""
    group = next(group for group in graph.groups if member in group.members)
    return member.role == IN or all(other.role != IN for other in group.members)


def _ignoring(model: nn.Layer, readers: list[Any], shape: tuple[int, ...]) -> list[np.ndarray]:
    if not readers:
        return outputs(model, shape)
    (member, removed), *rest = readers
    with zeroed(model, [member], removed):
        return _ignoring(model, rest, shape)


class _PartialLayerNorm(nn.LayerNorm):
    """A layer norm whose mean and variance are those of the channels that ``kept`` marks."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        part = paddle.index_select(x, paddle.to_tensor(np.flatnonzero(self.kept)), axis=-1)
        mean = part.mean(-1, keepdim=True)
        variance = part.var(-1, unbiased=False, keepdim=True)
        return (x - mean) / paddle.sqrt(variance + self._epsilon) * self.weight + self.bias


@contextmanager
def partial_norms(model: nn.Layer, readers: list[Any]) -> Iterator[None]:
    """Inside, layer norms leave the removed channels out of their statistics."""
    layers = dict(model.named_sublayers())
    changed = []
    for member, removed in readers:
        layer = layers.get(member.layer)
        if isinstance(layer, nn.LayerNorm) and member.parameter.endswith("weight"):
            if type(layer) is nn.LayerNorm:
                layer.__class__ = _PartialLayerNorm
                layer.kept = np.ones(layer.weight.shape[0], dtype=bool)
                changed.append(layer)
            layer.kept[member.indices[removed].reshape(-1)] = False
    try:
        yield
    finally:
        for layer in changed:
            layer.__class__ = nn.LayerNorm


def members(graph: ChannelGraph, name: str) -> set[tuple[str, int, str]]:
    return {(m.parameter, m.axis, m.role) for m in graph[name].members}


def places(graph: ChannelGraph, name: str, parameter: str, axis: int) -> list[list[int]]:
    """Where each channel of a group stands along an axis of a parameter."""
    found = [m for m in graph[name].members if (m.parameter, m.axis) == (parameter, axis)]
    return found[0].indices.tolist()


def frozen(graph: ChannelGraph) -> dict[str, tuple[int, str]]:
    return {item.name: (item.channels, item.reason) for item in graph.frozen}
