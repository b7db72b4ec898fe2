"""Confirm channel groups by tracing the model again at other widths.

The rules see sizes, not where they come from: in ``reshape([0, 8, 16])`` the 8 may follow from the
shape of a tensor or stand in the code. So every group is made narrower, each by another number of
channels, the model is traced once more, and all shapes are compared with those that the groups
predict. Where they differ, an integer attribute of the layer may hold the size (``num_heads``): it
is made to follow, and the trace decides whether that is right. What still differs stays as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import paddle

from .channels import ChannelGraph, ChannelGroup, Frozen, SizeAttribute
from .flow import ChannelFlow, where
from .live import resize, restore, shapes_after
from .trace import Op, Program, Value, trace_as_far

_ROUNDS = 16
_SOURCES = ("builtin.parameter", "builtin.combine", "data", "full", "full_int_array")


@dataclass(frozen=True)
class Retraced:
    """Groups with the flow that they were found in."""

    flow: ChannelFlow
    graph: ChannelGraph


def confirmed(
    model: paddle.nn.Layer,
    inputs: Sequence[Any],
    program: Program,
    reads: Set[tuple[str, str]],
    analyse: Callable[[Mapping[int, str]], Retraced],
) -> ChannelGraph:
    """Channel groups that hold at other widths.

    Args:
        model: the network; it is left as it was.
        inputs: what its ``forward`` takes.
        program: its trace.
        reads: names of layers with the attributes that the model's code reads from them.
        analyse: finds the groups when the operations with these numbers keep their operands.
    """
    refused: dict[int, str] = {}
    refused_sites: set[Site] = set()
    dropped: set[str] = set()
    guesses: dict[Site, tuple[SizeAttribute, ...]] = {}
    for _ in range(_ROUNDS):
        found = analyse(refused)
        attributes = tuple(dict.fromkeys(a for guess in guesses.values() for a in guess))
        graph = _without(replace(found.graph, attributes=attributes), dropped)
        if not graph.groups:
            return graph
        culprits = _disagreements(model, inputs, program, found.flow, graph)
        wrong = {_site(op) for op in culprits}
        if not wrong:
            return graph
        if wrong <= refused_sites:
            # Sizes that follow channels which do not reach the operation, but another tensor.
            followed = _followed(graph, {pair for pairs in culprits.values() for pair in pairs})
            if not followed:
                break
            dropped |= followed
            continue
        for site in wrong:
            alike = {n: op for n, op in enumerate(program.ops) if _site(op) == site}
            if site not in guesses:
                kin = [op for op in program.ops if (op.name, op.layer) == (site[0], site[2])]
                guesses[site] = _guess(model, found.flow, graph, kin, reads)
                if not set(guesses[site]) <= set(attributes):
                    continue  # something new to try
            guesses[site] = ()
            refused_sites.add(site)
            refused |= {n: f"{where(op)} has a size in the model's code" for n, op in alike.items()}
    return _largest_part(model, inputs, program, found.flow, graph)


Site = tuple[str, str, str]


def _site(op: Op) -> Site:
    """Operations of one kind that one line of the model's code makes."""
    return op.name, op.site, op.layer


def _without(graph: ChannelGraph, names: Set[str]) -> ChannelGraph:
    """The graph without some of its groups, which cannot be pruned then."""
    kept = tuple(group for group in graph.groups if group.name not in names)
    reason = "the model cannot be traced when it is narrower"
    frozen = [Frozen(g.root.layer, g.size, reason) for g in graph.groups if g.name in names]
    return replace(graph, groups=kept, frozen=(*graph.frozen, *frozen))


def _followed(graph: ChannelGraph, pairs: Set[tuple[int, int]]) -> set[str]:
    """Groups whose size, or the length of an axis of which, changes as one of the pairs does."""
    kept = _narrower(graph.groups)
    names = set()
    for group in graph.groups:
        lost = group.size - kept[group.name]
        for member in group.members:
            length = graph.shapes[member.parameter][member.axis]
            if (length, length - lost * member.indices.shape[1]) in pairs:
                names.add(group.name)
    return names


def _largest_part(
    model: paddle.nn.Layer,
    inputs: Sequence[Any],
    program: Program,
    flow: ChannelFlow,
    graph: ChannelGraph,
) -> ChannelGraph:
    """The graph with those groups that can be narrower, found by halving; none of the rest."""
    tries = 0

    def part(groups: tuple[ChannelGroup, ...]) -> tuple[ChannelGroup, ...]:
        nonlocal tries
        tries += 1
        if not groups or tries > _ROUNDS:
            return ()
        if not _disagreements(model, inputs, program, flow, replace(graph, groups=groups)):
            return groups
        half = len(groups) // 2
        return (*part(groups[:half]), *part(groups[half:])) if half else ()

    kept = part(graph.groups)
    if _disagreements(model, inputs, program, flow, replace(graph, groups=kept)):
        kept = ()
    return _without(graph, {g.name for g in graph.groups} - {g.name for g in kept})


