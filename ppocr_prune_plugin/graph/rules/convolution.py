"""Convolutions: filters come out, channels are summed over on the way in."""

from __future__ import annotations

from ..flow import AFFINE, IN, OUT, ChannelFlow, where
from ..trace import Op, Value
from . import rule


def _operands(flow: ChannelFlow, op: Op) -> tuple[Value, Value, int] | None:
    """Input, weight and channel axis; None (and everything fixed) for a computed kernel."""
    x, weight = op.inputs[0], op.inputs[1]
    assert x is not None and weight is not None
    if weight.parameter is None or x.shape is None:
        for value in (x, weight):
            flow.fix_value(value, f"{where(op)} has a computed kernel")
        return None
    channel_last = str(op.attrs.get("data_format", "NCHW")).endswith("C")
    return x, weight, len(x.shape) - 1 if channel_last else 1


@rule("conv2d", "depthwise_conv2d", "conv3d")
def convolution(flow: ChannelFlow, op: Op) -> None:
    """Weight ``[out, in / groups, ...]``."""
    operands = _operands(flow, op)
    if operands is None:
        return
    x, weight, axis = operands
    assert weight.parameter is not None and weight.shape is not None and x.shape is not None
    groups = int(op.attrs.get("groups", 1))
    channels = flow.channels(x, axis, op)
    if groups > 1 and weight.shape[1] == 1:
        # Depthwise: each filter belongs to one input channel and goes with it.
        multiplier = weight.shape[0] // groups
        flow.multipliers[weight.parameter] = multiplier
        flow.bind(channels.repeat(multiplier), weight, 0, AFFINE, op)
        out = flow.axis_atoms(weight.parameter, 0, AFFINE)
    else:
        # Grouped: all groups share the input axis of the weight, so they lose the same channels,
        # and stay equally wide only if they lose the same filters.
        for part in channels.reshape(groups, -1):
            flow.bind(part, weight, 1, IN, op)
        out = flow.axis_atoms(weight.parameter, 0, OUT)
        if groups > 1:
            parts = out.reshape(groups, -1)
            flow.join(parts[:1], parts)
    ndim = len(x.shape)
    flow.set_label(op.outputs[0], flow.along(ndim, axis, out))


@rule("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose")
def transposed_convolution(flow: ChannelFlow, op: Op) -> None:
    """Weight ``[in, out / groups, ...]``."""
    operands = _operands(flow, op)
    if operands is None:
        return
    x, weight, axis = operands
    assert weight.parameter is not None and weight.shape is not None and x.shape is not None
    groups = int(op.attrs.get("groups", 1))
    channels = flow.channels(x, axis, op)
    if groups > 1 and weight.shape[1] == 1 and weight.shape[0] == groups:
        flow.multipliers[weight.parameter] = 1
        flow.bind(channels, weight, 0, AFFINE, op)
        out = flow.axis_atoms(weight.parameter, 0, AFFINE)
    else:
        flow.bind(channels, weight, 0, IN, op)
        out = flow.axis_atoms(weight.parameter, 1, OUT)
        if groups > 1:
            parts = flow.axis_atoms(weight.parameter, 0, IN).reshape(groups, -1)
            flow.join(parts[:1], parts)
            out = out.reshape(1, -1).repeat(groups, axis=0).reshape(-1)
    flow.set_label(op.outputs[0], flow.along(len(x.shape), axis, out))
