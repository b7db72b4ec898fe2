"""FLOPs and parameters of a network, before and after channels are removed.

FLOPs are multiply-accumulates counted once, of convolutions and matrix products with weights, as
PaddleSlim counts them; activations, normalisations, biases and products of two activations (the
scores of an attention) are left out. Every such operation costs *positions x size of its weight*,
where positions are output pixels (input pixels of a transposed convolution), rows, or steps in
time (of a recurrent layer, for each direction and layer). Positions do not change when channels
are removed, so the exact cost of any combination of ratios follows from the weights' new shapes
alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import paddle

from .trace import Op, Program, trace

Shapes = Mapping[str, Sequence[int]]


@dataclass(frozen=True)
class CostModel:
    """``positions``: weight name -> how often it is applied in one forward pass of one picture.
    ``parameters``: names of what counts as a parameter (running statistics do not).
    ``deployed``: names of all that evaluation mode uses; the rest serves training alone."""

    positions: Mapping[str, int]
    parameters: frozenset[str]
    deployed: frozenset[str]

    def flops(self, shapes: Shapes) -> int:
        """Multiply-accumulates of one forward pass of a network with these shapes."""
        return sum(count * prod(shapes[name]) for name, count in self.positions.items())

    def params(self, shapes: Shapes) -> int:
        """Number of trainable numbers."""
        return sum(prod(shapes[name]) for name in self.parameters)


def cost_model(
    model: paddle.nn.Layer, inputs: Sequence[object], fused: Iterable[str] = ()
) -> CostModel:
    """Count the network as it is deployed (evaluation mode).

    Args:
        model: the network.
        inputs: what ``forward`` takes, with a batch of one.
        fused: names of layers whose parallel convolutions become one on export; only the
            largest of them counts.
    """
    trainable = [name for name, p in model.named_parameters() if not p.stop_gradient]
    return cost_of_program(trace(model, inputs, training=False), trainable, fused)


def cost_of_program(
    program: Program, trainable: Iterable[str], fused: Iterable[str] = ()
) -> CostModel:
    """The same of a program traced in evaluation mode."""
    positions = _fuse(_positions(program), program, tuple(fused))
    # The program lists every parameter of the model, also those that no operation reads.
    used = {v.parameter for op in program.ops for v in op.inputs if v is not None and v.parameter}
    return CostModel(positions, frozenset(trainable), frozenset(used))


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


def _fuse(counts: dict[str, int], program: Program, fused: tuple[str, ...]) -> dict[str, int]:
    kept = dict(counts)
    for layer in fused:
        inside = [name for name in counts if name.startswith(layer + ".")]
        if len(inside) > 1:
            largest = max(inside, key=lambda n: counts[n] * prod(program.parameter_shapes[n]))
            for name in inside:
                if name != largest:
                    del kept[name]
    return kept
