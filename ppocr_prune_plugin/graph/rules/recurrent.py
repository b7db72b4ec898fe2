"""Recurrent layers: what they read can be cut, the hidden state is kept."""

from __future__ import annotations

from ..flow import IN, OUT, ChannelFlow, where
from ..trace import Op
from . import rule


@rule("rnn")
def rnn(flow: ChannelFlow, op: Op) -> None:
    """``x [time, batch, in]``; the weights are listed as ``weight_ih [gates * hidden, in]`` and
    ``weight_hh [gates * hidden, hidden]`` of every layer and direction, then the biases. Only the
    first layer reads x."""
    x, states, weights, *rest = op.inputs
    assert x is not None and weights is not None and weights.elements is not None
    kept = f"{where(op)} keeps its hidden size"
    directions = 2 if op.attrs.get("is_bidirec") else 1
    channels = flow.channels(x, -1, op)
    for number, weight in enumerate(weights.elements):
        assert weight.parameter is not None and weight.shape is not None
        first = number < 2 * directions and number % 2 == 0
        if first:
            flow.couple_axis(channels, weight, 1, IN, op)
            flow.freeze(flow.axis_atoms(weight.parameter, 0, OUT), kept)
        else:
            flow.freeze_value(weight, kept)
    for value in (states, *rest):
        if value is not None:
            flow.freeze_value(value, kept)
