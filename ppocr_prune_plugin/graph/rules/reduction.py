"""Reductions and poolings: over space they keep channels; over channels they need them all."""

from __future__ import annotations

import numpy as np

from ..flow import ChannelFlow, where
from ..trace import Op
from . import rule


@rule("pool2d", "max_pool2d_with_index", "nearest_interp", "bilinear_interp", "bicubic_interp")
def spatial(flow: ChannelFlow, op: Op) -> None:
    """Pooling and resizing: only the last two (or, channel last, middle) axes change."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    channel_last = str(op.attrs.get("data_format", "NCHW")).endswith("C")
    axis = len(x.shape) - 1 if channel_last else 1
    labels = flow.along(len(x.shape), axis, flow.channels(x, axis, op))
    for output in op.outputs:
        if output.shape is not None and len(output.shape) == len(x.shape):
            flow.set_label(output, labels)


@rule("mean", "sum", "max", "min", "amax", "amin", "prod", "argmax", "argmin", "any", "all")
def reduction(flow: ChannelFlow, op: Op) -> None:
    """A mean (or sum, or maximum) over channels is another one with fewer of them: kept whole."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None
    if x.shape is None or out.shape is None:
        flow.fix_value(x, f"{where(op)}: shape unknown")
        return
    labels = flow.label(x)
    axes = _axes(op, len(x.shape))
    if axes is None:
        flow.fix(labels, f"{where(op)} reduces axes that are not known")
        return
    for axis in axes:
        if labels.shape[axis] > 1:
            flow.fix(labels, f"{where(op)} reduces over the channels")
            return
    if len(out.shape) != labels.ndim:
        labels = np.squeeze(labels, axis=tuple(axes))
    if labels.ndim == len(out.shape):
        flow.set_label(out, labels)
    else:
        flow.fix(labels, f"{where(op)} flattens first")


def _axes(op: Op, ndim: int) -> list[int] | None:
    raw = op.attrs.get("axis", op.attrs.get("axes"))
    if raw is None:
        constants = [v.constant for v in op.inputs[1:] if v is not None]
        raw = constants[0] if constants else None
    if raw is None:
        return None
    axes = [int(axis) % ndim for axis in (raw if isinstance(raw, list | tuple) else [raw])]
    return axes or list(range(ndim))


@rule("softmax", "log_softmax", "cumsum")
def along_one_axis(flow: ChannelFlow, op: Op) -> None:
    """Every element sees the others on its axis, so that this axis is kept whole."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    labels = flow.label(x)
    axes = _axes(op, len(x.shape))
    if axes is None or op.outputs[0].shape != x.shape:
        flow.fix(labels, f"{where(op)} runs over axes that are not known")
        return
    for axis in axes:
        flow.keep_whole(labels, axis, f"{where(op)} runs over the channels")
    flow.set_label(op.outputs[0], labels)
