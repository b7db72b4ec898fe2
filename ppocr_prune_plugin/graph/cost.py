"""FLOPs and parameters of a network in inference mode, before and after channels are removed.

FLOPs are multiply-accumulates counted once, of convolutions and matrix products with weights, as
PaddleSlim counts them; activations, normalisations, biases and products of two activations (the
scores of an attention) are left out. Every such operation costs *positions x size of its weight*,
where positions are output pixels (input pixels of a transposed convolution), rows, or steps in
time (of a recurrent layer, for each direction and layer). Positions do not change when channels
are removed, so the exact cost of any combination of ratios follows from the weights' new shapes
alone. Where ``rep()`` makes other weights of those that train, theirs follow from these.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod

import paddle

from .channels import ChannelGraph
from .inference_mode import Axes, in_inference_mode, parameter_axes, reparameterises
from .trace import Op, Program, trace

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class CostModel:
    """``positions``: weight → how often it is applied in one forward pass of one image.
    ``parameters``: names of what counts as a parameter (running statistics do not). Both are those
    of inference mode; ``axes`` says how long each axis is of those that training does not have.
    ``deployed``: parameters of the training network that inference mode uses, or is made of; the
    rest serves training alone."""

    positions: Mapping[str, int]
    parameters: frozenset[str]
    deployed: frozenset[str]
    axes: Mapping[str, Axes] = field(default_factory=dict)

    def flops(self, shapes: Shapes) -> int:
        """Multiply-accumulates of one forward pass of a network that trains with these shapes."""
        return sum(count * prod(self.shape(name, shapes)) for name, count in self.positions.items())

    def params(self, shapes: Shapes) -> int:
        """Number of parameters in inference mode."""
        return sum(prod(self.shape(name, shapes)) for name in self.parameters)

    def shape(self, name: str, shapes: Shapes) -> list[int]:
        """Shape of a parameter of inference mode where the training network has these shapes."""
        return [
            source if isinstance(source, int) else shapes[source[0]][source[1]]
            for source in self.origins(name, shapes)
        ]

    def origins(self, name: str, shapes: Shapes) -> Axes:
        """Where the lengths of the axes of a parameter of inference mode come from."""
        return self.axes.get(name) or tuple((name, axis) for axis in range(len(shapes[name])))


def cost_model(model: paddle.nn.Layer, inputs: Sequence[object], graph: ChannelGraph) -> CostModel:
    """Count the network in inference mode.

    Args:
        model: the network.
        inputs: what ``forward`` takes, with a batch of one.
        graph: its channel groups.

    Raises:
        PruneError: the model cannot be traced, or a ``rep()`` fails.
    """
    twin = in_inference_mode(model) if reparameterises(model) else model
    trainable = [name for name, p in twin.named_parameters() if not p.stop_gradient]
    program = trace(twin, inputs, training=False)
    return cost_of_program(program, trainable, parameter_axes(model, graph, twin))


def cost_of_program(
    program: Program, trainable: Iterable[str], axes: Mapping[str, Axes] | None = None
) -> CostModel:
    """The same of a program traced in inference mode."""
    # The program lists every parameter of the model, also those that no operation reads.
    used = {
        value.parameter
        for op in program.ops
        for operand in op.inputs
        if operand is not None
        for value in (operand, *(operand.elements or ()))
        if value.parameter
    }
    made = {name: own for name, own in (axes or {}).items() if name in used}
    sources = {item[0] for own in made.values() for item in own if not isinstance(item, int)}
    return CostModel(
        _positions(program),
        frozenset(trainable) & used,
        frozenset((used - made.keys()) | sources),
        made,
    )


def _positions(program: Program) -> dict[str, int]:
    counts: dict[str, int] = {}
    for op in program.ops:
        for weight, positions in _weights_and_positions(op):
            counts[weight] = counts.get(weight, 0) + positions
    return counts


def _weights_and_positions(op: Op) -> list[tuple[str, int]]:
    if op.name == "rnn":
        return _of_rnn(op)
    found = _weight_and_positions(op)
    return [] if found is None else [found]


def _of_rnn(op: Op) -> list[tuple[str, int]]:
    """``x [time, batch, in]``, and a list of weights (two axes) and biases (one)."""
    x, weights = op.inputs[0], op.inputs[2]
    if x is None or x.shape is None or weights is None:
        return []
    steps = prod(x.shape[:2])
    return [
        (weight.parameter, steps)
        for weight in weights.elements or ()
        if weight.parameter is not None and len(weight.shape or ()) == 2
    ]


def _weight_and_positions(op: Op) -> tuple[str, int] | None:
    if len(op.inputs) < 2 or not op.outputs:
        return None
    x, weight, out = op.inputs[0], op.inputs[1], op.outputs[0]
    if x is None or weight is None or weight.parameter is None:
        return None
    if x.shape is None or out.shape is None:
        return None
    last = str(op.attrs.get("data_format", "NCHW")).endswith("C")
    if op.name in ("conv2d", "depthwise_conv2d", "conv3d", "deformable_conv"):
        pixels = out.shape[1:-1] if last else out.shape[2:]
        return weight.parameter, out.shape[0] * prod(pixels)
    if op.name in ("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose"):
        pixels = x.shape[1:-1] if last else x.shape[2:]
        return weight.parameter, x.shape[0] * prod(pixels)
    if op.name == "matmul" and len(weight.shape or ()) == 2:
        return weight.parameter, prod(x.shape[:-1])
    return None
