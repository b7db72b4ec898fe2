"""Normalisations: numbers per channel go with the channel."""

from __future__ import annotations

from ..flow import AFFINE, ChannelFlow
from ..trace import Op
from . import rule


@rule("batch_norm_", "batch_norm", "sync_batch_norm_", "instance_norm")
def batch_norm(flow: ChannelFlow, op: Op) -> None:
    """Statistics are taken per channel, so that channels do not see each other; instance norm
    takes them per picture as well."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    axis = len(x.shape) - 1 if op.attrs.get("data_format") == "NHWC" else min(1, len(x.shape) - 1)
    channels = flow.channels(x, axis, op)
    for parameter in op.inputs[1:]:
        if parameter is not None and parameter.parameter is not None:
            flow.bind(channels, parameter, 0, AFFINE, op)
    flow.set_label(op.outputs[0], flow.along(len(x.shape), axis, channels))
