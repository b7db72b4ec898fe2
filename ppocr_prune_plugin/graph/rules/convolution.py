"""Convolutions: filters come out, channels are summed over on the way in."""

from __future__ import annotations

import numpy as np

from ..flow import AFFINE, IN, OUT, ChannelFlow, where
from ..trace import Op, Value
from . import rule


@rule("conv2d", "depthwise_conv2d", "conv3d")
def convolution(flow: ChannelFlow, op: Op) -> None:
    """Weight ``[out, in / groups, ...]``."""
    _couple(flow, op, op.inputs[1], transposed=False)


@rule("conv2d_transpose", "depthwise_conv2d_transpose", "conv3d_transpose")
def transposed_convolution(flow: ChannelFlow, op: Op) -> None:
    """Weight ``[in, out / groups, ...]``."""
    _couple(flow, op, op.inputs[1], transposed=True)


@rule("deformable_conv")
def deformable_convolution(flow: ChannelFlow, op: Op) -> None:
    """A convolution whose taps are moved by ``offset`` and weighted by ``mask``: one pair of
    channels (one channel) per tap, so that these two are frozen."""
    _, offset, weight, mask = op.inputs
    for value in (offset, mask):
        if value is not None:
            flow.freeze_value(value, f"{where(op)} has one channel per tap of its kernel")
    _couple(flow, op, weight, transposed=False)


def _couple(flow: ChannelFlow, op: Op, weight: Value | None, transposed: bool) -> None:
    """Couple the first operand's channels with the weight, and label the result.

    Axis 1 of the weight is shared by all groups of a grouped convolution, axis 0 is divided among
    them: groups lose the same channels along the one, and stay equally wide along the other.
    """
    x = op.inputs[0]
    assert x is not None and weight is not None
    weight = flow.resolve(weight)
    if weight.parameter is None or weight.shape is None or x.shape is None:
        for value in (x, weight):
            flow.freeze_value(value, f"{where(op)} has a computed kernel")
        return
    ndim = len(x.shape)
    axis = ndim - 1 if str(op.attrs.get("data_format", "NCHW")).endswith("C") else 1
    groups = int(op.attrs.get("groups", 1))
    channels = flow.channels(x, axis, op)
    multiplier, rest = divmod(weight.shape[0], groups)
    assert rest == 0
    if groups > 1 and weight.shape[1] == 1 and not (transposed and multiplier > 1):
        # Depthwise: each filter belongs to one input channel and goes with it.
        flow.multipliers[weight.parameter] = multiplier
        flow.couple_axis(channels.repeat(multiplier), weight, 0, AFFINE, op)
        out = flow.axis_atoms(weight.parameter, 0, AFFINE)
    elif transposed:
        flow.couple_axis(channels, weight, 0, IN, op)
        _same_in_all(flow, weight.parameter, groups, IN)
        out = np.tile(flow.axis_atoms(weight.parameter, 1, OUT), groups)
    else:
        for part in channels.reshape(groups, -1):
            flow.couple_axis(part, weight, 1, IN, op)
        _same_in_all(flow, weight.parameter, groups, OUT)
        out = flow.axis_atoms(weight.parameter, 0, OUT)
    flow.set_channel_map(op.outputs[0], flow.along(ndim, axis, out))


def _same_in_all(flow: ChannelFlow, weight: str, groups: int, role: str) -> None:
    parts = flow.axis_atoms(weight, 0, role).reshape(groups, -1)
    flow.couple(parts[:1], parts)
