"""Matrix products with a weight: its rows are summed over, its columns come out."""

from __future__ import annotations

import numpy as np

from ..flow import IN, NEUTRAL, OUT, ChannelFlow, where
from ..trace import Op
from . import rule
from .product import multiply_activations


@rule("matmul", "bmm")
def matmul(flow: ChannelFlow, op: Op) -> None:
    """``x [..., k] @ weight [k, n]``; for two activations see :mod:`.product`."""
    x, y = op.inputs[0], op.inputs[1]
    assert x is not None and y is not None
    transposed = bool(op.attrs.get("transpose_x")), bool(op.attrs.get("transpose_y"))
    weight = y.parameter is not None and len(y.shape or ()) == 2
    if not weight or x.shape is None or transposed[0] or x.parameter is not None:
        if x.parameter is None and y.parameter is None:
            multiply_activations(flow, op, x, y, transposed)
            return
        for value in (x, y):
            flow.freeze_value(value, f"{where(op)} multiplies by a parameter of an unusual form")
        return
    assert y.parameter is not None
    inner, outer = (1, 0) if transposed[1] else (0, 1)
    flow.couple_axis(flow.channels(x, -1, op), y, inner, IN, op)
    columns = flow.axis_atoms(y.parameter, outer, OUT)
    flow.set_channel_map(op.outputs[0], flow.along(len(x.shape), -1, columns))


@rule("embedding")
def embedding(flow: ChannelFlow, op: Op) -> None:
    """Rows are the vocabulary, which stays; columns are features."""
    weight, out = op.inputs[1], op.outputs[0]
    assert weight is not None and out.shape is not None
    if weight.parameter is None:
        return
    rows = flow.axis_atoms(weight.parameter, 0, IN)
    flow.freeze(rows[rows != NEUTRAL], f"{where(op)}: the vocabulary stays")
    columns = np.asarray(flow.axis_atoms(weight.parameter, 1, OUT))
    flow.set_channel_map(out, flow.along(len(out.shape), -1, columns))
