"""Normalisations: numbers per channel go with the channel."""

from __future__ import annotations

from ..flow import AFFINE, Atoms, ChannelFlow, where
from ..trace import Op, Value
from . import rule


@rule("batch_norm", "sync_batch_norm", "instance_norm")
def batch_norm(flow: ChannelFlow, op: Op) -> None:
    """Statistics are taken per channel, so that channels do not see each other; instance norm
    takes them per image as well."""
    x, axis = _channel_axis(op)
    channels = flow.channels(x, axis, op)
    _bind_all(flow, op, channels)
    flow.set_channel_map(op.outputs[0], flow.along(len(x.shape or ()), axis, channels))


@rule("prelu")
def prelu(flow: ChannelFlow, op: Op) -> None:
    """A slope for all, per channel, or per element (which fixes the channels)."""
    x, axis = _channel_axis(op)
    alpha = op.inputs[1]
    if op.attrs.get("mode") == "all":
        flow.set_channel_map(op.outputs[0], flow.channel_map(x))
        return
    if op.attrs.get("mode") != "channel":
        assert alpha is not None
        for value in (x, alpha):
            flow.freeze_value(value, f"{where(op)} has a slope for every element")
        return
    channels = flow.channels(x, axis, op)
    _bind_all(flow, op, channels)
    flow.set_channel_map(op.outputs[0], flow.along(len(x.shape or ()), axis, channels))


@rule("layer_norm", "rms_norm")
def layer_norm(flow: ChannelFlow, op: Op) -> None:
    """Over the last axes. Where the channels run along the only normalised axis, what is left is
    normalised by its own mean and variance; over several axes, they are kept."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    ndim = len(x.shape)
    begin = int(op.attrs.get("begin_norm_axis", ndim - 1)) % ndim
    maps = flow.channel_map(x)
    along_others = all(size == 1 for size in maps.shape[begin:])
    if begin == ndim - 1 and not along_others:
        channels = flow.channels(x, -1, op)
        _bind_all(flow, op, channels)
        flow.set_channel_map(op.outputs[0], flow.along(ndim, -1, channels))
        return
    if not along_others:
        flow.freeze(maps, f"{where(op)} normalises several axes at once")
    for parameter in op.inputs[1:]:
        if parameter is not None:
            flow.freeze_value(parameter, f"{where(op)} normalises an axis of fixed size")
    flow.set_channel_map(op.outputs[0], maps)


@rule("group_norm")
def group_norm(flow: ChannelFlow, op: Op) -> None:
    """Groups of channels are normalised together: each loses the same ones."""
    x, axis = _channel_axis(op)
    groups = int(op.attrs.get("groups", 1))
    channels = flow.channels(x, axis, op)
    flow.couple_rows(channels.reshape(groups, -1), op)
    _bind_all(flow, op, channels)
    flow.set_channel_map(op.outputs[0], flow.along(len(x.shape or ()), axis, channels))


def _channel_axis(op: Op) -> tuple[Value, int]:
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    last = str(op.attrs.get("data_format", "NCHW")) in ("NHWC", "NLC", "NDHWC")
    return x, len(x.shape) - 1 if last else min(1, len(x.shape) - 1)


def _bind_all(flow: ChannelFlow, op: Op, channels: Atoms) -> None:
    """Couple every number per channel that the operation reads with the channels."""
    for parameter in op.inputs[1:]:
        if parameter is None:
            continue
        if parameter.parameter is not None:
            flow.couple_axis(channels, parameter, 0, AFFINE, op)
        else:
            flow.freeze(channels, f"{where(op)} has computed scales")
