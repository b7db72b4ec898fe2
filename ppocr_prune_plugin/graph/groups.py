"""Channel groups: what has to lose the same channels together, and what cannot lose any.

The idea is DepGraph's (Fang et al., CVPR 2023), on single channels instead of whole layers: every
channel of every parameter is a node, so that concatenation, splitting and flattening need no
special index arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import paddle

from .flow import AFFINE, IN, OUT, ChannelFlow, where
from .rules import find_rule
from .trace import Program, trace

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one parameter in a group.

    ``indices`` has shape ``[channels, positions]``: channel ``i`` of the group stands at
    ``indices[i]`` along the axis (several positions after a flatten, for instance).
    """

    parameter: str
    axis: int
    role: str
    indices: Indices

    @property
    def layer(self) -> str:
        """Structured name of the layer that holds the parameter."""
        return self.parameter.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be removed from all of their members at once.

    ``name`` is the layer of the root, the first member that produces the channels; where channels
    of one layer fall into several groups, ``#2``, ``#3`` … follow the name.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def root(self) -> Member:
        """The member that the group is named after."""
        return self.members[0]

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members along whose axis the channels are produced, the root first."""
        return tuple(m for m in self.members if m.role == OUT)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.size} channels"]
        words = {OUT: "filters of", AFFINE: "channels of", IN: "inputs of"}
        for member in self.members:
            count = member.indices.size
            span = f"[{member.indices.min()}..{member.indices.max()}]"
            extra = "" if count == self.size else f", {count // self.size} places per channel"
            lines.append(
                f"    {words[member.role]:12} {member.parameter} axis {member.axis} {span}{extra}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Frozen:
    """Channels that cannot be pruned: the layer that produces them, how many, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """All channel groups of a network, in the order of its forward pass.

    ``shapes`` holds the shape of every parameter and buffer that the trace has seen;
    ``multipliers`` the filters per input channel of each depthwise convolution;
    ``unknown`` the operations without a rule, with how often each was met.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    multipliers: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)

    def __getitem__(self, name: str) -> ChannelGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)


def build_graph(model: paddle.nn.Layer, inputs: Sequence[object]) -> ChannelGraph:
    """Trace a model as it trains and find its channel groups.

    Args:
        model: the network.
        inputs: what its ``forward`` takes: ``(shape, dtype)`` pairs or ``InputSpec`` objects.

    Raises:
        PruneError: the model cannot be traced.
    """
    return find_groups(trace(model, inputs, training=True))


def find_groups(program: Program) -> ChannelGraph:
    """Apply the rules to a program and collect what is cut together."""
    flow = ChannelFlow(program)
    unknown: dict[str, int] = {}
    for op in program.ops:
        flow.next_step()
        apply = find_rule(op.name)
        values = [*op.inputs, *op.captured]
        reason = f"{where(op)}: no rule for this operation"
        if apply is not None and not op.captured:
            try:
                apply(flow, op)
                continue
            except Exception as error:  # a form of the operation that its rule does not foresee
                reason = f"{where(op)}: its rule failed ({type(error).__name__})"
        if any(value is not None for value in values):
            unknown[op.name] = unknown.get(op.name, 0) + 1
        for value in values:
            if value is not None:
                flow.fix_value(value, reason)
    for output in program.outputs:
        flow.fix_value(output, "it is an output of the network")
    return _collect(flow, program, unknown)


def _collect(flow: ChannelFlow, program: Program, unknown: Mapping[str, int]) -> ChannelGraph:
    component = flow.components()
    reasons: dict[int, str] = {}
    for atoms, why in flow.fixed():
        for key in np.unique(component[atoms]).tolist():
            reasons.setdefault(key, why)

    spans = sorted(
        (start, program.parameter_shapes[name][axis], name, axis)
        for (name, axis), start in flow.spans.items()
        if program.parameter_shapes[name][axis] > 1
    )
    # Which axis each atom belongs to, then the axes of each component: its signature.
    axis_of = np.full(flow.count, -1, dtype=np.int64)
    for number, (start, size, _, _) in enumerate(spans):
        axis_of[start : start + size] = number
    alive = np.flatnonzero(axis_of >= 0)
    alive = alive[np.argsort(component[alive], kind="stable")]
    cuts = np.flatnonzero(np.diff(component[alive])) + 1
    by_signature: dict[tuple[int, ...], list[Indices]] = {}
    frozen: dict[tuple[str, str], int] = {}
    for atoms in np.split(alive, cuts) if alive.size else []:
        signature = tuple(axis_of[atoms].tolist())
        reason: str | None = reasons.get(int(component[atoms[0]]))
        axes = {(spans[number][2], spans[number][3]) for number in signature}
        if any(axis not in flow.roles for axis in axes):
            reason = reason or "a parameter is used in a way that no rule explains"
        roles = {role for axis in axes for role in flow.roles.get(axis, {})}
        if OUT not in roles:
            continue  # nothing produces these channels: a network input, or numbers on their own
        if IN not in roles:
            reason = reason or "nothing that can be cut reads them"
        if reason is None:
            by_signature.setdefault(signature, []).append(atoms)
            continue
        first = _root(flow, axes)
        cell = (first[0].rpartition(".")[0], reason)
        count = sum(1 for number in signature if spans[number][2:] == first)
        frozen[cell] = frozen.get(cell, 0) + count

    groups = []
    for signature, components in by_signature.items():
        key, members = _group(flow, spans, signature, components)
        if len(components) > 1:
            groups.append((key, members))
        else:
            cell = (members[0].layer, "its channels can only be removed all at once")
            frozen[cell] = frozen.get(cell, 0) + members[0].indices.size
    groups.sort(key=lambda pair: pair[0])
    names: dict[str, int] = {}
    named = []
    for _, members in groups:
        layer = members[0].layer
        names[layer] = names.get(layer, 0) + 1
        name = layer if names[layer] == 1 else f"{layer}#{names[layer]}"
        named.append(ChannelGroup(name, len(members[0].indices), members))
    return ChannelGraph(
        groups=tuple(named),
        frozen=tuple(Frozen(name, count, why) for (name, why), count in frozen.items()),
        shapes=dict(program.parameter_shapes),
        multipliers=dict(flow.multipliers),
        unknown=dict(unknown),
    )


def _root(flow: ChannelFlow, axes: set[tuple[str, int]]) -> tuple[str, int]:
    """The axis that produces channels first in the forward pass."""
    return min(
        (axis for axis in axes if OUT in flow.roles.get(axis, {})),
        key=lambda axis: (flow.roles[axis][OUT], axis),
    )


def _group(
    flow: ChannelFlow,
    spans: Sequence[tuple[int, int, str, int]],
    signature: tuple[int, ...],
    components: list[Indices],
) -> tuple[tuple[int, int], tuple[Member, ...]]:
    """Members of one group, the root first, channels in the root's order; and a key to sort by."""
    table = np.stack(components)  # [channels, atoms]; columns follow the signature
    numbers = np.asarray(signature)
    axes = {number: (spans[number][2], spans[number][3]) for number in set(signature)}
    root = _root(flow, set(axes.values()))
    root_column = next(k for k, number in enumerate(signature) if axes[number] == root)
    table = table[np.argsort(table[:, root_column], kind="stable")]
    order = {OUT: 0, AFFINE: 1, IN: 2}
    members = []
    for number, (name, axis) in axes.items():
        roles = flow.roles[name, axis]
        role = min(roles, key=order.__getitem__)
        indices = table[:, numbers == number] - spans[number][0]
        members.append(((name, axis) != root, order[role], roles[role], name, axis, role, indices))
    members.sort(key=lambda item: item[:5])
    built = tuple(Member(name, axis, role, idx) for *_, name, axis, role, idx in members)
    return (flow.roles[root][OUT], int(table[0, root_column])), built
