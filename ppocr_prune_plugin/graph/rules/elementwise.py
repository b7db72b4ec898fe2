"""Element by element: channels keep their place; operands that meet lose the same channels."""

from __future__ import annotations

import numpy as np

from ..flow import NEUTRAL, ChannelFlow, where
from ..trace import Op, Value
from . import rule


@rule(
    *("relu", "relu6", "leaky_relu", "prelu_scalar", "hardswish", "hardsigmoid", "hardtanh"),
    *("sigmoid", "swish", "silu", "tanh", "gelu", "elu", "selu", "mish", "softplus", "exp", "log"),
    *("sqrt", "rsqrt", "square", "abs", "reciprocal", "scale", "scale_", "pow", "clip", "cast"),
    *("dropout", "assign", "assign_out_", "full_like", "isnan", "isinf", "floor", "round", "sign"),
    *("share_data_", "relu_", "logical_not", "erf", "sin", "cos"),
)
def same_place(flow: ChannelFlow, op: Op) -> None:
    """One operand; further ones are scalars that set up the operation."""
    x = op.inputs[0]
    assert x is not None
    for output in op.outputs:
        if output.shape == x.shape and output.shape is not None:
            flow.set_label(output, flow.label(x))


@rule(
    *("add", "subtract", "multiply", "divide", "maximum", "minimum", "elementwise_pow", "where"),
    *("add_", "subtract_", "multiply_", "divide_", "equal", "not_equal", "less_than", "fmax"),
    *("greater_than", "less_equal", "greater_equal", "logical_and", "logical_or", "remainder"),
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
    """Join the labels of operands that are combined element by element."""
    out = op.outputs[0]
    if out.shape is None or any(v.shape is None for v in operands):
        for value in operands:
            flow.fix_value(value, f"{where(op)}: shape unknown")
        return
    ndim = len(out.shape)

    def aligned(shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1,) * (ndim - len(shape)) + shape

    # Values that have labels tell which axes of the parameters they meet are channels.
    shapes = [aligned(v.shape or ()) for v in operands]
    activations = [flow.label(v) for v in operands if v.parameter is None]
    tracked = {
        axis
        for labels in activations
        for axis, size in enumerate(aligned(labels.shape))
        if size > 1
    }
    labelled = []
    for value in operands:
        shift = ndim - len(value.shape or ())
        labels = flow.label(value, [axis - shift for axis in tracked])
        labelled.append(labels.reshape(aligned(labels.shape)))
    target = tuple(max(sizes) for sizes in zip(*(a.shape for a in labelled), strict=True))
    result = np.full(target, NEUTRAL, dtype=np.int64)
    for labels in labelled:
        wide = np.broadcast_to(labels, target)
        flow.join(result, wide)
        result = np.where(result == NEUTRAL, wide, result)
    for labels, shape in zip(labelled, shapes, strict=True):
        # An operand as long as the channels, but with no parameter behind it, cannot become
        # shorter with them; one that is broadcast along them need not.
        if any(size > 1 and shape[axis] > 1 for axis, size in enumerate(target)):
            bare = np.broadcast_to(labels, target) == NEUTRAL
            flow.fix(result[bare], f"{where(op)} meets a tensor of fixed size")
    flow.set_label(out, result)
