"""Channel groups: what has to lose the same channels together, and what cannot lose any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import paddle

from .channels import ChannelGraph, ChannelGroup, Frozen, Member, SizeAttribute
from .flow import ChannelFlow, where
from .live import attributes_read
from .members import collect
from .rep_sizes import follow_rep
from .retrace import Retraced, confirmed
from .rules import find_rule
from .trace import Program, trace

__all__ = [
    "ChannelGraph",
    "ChannelGroup",
    "Frozen",
    "Member",
    "SizeAttribute",
    "build_graph",
    "find_groups",
]


def build_graph(
    model: paddle.nn.Layer, inputs: Sequence[Any], training: bool = True
) -> ChannelGraph:
    """Trace a model and find its channel groups.

    The model is traced again at other widths, so that sizes written in its code show: they follow
    their channels where a layer's attribute holds them, and freeze them elsewhere.

    Args:
        model: the network; it is left as it was.
        inputs: what its ``forward`` takes: ``(shape, dtype)`` pairs or arrays.
        training: trace it as it trains, which sees most; False as it is deployed.

    Raises:
        PruneError: the model cannot be traced.
    """
    with attributes_read(model) as reads:
        program = trace(model, inputs, training, sites=True)
    graph = confirmed(model, inputs, program, reads, lambda refused: _analyse(program, refused))
    return replace(follow_rep(model, graph), program=program)


def find_groups(program: Program) -> ChannelGraph:
    """Apply the rules to a program and collect what is cut together, as if no size were written
    in the model's code."""
    return _analyse(program, {}).graph


def _analyse(program: Program, refused: Mapping[int, str]) -> Retraced:
    """``refused``: numbers of operations whose operands stay, with the reason."""
    flow = ChannelFlow(program)
    unknown: dict[str, int] = {}
    for number, op in enumerate(program.ops):
        flow.next_step()
        apply = find_rule(op.name)
        values = [value for value in (*op.inputs, *op.captured) if value is not None]
        if all(flow.is_neutral(value) for value in values):
            continue  # data alone: nothing to remove, whatever the operation does
        if number in refused:
            for value in values:
                flow.freeze_value(value, refused[number])
        reason = f"{where(op)}: no rule for this operation"
        if apply is not None and not op.captured:
            try:
                apply(flow, op)
                if op.name != "builtin.combine":
                    flow.freeze_unclaimed(op)
                continue
            except Exception as error:  # a form of the operation that its rule does not foresee
                reason = f"{where(op)}: its rule failed ({type(error).__name__})"
        unknown[op.name] = unknown.get(op.name, 0) + 1
        for value in values:
            flow.freeze_value(flow.resolve(value), reason)
    for output in program.outputs:
        flow.freeze_value(output, "it is an output of the network")
    return Retraced(flow, collect(flow, unknown))
