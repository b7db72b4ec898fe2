"""Element by element: channels keep their place; operands that meet lose the same channels."""

from __future__ import annotations

import numpy as np

from ..flow import NEUTRAL, Atoms, ChannelFlow, where
from ..trace import Op, Value
from . import rule


@rule(
    *("relu", "relu6", "leaky_relu", "elu", "celu", "selu", "gelu", "silu", "swish", "mish"),
    *("hardswish", "hardsigmoid", "hardtanh", "hardshrink", "softshrink", "tanh_shrink"),
    *("thresholded_relu", "softplus", "softsign", "stanh", "logsigmoid", "sigmoid", "logit"),
    *("exp", "expm1", "log", "log2", "log10", "log1p", "sqrt", "rsqrt", "square", "reciprocal"),
    *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "erf", "erfinv"),
    *("abs", "sign", "floor", "ceil", "round", "trunc", "isnan", "isinf", "isfinite"),
    *("logical_not", "bitwise_not", "scale", "pow", "clip", "cast", "increment", "dropout"),
    *("assign", "assign_out", "share_data", "memcpy", "full_like", "nan_to_num", "print"),
)
def same_place(flow: ChannelFlow, op: Op) -> None:
    """One operand; further ones are scalars that set up the operation."""
    x = op.inputs[0]
    assert x is not None
    for output in op.outputs:
        if output.shape == x.shape and output.shape is not None:
            flow.set_channel_map(output, flow.channel_map(x))
    if op.name in ("assign", "cast", "share_data"):
        flow.set_alias(op.outputs[0], x)


@rule(
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "elementwise_pow", "where"),
    *("equal", "not_equal", "less_than", "less_equal", "greater_than", "greater_equal", "fmax"),
    *("fmin", "logical_and", "logical_or", "logical_xor", "bitwise_and", "bitwise_or"),
    *("bitwise_xor", "remainder", "floor_divide", "atan2", "lerp", "expand_as"),
)
def broadcast(flow: ChannelFlow, op: Op) -> None:
    """Several operands, broadcast as NumPy does."""
    meet(flow, op, [v for v in op.inputs if v is not None])


@rule("add_n")
def sum_of_list(flow: ChannelFlow, op: Op) -> None:
    """One list of operands of the same shape."""
    values = op.inputs[0]
    assert values is not None
    meet(flow, op, list(values.elements or ()))


def meet(flow: ChannelFlow, op: Op, operands: list[Value]) -> None:
    """Label the result of operands that are combined element by element."""
    out = op.outputs[0]
    if out.shape is None or any(v.shape is None for v in operands):
        for value in operands:
            flow.freeze_value(value, f"{where(op)}: shape unknown")
        return
    flow.set_channel_map(out, joined(flow, op, operands, len(out.shape)))


def joined(flow: ChannelFlow, op: Op, operands: list[Value], ndim: int) -> Atoms:
    """Join the maps of operands that are broadcast to ``ndim`` axes; what all have then."""

    def aligned(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * (ndim - len(shape)) + shape

    # Values that have maps tell which axes of the parameters they meet are channels.
    shapes = [aligned(v.shape or ()) for v in operands]
    activations = [flow.channel_map(v) for v in operands if v.parameter is None]
    tracked = {
        axis for maps in activations for axis, size in enumerate(aligned(maps.shape)) if size > 1
    }
    labelled = []
    for value in operands:
        shift = ndim - len(value.shape or ())
        maps = flow.channel_map(value, [axis - shift for axis in tracked])
        labelled.append(maps.reshape(aligned(maps.shape)))
    target = tuple(max(sizes) for sizes in zip(*(a.shape for a in labelled), strict=True))
    result = np.full(target, NEUTRAL, dtype=np.int64)
    for maps in labelled:
        wide = np.broadcast_to(maps, target)
        flow.couple(result, wide)
        result = np.where(result == NEUTRAL, wide, result)
    for maps, shape in zip(labelled, shapes, strict=True):
        # An operand as long as the channels, but with no parameter behind it, cannot become
        # shorter with them; one that is broadcast along them need not.
        if any(size > 1 and shape[axis] > 1 for axis, size in enumerate(target)):
            bare = np.broadcast_to(maps, target) == NEUTRAL
            flow.freeze(result[bare], f"{where(op)} meets a tensor of fixed size")
    return result
