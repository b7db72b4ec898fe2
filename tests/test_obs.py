"""The criterion obs: what the readers lose when a channel goes and the rest makes up for it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import paddle
import pytest
from fixtures_networks import arrays_of
from paddle import nn

from ppocr_prune_plugin.criteria import Context, Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.moments import collect

INPUTS = [([1, 4, 6, 6], "float32")]


class Two(nn.Layer):
    """Channels of unlike power that overlap, read by two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2D(4, 7, 1)
        self.a, self.b = nn.Conv2D(7, 3, 1), nn.Conv2D(7, 2, 3)

    def forward(self, x: paddle.Tensor) -> tuple[paddle.Tensor, paddle.Tensor]:
        x = nn.functional.hardswish(self.first(x))
        return self.a(x), self.b(x)


def ranked(model: nn.Layer, gradients: bool = True) -> tuple[Ranker, Context]:
    random = np.random.default_rng(0)
    images = [
        paddle.to_tensor(random.standard_normal((8, 4, 6, 6)).astype("float32")) for _ in range(2)
    ]
    graph = build_graph(model, INPUTS)
    runs = [lambda x=x: model(x) for x in images]
    read = collect(model, graph, runs)
    assert read.remark == ""
    if not gradients:
        read = replace(read, reactions={}, remark="an operation has none")
    context = Context(model, INPUTS, graph.groups, lambda: [], lambda: read)
    ranker = Ranker("obs")
    ranker.prepare(context)
    return ranker, context


def error_without(model: Two, context: Context, kept: list[int]) -> float:
    """What the outputs lose through both readers: what is missing of the channels that go, by the
    best estimate from those that are kept, times what the outputs make of it. Where the outputs
    have no gradient: what the readers lose, each as a share of what it gives."""
    read, total = context.moments(), 0.0
    for name in ("a.weight", "b.weight"):
        mean, moment = read.moments[name].about(shift=True)
        ridge = moment + 1e-3 * np.diag(moment).mean() * np.eye(7)
        inverse = np.linalg.inv(ridge[np.ix_(kept, kept)])
        missing = ridge - ridge[:, kept] @ inverse @ ridge[kept]
        if read.remark:
            weight = np.moveaxis(arrays_of(model)[name].astype(np.float64), 1, -1).reshape(-1, 7)
            meant = weight.T @ weight / ((weight @ moment) * weight).sum()
        else:
            meant = read.reactions[name]
        total += float((meant * missing).sum())
    return total


@pytest.mark.parametrize("gradients", [True, False])
def test_the_cheapest_goes_first_again_and_again(gradients: bool) -> None:
    """At every width: no single other channel in the last one's place would have been cheaper."""
    paddle.seed(0)
    model = Two()
    ranker, context = ranked(model, gradients)
    group = context.groups[0]
    kept = list(range(7))
    for width in range(6, 0, -1):
        chosen = list(ranker.rank(group, arrays_of(model)).kept(width))
        assert set(chosen) < set(kept)
        errors = {c: error_without(model, context, [k for k in kept if k != c]) for c in kept}
        (gone,) = set(kept) - set(chosen)
        assert errors[gone] == pytest.approx(min(errors.values()), rel=1e-6)
        kept = chosen


def test_twins_are_not_both_needed() -> None:
    """Two large channels that say the same: a norm keeps both, and removes one that is small and
    alone."""
    paddle.seed(1)
    model = Two()
    weight, bias = model.first.weight.numpy().copy(), model.first.bias.numpy().copy()
    weight[5], bias[5] = weight[2] * 1.0, bias[2]
    weight[[2, 5]] *= 5
    bias[[2, 5]] *= 5
    model.first.weight.set_value(weight)
    model.first.bias.set_value(bias)
    ranker, context = ranked(model)
    arrays = arrays_of(model)
    kept = ranker.rank(context.groups[0], arrays).kept(6)
    assert not {2, 5} <= set(kept)
    assert {2, 5} <= set(Ranker("l1").rank(context.groups[0], arrays).kept(6))


def test_without_images_it_says_so() -> None:
    model = Two()
    graph = build_graph(model, INPUTS)
    with pytest.raises(PruneError, match="criterion is obs, .* there are none"):
        Ranker("obs").prepare(Context(model, INPUTS, graph.groups, lambda: []))
