"""Why zeroing a group's filters need not equal removing them, derived from a traced program.

With its filters, scales, shifts and biases at zero, a group's channels are zero where they are
produced. They are followed from there to whatever reads them: an operation that gives something
else than zero for zero (``hardsigmoid``), or that adds what the group does not own (a bias shared
by all channels), makes them a constant that the readers see; removing takes the constant away.
"""

from __future__ import annotations

from dataclasses import dataclass

from ppocr_prune_plugin.graph.flow import IN, OUT
from ppocr_prune_plugin.graph.groups import ChannelGroup
from ppocr_prune_plugin.graph.trace import Op, Program, Value

ZERO = ""  # the group's channels of a value are zero; else the reason why they are not

_MATRIX = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "deformable_conv", "matmul")
_KEEP_ZERO = (
    *("relu", "relu6", "hardswish", "swish", "silu", "pool2d", "nearest_interp", "dropout"),
    *("reshape", "flatten", "transpose", "assign", "builtin.combine", "builtin.split"),
    *("split_with_num", "mean", "slice", "squeeze", "unsqueeze"),
)


@dataclass
class _Follow:
    program: Program
    group: ChannelGroup

    def __post_init__(self) -> None:
        self.axes = {(m.parameter, m.axis): m.role for m in self.group.members}
        self.states: dict[Value, str] = {}
        self.reasons: set[str] = set()

    def state(self, value: Value | None) -> str | None:
        """ZERO, a reason, or None where the value carries none of the group's channels."""
        if value is None:
            return None
        if value.parameter is not None:
            own = any(name == value.parameter for name, _ in self.axes)
            return ZERO if own else None
        return self.states.get(value)

    def apply(self, op: Op) -> str | None:
        states = [self.state(value) for value in op.inputs]
        carried = [state for state in states if state is not None]
        if op.name in _MATRIX:
            return self.matrix(op)
        if op.name.startswith("batch_norm"):
            return ZERO if states[0] is not None else None
        if not carried:
            return None
        worst = max(carried)
        if op.name in _KEEP_ZERO or op.name == "concat":
            return worst
        if op.name == "multiply":
            return min(carried)
        if op.name == "add":
            added = [v for v, s in zip(op.inputs, states, strict=True) if s is None]
            names = [v.parameter or "something else" for v in added if v is not None]
            return worst or (f"{names[0]} is added to them" if names else ZERO)
        if op.name == "scale" and float(op.attrs.get("bias", 1)) == 0:
            return worst
        return worst or f"{op.name} of zero is not zero"

    def matrix(self, op: Op) -> str | None:
        weight = next(v for v in op.inputs if v is not None and v.parameter is not None)
        roles = {axis: role for (name, axis), role in self.axes.items() if name == weight.parameter}
        read = self.state(op.inputs[0])
        if IN in roles.values() and read:
            self.reasons.add(read)
        return ZERO if set(roles.values()) - {IN} else None


def why_not_zero(program: Program, group: ChannelGroup) -> set[str]:
    """Reasons why a group's zeroed channels are not zero where they are read; empty if they are."""
    follow = _Follow(program, group)
    for op in program.ops:
        if op.name == "builtin.parameter":
            continue
        state = follow.apply(op)
        if state is not None:
            for output in op.outputs:
                follow.states[output] = state
    assert any(m.role == OUT for m in group.members)
    return follow.reasons
