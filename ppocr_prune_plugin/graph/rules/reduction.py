"""Reductions and poolings: over space they keep channels; over channels they need them all."""

from __future__ import annotations

import numpy as np

from ..flow import ChannelFlow, where
from ..trace import Op
from . import rule
from .constants import axes_of


@rule(
    *("pool2d", "pool3d", "max_pool2d_with_index", "max_pool3d_with_index", "lp_pool2d"),
    *("nearest_interp", "bilinear_interp", "bicubic_interp", "linear_interp", "trilinear_interp"),
)
def spatial(flow: ChannelFlow, op: Op) -> None:
    """Pooling and resizing: only the last two (or, channel last, middle) axes change."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    channel_last = str(op.attrs.get("data_format", "NCHW")).endswith("C")
    axis = len(x.shape) - 1 if channel_last else 1
    maps = flow.along(len(x.shape), axis, flow.channels(x, axis, op))
    for output in op.outputs:
        if output.shape is not None and len(output.shape) == len(x.shape):
            flow.set_channel_map(output, maps)


@rule(
    *("mean", "sum", "max", "min", "amax", "amin", "prod", "any", "all", "mean_all"),
    *("argmax", "argmin", "logsumexp", "p_norm", "squared_l2_norm", "median"),
)
def reduction(flow: ChannelFlow, op: Op) -> None:
    """A mean (or sum, or maximum) over channels is another one with fewer of them: frozen."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None
    if x.shape is None or out.shape is None:
        flow.freeze_value(x, f"{where(op)}: shape unknown")
        return
    maps = flow.channel_map(x)
    axes = axes_of(op, len(x.shape))
    if op.attrs.get("asvector") or op.name in ("mean_all", "squared_l2_norm"):
        axes = list(range(len(x.shape)))
    if axes is None:
        flow.freeze(maps, f"{where(op)} reduces axes that are not known")
        return
    for axis in axes:
        if maps.shape[axis] > 1:
            flow.freeze(maps, f"{where(op)} reduces over the channels")
            return
    if len(out.shape) != maps.ndim:
        maps = np.squeeze(maps, axis=tuple(axes))
    if maps.ndim == len(out.shape):
        flow.set_channel_map(out, maps)
    else:
        flow.freeze(maps, f"{where(op)} flattens first")


@rule("softmax", "log_softmax", "cumsum", "cumprod", "logcumsumexp")
def along_one_axis(flow: ChannelFlow, op: Op) -> None:
    """Every element sees the others on its axis, so that this axis is frozen."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    axes = axes_of(op, len(x.shape))
    if axes is None or op.outputs[0].shape != x.shape:
        flow.freeze(maps, f"{where(op)} runs over axes that are not known")
        return
    for axis in axes:
        flow.freeze_axis(maps, axis, f"{where(op)} runs over the channels")
    flow.set_channel_map(op.outputs[0], maps)
