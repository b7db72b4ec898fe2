"""From coupled atoms to channel groups.

The idea is DepGraph's (Fang et al., CVPR 2023), on single channels instead of whole layers: every
channel of every parameter is a node, so that concatenation, splitting and flattening need no
special index arithmetic.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from .channels import ChannelGraph, ChannelGroup, Frozen, Indices, Member
from .flow import AFFINE, IN, OUT, ChannelFlow


def collect(flow: ChannelFlow, unknown: Mapping[str, int]) -> ChannelGraph:
    """Channel groups from the constraints that the rules have found."""
    program = flow.program
    component = flow.components()
    reasons: dict[int, str] = {}
    for atoms, why in flow.frozen():
        for key in np.unique(component[atoms]).tolist():
            reasons.setdefault(key, why)

    summed = set(component[flow.summed()].tolist())
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
        if IN not in roles and int(component[atoms[0]]) not in summed:
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
