"""FLOPs and parameters agree with ``paddle.flops``, with counting, and with the pruned network."""

from __future__ import annotations

from collections.abc import Callable
from math import prod

import paddle
import pytest
from architectures import DETECTORS
from fixtures_networks import INPUTS, Detector, build, image
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.cost import CostModel, cost_model
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.graph.inference_mode import in_inference_mode
from ppocr_prune_plugin.plan import GroupPlan

GetDetector = Callable[[str], Detector]

_NOT_COUNTED = (nn.BatchNorm, nn.BatchNorm2D, nn.AdaptiveAvgPool2D, nn.AvgPool2D)


def cost_of(built: Detector, model: nn.Layer) -> CostModel:
    return cost_model(model, INPUTS, built.graph)


def count_parameters(model: nn.Layer) -> int:
    """Numbers that a detector's output depends on: those that have a gradient."""
    model(image(1))["maps"].sum().backward()
    return sum(p.size for p in model.parameters() if p.grad is not None)


def count_by_hand(model: nn.Layer) -> int:
    return macs(model, image(1))


def macs(model: nn.Layer, image: paddle.Tensor) -> int:
    """Multiply-accumulates of one forward pass, from what each layer is given and gives."""
    total = 0

    def convolution(layer: nn.Layer, inputs: tuple[paddle.Tensor], out: paddle.Tensor) -> None:
        nonlocal total
        taps = prod(layer.weight.shape[2:])
        if isinstance(layer, nn.Conv2DTranspose):  # each input pixel is spread over the kernel
            total += prod(inputs[0].shape) * taps * layer.weight.shape[1]
        else:  # each output number is a sum over the kernel
            total += prod(out.shape) * taps * layer.weight.shape[1]

    def linear(layer: nn.Layer, inputs: tuple[paddle.Tensor], out: paddle.Tensor) -> None:
        nonlocal total
        total += prod(inputs[0].shape) * layer.weight.shape[1]

    hooks = []
    for layer in model.sublayers():
        if isinstance(layer, nn.Conv2D | nn.Conv2DTranspose):
            hooks.append(layer.register_forward_post_hook(convolution))
        elif isinstance(layer, nn.Linear):
            hooks.append(layer.register_forward_post_hook(linear))
    model.eval()
    with paddle.no_grad():
        model(image)
    for hook in hooks:
        hook.remove()
    return total


@pytest.mark.parametrize("name", DETECTORS)
def test_cost_equals_counting_before_and_after_pruning(detector: GetDetector, name: str) -> None:
    built = detector(name)
    model = build(name)
    graph, costs = built.graph, cost_of(built, model)
    whole = in_inference_mode(model)
    assert costs.flops(graph.shapes) == count_by_hand(whole) > 0
    assert costs.params(graph.shapes) == count_parameters(whole)
    plans = [GroupPlan(g.name, g.size, tuple(range(g.size // 3 + 1)), g.size // 3 + 1)
             for g in graph.groups]  # fmt: skip
    predicted = surgery.shapes_after(graph, {plan.name: plan.kept_channels for plan in plans})
    surgery.prune(model, graph, plans)
    pruned = in_inference_mode(model)
    assert costs.flops(predicted) == count_by_hand(pruned) < costs.flops(graph.shapes) / 2
    assert costs.params(predicted) == count_parameters(pruned)


def test_a_pruned_model_traced_again_has_the_predicted_cost(detector: GetDetector) -> None:
    built = detector("mv3_se_dbfpn")
    model = build("mv3_se_dbfpn")
    costs = cost_of(built, model)
    plans = [GroupPlan(g.name, g.size, (0, g.size - 1), 2) for g in built.graph.groups]
    predicted = surgery.shapes_after(built.graph, {plan.name: 2 for plan in plans})
    surgery.prune(model, built.graph, plans)
    again = cost_model(model, INPUTS, built.graph)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    assert again.flops(shapes) == costs.flops(predicted)
    assert again.positions == costs.positions and again.parameters == costs.parameters


@pytest.mark.parametrize("name", ["mv3_se_dbfpn", "resnet18_dbfpn"])
def test_flops_agree_with_paddle(detector: GetDetector, name: str) -> None:
    """``paddle.flops`` with all but convolutions left out. It adds one for each output number of
    a convolution with a bias, and charges a transposed convolution for its output pixels."""
    built = detector(name)
    model = build(name)
    model.eval()
    extra = 0

    def differences(layer: nn.Layer, inputs: tuple[paddle.Tensor], out: paddle.Tensor) -> None:
        nonlocal extra
        if layer.bias is not None:
            extra += prod(out.shape)
        if isinstance(layer, nn.Conv2DTranspose):
            work = prod(layer.weight.shape[1:])
            pixels = prod(out.shape[2:]) - prod(inputs[0].shape[2:])
            extra += pixels * work * inputs[0].shape[1]

    hooks = [
        layer.register_forward_post_hook(differences)
        for layer in model.sublayers()
        if isinstance(layer, nn.Conv2D | nn.Conv2DTranspose)
    ]
    with paddle.no_grad():
        model(image(1))
    for hook in hooks:
        hook.remove()

    def nothing(layer: nn.Layer, inputs: object, out: object) -> None:
        layer.total_ops += 0

    left_out = {
        type(layer): nothing
        for layer in model.sublayers()
        if not isinstance(layer, nn.Conv2D | nn.Conv2DTranspose | nn.Linear)
    }
    theirs = paddle.flops(model, list(INPUTS[0][0]), custom_ops=left_out)
    assert cost_of(built, model).flops(built.graph.shapes) == theirs - extra


def test_linear_and_shared_layers() -> None:
    """Rows of a linear layer count; a layer applied twice counts twice, its weights once."""

    class Twice(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(4, 4)

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.layer(self.layer(x))

    model, inputs = Twice(), [([1, 5, 4], "float32")]
    costs = cost_model(model, inputs, build_graph(model, inputs))
    shapes = {"layer.weight": (4, 4), "layer.bias": (4,)}
    assert costs.flops(shapes) == 2 * 5 * 4 * 4
    assert costs.params(shapes) == 20
    assert costs.deployed == {"layer.weight", "layer.bias"}


def test_recurrent_layers() -> None:
    """Every weight is multiplied once per step in time, whatever the layer and direction; pruning
    the input makes it cheaper by what it no longer reads."""

    class Recurrent(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.stem = nn.Linear(3, 6)
            self.lstm = nn.LSTM(6, 4, num_layers=2, direction="bidirectional")

        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            return self.lstm(self.stem(x))[0]

    model, inputs = Recurrent(), [([1, 5, 3], "float32")]
    graph = build_graph(model, inputs)
    costs = cost_model(model, inputs, graph)
    gates, directions, steps = 4 * 4, 2, 5
    layers = (6 + 4) + (2 * 4 + 4)  # what each layer reads: its input and its state
    assert costs.flops(graph.shapes) == steps * (3 * 6 + directions * gates * layers)
    narrow = surgery.shapes_after(graph, {"stem": 4})
    lost = steps * (3 * 2 + directions * gates * 2)
    assert costs.flops(graph.shapes) - costs.flops(narrow) == lost


def test_training_branches_cost_nothing(detector: GetDetector) -> None:
    """The threshold head is in the checkpoint; what ships does not have it."""
    built = detector("resnet18_dbfpn")
    costs = cost_of(built, build("resnet18_dbfpn"))
    threshold = {name for name in built.graph.shapes if name.startswith("head.thresh.")}
    assert threshold and not costs.deployed & threshold
    assert not costs.parameters & threshold and not costs.positions.keys() & threshold
