"""What else holds tensors of a network's parameters is cut along, whatever its class."""

from __future__ import annotations

import copy
import functools
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import ChannelGraph, build_graph
from ppocr_prune_plugin.holders import Holders
from ppocr_prune_plugin.plan import GroupPlan

INPUTS = [([1, 3, 8, 8], "float32")]
KEPT = (0, 2, 3, 5)


class Net(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2D(8)
        self.head = nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.head(nn.functional.relu(self.norm(self.stem(x))))


class Any_:
    """An object with attributes."""

    def __init__(self, **attributes: Any) -> None:
        self.__dict__.update(attributes)


@pytest.fixture
def net() -> Net:
    paddle.seed(0)
    return Net()


@pytest.fixture
def graph(net: Net) -> ChannelGraph:
    return build_graph(net, INPUTS)


def pruned(net: Net, graph: ChannelGraph, **roots: object) -> surgery.Masks:
    """Prune a half of the stem's filters with everything that holds their tensors."""
    holders = Holders(net, roots)
    plan = [GroupPlan(graph.groups[0].name, 8, KEPT, len(KEPT))]
    surgery.prune(net, graph, plan)
    masks = surgery.kept_masks(graph, plan)
    holders.cut(masks)
    return masks


def average(net: nn.Layer) -> dict[str, paddle.Tensor]:
    return {name: tensor.clone() for name, tensor in net.state_dict().items()}


# How a program may keep an average: what makes it, and what reads its values in the order of the
# network's state.
KEEPERS: dict[str, tuple[Callable[[Net], Any], Callable[[Any], list[Any]]]] = {
    "a mapping in an object": (
        lambda net: Any_(ema=Any_(state_dict=average(net))),
        lambda root: list(root.ema.state_dict.values()),
    ),
    "names of a DataParallel": (
        lambda net: {f"_layers.{name}": t for name, t in average(net).items()},
        lambda root: list(root.values()),
    ),
    "Paddle's own names": (
        lambda net: [OrderedDict((t.name, t.clone()) for t in net.state_dict().values())],
        lambda root: list(root[0].values()),
    ),
    "names of accumulators": (
        lambda net: {f"{t.name}_moment1_0": t.clone() for t in net.state_dict().values()},
        lambda root: list(root.values()),
    ),
    "parameters as keys": (
        lambda net: {id(t): t.clone() for t in net.state_dict().values()},
        lambda root: list(root.values()),
    ),
    "a list in order": (
        lambda net: Any_(shadow=[t.clone() for t in net.state_dict().values()]),
        lambda root: root.shadow,
    ),
    "numbered": (
        lambda net: {i: t.clone() for i, t in enumerate(net.state_dict().values())},
        lambda root: list(root.values()),
    ),
    "layer by layer": (
        lambda net: {
            "layers": [
                {"weight": layer.weight.clone(), "rest": [layer.bias.clone()]}
                for layer in (net.stem, net.norm, net.head)
            ]
        },
        lambda root: [t for d in root["layers"] for t in (d["weight"], *d["rest"])],
    ),
    "arrays": (
        lambda net: {name: tensor.numpy() for name, tensor in net.state_dict().items()},
        lambda root: list(root.values()),
    ),
    "in a closure": (
        lambda net: (lambda kept: functools.partial(lambda: kept))(average(net)),
        lambda root: list(root().values()),
    ),
    "a method": (
        lambda net: Any_(shadow=average(net), update=None).__init__,
        lambda root: list(root.__self__.shadow.values()),
    ),
}


@pytest.mark.parametrize("kind", KEEPERS)
def test_every_kind_of_holder_is_cut_along(net: Net, graph: ChannelGraph, kind: str) -> None:
    make, read = KEEPERS[kind]
    root = make(net)
    pruned(net, graph, keeper=root)
    values = read(root)
    tensors = net.state_dict()
    if len(values) < len(tensors):
        tensors = {name: tensor for name, tensor in tensors.items() if not tensor.stop_gradient}
    for (name, tensor), value in zip(tensors.items(), values, strict=True):
        array = value if isinstance(value, np.ndarray) else value.numpy()
        np.testing.assert_array_equal(array, tensor.numpy(), err_msg=name)
    assert net.stem.weight.shape == [4, 3, 3, 3]


def test_what_is_no_copy_stays(net: Net, graph: ChannelGraph) -> None:
    """The network's own tensors, numbers for whole parameters, and what has nothing to do with
    it."""
    own = net.state_dict()
    other = nn.Conv2D(3, 8, 3)
    kept = {
        "own": own,
        "powers": {tensor.name: paddle.ones([1]) for tensor in net.parameters()},
        "rates": dict.fromkeys(own, 0.1),
        "other": other,
        "table": paddle.ones([8, 3, 3, 3]),
    }
    before = other.weight.numpy()
    pruned(net, graph, roots=kept)
    assert own["stem.weight"] is net.stem.weight
    assert all(tensor.shape == [1] for tensor in kept["powers"].values())  # type: ignore[attr-defined]
    np.testing.assert_array_equal(other.weight.numpy(), before)
    assert kept["table"].shape == [8, 3, 3, 3]  # type: ignore[attr-defined]


def test_cycles_and_foreign_objects_are_walked_through(net: Net, graph: ChannelGraph) -> None:
    import threading

    shadow = average(net)
    root: dict[str, Any] = {"lock": threading.Lock(), "logs": ["x"] * 5, "net": net}
    root["self"], root["deep"] = root, [[[{"shadow": shadow}]]]
    root["own"] = [[]]
    root["own"][0].append(root["own"][0])
    pruned(net, graph, root=root)
    assert shadow["head.weight"].shape == [4, 4, 1, 1]


def test_re_estimated_statistics_reach_the_average(net: Net, graph: ChannelGraph) -> None:
    """An average that corrects its bias holds a share; a fresh one of zeros holds nothing."""
    net.norm._variance.set_value(paddle.arange(1.0, 9.0))
    net.norm._mean.set_value(paddle.arange(-4.0, 4.0))
    share = {name: 0.25 * tensor for name, tensor in net.state_dict().items()}
    zeros = {name: paddle.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    holders = Holders(net, {"share": share, "zeros": zeros})
    plan = [GroupPlan(graph.groups[0].name, 8, KEPT, len(KEPT))]
    surgery.prune(net, graph, plan)
    net.norm._variance.set_value(paddle.to_tensor([9.0, 1.0, 2.0, 5.0]))
    holders.cut(surgery.kept_masks(graph, plan))
    np.testing.assert_allclose(share["norm._variance"].numpy(), [2.25, 0.25, 0.5, 1.25], rtol=1e-6)
    np.testing.assert_allclose(share["norm._mean"].numpy(), [-1.0, -0.5, -0.25, 0.25], rtol=1e-6)
    np.testing.assert_allclose(share["stem.weight"].numpy(), 0.25 * net.stem.weight.numpy())
    assert all(not tensor.numpy().any() for tensor in zeros.values())
    assert zeros["norm._variance"].shape == [4]


def test_a_shape_that_cannot_be_cut_is_refused(net: Net, graph: ChannelGraph) -> None:
    rows = Any_(factors={"stem.weight": paddle.ones([8])})
    with pytest.raises(PruneError, match=r"swa\.factors\['stem\.weight'\] has the shape \[8\]"):
        pruned(net, graph, swa=rows)
    # Parameters that lose nothing may have anything.
    again = Net()
    pruned(again, build_graph(again, INPUTS), swa={"head.bias": paddle.ones([2, 2])})


def test_a_second_copy_of_the_network_is_refused(net: Net) -> None:
    with pytest.raises(PruneError, match=r"loss\.teacher is a Net with all the parameters"):
        Holders(net, {"loss": Any_(teacher=copy.deepcopy(net))}).require_known()
    Holders(net, {"loss": Any_(network=net, wrapped=nn.Sequential(net))}).require_known()


def test_a_network_that_was_rebuilt(net: Net, graph: ChannelGraph) -> None:
    """Made beside the whole network: what is still as it was made is made anew, and what was
    filled is not thrown away."""
    zeros = {name: paddle.zeros_like(tensor) for name, tensor in net.state_dict().items()}
    listed = [paddle.zeros_like(tensor) for tensor in net.parameters()]
    filled = average(net)
    surgery.prune(net, graph, [GroupPlan(graph.groups[0].name, 8, KEPT, len(KEPT))])
    Holders(net, {"ema": zeros, "list": listed}).renew()
    for name, tensor in net.state_dict().items():
        assert zeros[name].shape == tensor.shape and not zeros[name].numpy().any()
    assert [t.shape for t in listed] == [t.shape for t in net.parameters()]
    with pytest.raises(PruneError, match=r"ema\['stem\.weight'\] has the shape \[8, 3, 3, 3\]"):
        Holders(net, {"ema": filled}).renew()


def test_what_recovery_changed_is_in_copies_and_averages(net: Net, graph: ChannelGraph) -> None:
    """A copy becomes the compensated weights, an average of half the size half of them, also where
    no axis was cut (a bias); an optimizer's moments are cut and nothing else."""
    random = np.random.default_rng(0)
    copied = average(net)
    half = {name: tensor * 0.5 for name, tensor in average(net).items()}
    moments = {
        name: paddle.to_tensor(random.standard_normal(tensor.shape).astype("float32"))
        for name, tensor in net.named_parameters()
    }
    whole = {name: tensor.numpy() for name, tensor in moments.items()}
    holders = Holders(net, {"copy": copied, "half": half, "moments": moments})
    plan = [GroupPlan(graph.groups[0].name, 8, KEPT, len(KEPT))]
    surgery.prune(net, graph, plan)
    for tensor in (net.head.weight, net.head.bias):
        tensor.set_value(tensor.numpy() * 1.5 + 0.25)
    masks = surgery.kept_masks(graph, plan)
    holders.cut(masks)
    for name, tensor in net.state_dict().items():
        now = tensor.numpy()
        assert np.allclose(copied[name].numpy(), now, rtol=1e-6, atol=1e-7), name
        assert np.allclose(half[name].numpy(), 0.5 * now, rtol=1e-6, atol=1e-7), name
    for name, array in whole.items():
        assert np.array_equal(moments[name].numpy(), surgery.cut(array, masks.get(name, {}))), name
