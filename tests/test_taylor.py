"""The taylor criterion: what it scores, and that taking gradients leaves no trace."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import prune_along
from paddle import nn
from training import Tools

from ppocr_prune_plugin.criteria import Context, Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.gradients import batch_gradients
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.plan import load_plan

INPUTS = [([1, 3, 8, 8], "float32")]


class Net(nn.Layer):
    """A residual sum of two producers; the head does not look at channel 2."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.body = nn.Conv2D(3, 6, 3, padding=1), nn.Conv2D(6, 6, 3, padding=1)
        self.norm, self.drop, self.head = nn.BatchNorm2D(6), nn.Dropout(0.2), nn.Conv2D(6, 2, 1)
        self.unused = nn.Linear(3, 3)
        weight = self.head.weight.numpy()
        weight[:, 2] = 0
        self.head.weight.set_value(weight)
        weight = self.body.weight.numpy()
        weight[:, 2] = 0
        self.body.weight.set_value(weight)

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        return self.head(self.drop(x + self.norm(self.body(x))))


@pytest.fixture
def net() -> Net:
    paddle.seed(3)
    return Net()


def losses(net: Net, count: int = 3) -> list[Callable[[], paddle.Tensor]]:
    random = np.random.default_rng(4)

    def loss(x: Any, y: Any) -> paddle.Tensor:
        return ((net(x) - y) ** 2).mean()

    def tensor(*shape: int) -> paddle.Tensor:
        return paddle.to_tensor(random.standard_normal(shape).astype("float32"))

    return [partial(loss, tensor(4, 3, 8, 8), tensor(4, 2, 8, 8)) for _ in range(count)]


def test_scores_are_weight_times_gradient(net: Net) -> None:
    """Summed over a filter, absolute, over both producers, mean over the batches."""
    graph = build_graph(net, INPUTS)
    (group,) = graph.groups
    assert {m.parameter for m in group.producers} == {"stem.weight", "body.weight"}
    gradients = batch_gradients(net, losses(net))
    assert len(gradients) == 3 and "unused.weight" not in gradients[0]
    arrays = {name: tensor.numpy() for name, tensor in net.state_dict().items()}
    expected = np.mean(
        [
            [
                sum(
                    abs((arrays[name][i].astype("float64") * g[name][i]).sum())
                    for name in ("stem.weight", "body.weight")
                )
                for i in range(6)
            ]
            for g in gradients
        ],
        axis=0,
    )
    ranker = Ranker("taylor")
    ranker.prepare(Context(net, INPUTS, graph.groups, lambda: gradients))
    scores = ranker.criterion.importance(group, arrays)  # type: ignore[union-attr]
    assert np.allclose(scores, expected, rtol=1e-4)
    # Nothing depends on channel 2: it goes first, however large its filters are.
    loud = {name: array.copy() for name, array in arrays.items()}
    loud["stem.weight"][2] *= 100
    assert 2 not in ranker.rank(group, loud).kept(5) and 2 in Ranker("l1").rank(group, loud).kept(1)


def test_the_gradient_is_the_loss_s(net: Net) -> None:
    """Against the change of the loss when a weight moves; without dropout, which is random."""
    net.drop.p = 0
    (loss,) = losses(net, 1)
    (gradients,) = batch_gradients(net, [loss])
    net.train()
    weight, step = net.stem.weight.numpy(), 1e-2
    ends = []
    for sign in (1, -1):
        moved = weight.copy()
        moved[1, 0, 1, 1] += sign * step
        net.stem.weight.set_value(moved)
        ends.append(float(loss()))
    assert gradients["stem.weight"][1, 0, 1, 1] == pytest.approx(
        (ends[0] - ends[1]) / (2 * step), rel=0.02
    )


def test_taking_gradients_leaves_no_trace(net: Net) -> None:
    adam = paddle.optimizer.Adam(parameters=net.parameters())
    losses(net)[0]().backward()
    adam.step()
    adam.clear_grad()
    net.eval()
    net.head.training = True
    before = {name: tensor.numpy().copy() for name, tensor in net.state_dict().items()}
    steps = {name: float(t) for name, t in adam.state_dict().items() if "beta1_pow" in name}
    paddle.seed(11)
    expected = paddle.rand([3]).numpy()
    paddle.seed(11)
    first = batch_gradients(net, losses(net))
    assert np.array_equal(paddle.rand([3]).numpy(), expected), "the random numbers have moved on"
    assert all(np.array_equal(t.numpy(), before[name]) for name, t in net.state_dict().items())
    assert (net.training, net.norm.training, net.head.training) == (False, False, True)
    assert all(parameter.grad is None for parameter in net.parameters())
    after = adam.state_dict()
    assert steps and all(float(after[name]) == value for name, value in steps.items())
    second = batch_gradients(net, losses(net))
    for a, b in zip(first, second, strict=True):
        assert all(np.array_equal(a[name], b[name]) for name in a), "dropout differs"


def test_training_goes_on_after_gradients_and_surgery(net: Net) -> None:
    """Gradients of the old shapes would stop the optimizer."""
    graph = build_graph(net, INPUTS)
    adam = paddle.optimizer.Adam(parameters=net.parameters())
    batch_gradients(net, losses(net))
    from ppocr_prune_plugin.plan import GroupPlan

    prune_along(net, graph, [GroupPlan(graph.groups[0].name, 6, (0, 1, 3), 3)], adam)
    losses(net)[0]().backward()
    adam.step()
    assert net.stem.weight.shape == [3, 3, 3, 3]


def test_without_training_batches(net: Net) -> None:
    graph = build_graph(net, INPUTS)
    ranker = Ranker("taylor")
    ranker.prepare(Context(net, INPUTS, graph.groups, lambda: []))
    with pytest.raises(PruneError, match="taylor needs gradients.*Train section"):
        ranker.rank(graph.groups[0], {}).kept(3)


def test_train_with_taylor(cls_tools: Tools, tmp_path: Path) -> None:
    """One batch is read although batch norms ask for none; other filters go than with fpgm."""
    cls_tools.train(
        tmp_path,
        f"Global.pretrained_model={cls_tools.weights}",
        *("Prune.ratio=0.3", "Prune.round_to=1"),
        *("Prune.criterion=taylor", "Prune.bn_batches=0"),
    )
    plan = load_plan(tmp_path / "latest.prune.json")
    assert plan.criterion == "taylor" and len(plan.groups) > 20
    ranked = [group for group in plan.groups if group.kept != tuple(range(group.kept_channels))]
    assert len(ranked) > 20, "without gradients all scores are 0, and the last channels stay"