def _disagreements(
    model: paddle.nn.Layer,
    inputs: Sequence[Any],
    program: Program,
    flow: ChannelFlow,
    graph: ChannelGraph,
) -> dict[Op, set[tuple[int, int]]]:
    """Operations whose results have other shapes than predicted though their operands have not,
    in the trace of a narrower model; or the one where that trace stops. With each, the numbers
    that it is given as constants and that have changed, as (before, now)."""
    kept = _narrower(graph.groups)
    removed = np.zeros(flow.count, dtype=np.bool_)
    for group in graph.groups:
        for member in group.members:
            start = flow.spans[member.parameter, member.axis]
            removed[start + member.indices[kept[group.name] :].reshape(-1)] = True
    undo = resize(model, shapes_after(graph, kept), graph)
    try:
        found, complete = trace_as_far(model, inputs, program)
    finally:
        restore(model, undo)
    ours = [op for op in program.ops if op.name not in _SOURCES]
    theirs = [op for op in found if op.name not in _SOURCES]
    wrong: set[Value] = set()
    culprits: dict[Op, set[tuple[int, int]]] = {}
    for op, other in zip(ours, theirs, strict=False):
        if op.name != other.name:
            return culprits | {op: set()}
        operands = [v for value in op.inputs if value for v in (value, *(value.elements or ()))]
        for value, again in zip(op.outputs, other.outputs, strict=False):
            expected = flow.shape_after(value, removed)
            if expected is not None and not _agree(expected, again.shape):
                wrong.add(value)
                if not wrong.intersection(operands):
                    culprits[op] = _changed(op, [v for v in other.inputs if v is not None])
    if not culprits and (len(theirs) < len(ours) or not complete):
        last = found[-1].outputs if found else ()  # the constants of what failed come just before
        stopped = ours[len(theirs) : len(theirs) + 1] or ours
        culprits = {op: _changed(op, last) for op in stopped}
    return culprits


def _changed(op: Op, values: Iterable[Value]) -> set[tuple[int, int]]:
    before = [v.constant for v in op.inputs if v is not None and isinstance(v.constant, list)]
    now = [v.constant for v in values if isinstance(v.constant, list)]
    return {
        (int(a), int(b))
        for old, new in zip(before, now, strict=False)
        for a, b in zip(old, new, strict=False)
        if a != b
    }


def _narrower(groups: Sequence[ChannelGroup]) -> dict[str, int]:
    """A width for every group: groups of one size get different ones where they can."""
    seen: dict[int, int] = {}
    kept = {}
    for group in groups:
        rank = seen[group.size] = seen.get(group.size, 0) + 1
        kept[group.name] = group.size - 1 - (rank - 1) % max(1, group.size // 2)
    return kept


def _agree(expected: tuple[int, ...], found: tuple[int, ...] | None) -> bool:
    if found is None:
        return True
    return len(expected) == len(found) and all(
        a == b or -1 in (a, b) for a, b in zip(expected, found, strict=True)
    )


def _guess(
    model: paddle.nn.Layer,
    flow: ChannelFlow,
    graph: ChannelGraph,
    ops: Iterable[Op],
    reads: Set[tuple[str, str]],
) -> tuple[SizeAttribute, ...]:
    """Integers of the layers that make these operations that equal a size of the channels there.

    A layer that makes an operation is of the class that the trace names, and holds a parameter of
    the channels that pass through; ``reads`` says which attributes its code reads.
    """
    layers = dict(model.named_sublayers(include_self=True))
    owner = np.full(flow.count, -1, dtype=np.int64)
    for number, group in enumerate(graph.groups):
        for member in group.members:
            owner[flow.spans[member.parameter, member.axis] + member.indices.reshape(-1)] = number
    guesses: dict[tuple[str, str, int | None], SizeAttribute] = {}
    for op in ops:
        cls = op.layer.rpartition("/")[2] or type(model).__name__
        values = [value for value in (*op.inputs, *op.outputs) if value is not None]
        numbers = {n for v in values for n in owner[flow.atoms_of(v)].tolist() if n >= 0}
        for group in (graph.groups[n] for n in sorted(numbers)):
            for layer in dict.fromkeys(_ancestors(m.layer) for m in group.members):
                for name in layer:
                    if type(layers[name]).__name__ == cls:
                        for guess in _matching(name, layers[name], group, graph):
                            if (name, guess.name) in reads:
                                guesses.setdefault((name, guess.name, guess.place), guess)
    return tuple(guesses.values())


def _ancestors(layer: str) -> tuple[str, ...]:
    parts = layer.split(".")
    return tuple(".".join(parts[:k]) for k in range(len(parts), -1, -1))


def _matching(
    name: str, layer: paddle.nn.Layer, group: ChannelGroup, graph: ChannelGraph
) -> list[SizeAttribute]:
    """Integers of a layer that equal the number of channels, or the length of an axis of a
    parameter inside that consists of the group's channels alone."""
    whole = [
        (m.parameter, m.axis, m.indices.size)
        for m in group.members
        if m.indices.size == graph.shapes[m.parameter][m.axis]
        and (not name or m.parameter.startswith(name + "."))
    ]
    if not whole:
        return []
    sizes = {size: (parameter, axis, size) for parameter, axis, size in reversed(whole)}
    sizes.setdefault(group.size, whole[0])
    integers = [
        (key, place, item)
        for key, value in vars(layer).items()
        for place, item in (enumerate(value) if type(value) in (list, tuple) else [(None, value)])
        if type(item) is int and item > 1
    ]
    return [
        SizeAttribute(name, key, item, *sizes[item], place)
        for key, place, item in integers
        if item in sizes
    ]
