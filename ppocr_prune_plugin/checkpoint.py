"""Read the shapes in a ``.pdparams`` file, and work out the pruned structure behind them."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

from .errors import PruneError
from .graph.groups import ChannelGraph
from .unpickling import Array, read_pickle


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Shapes of the arrays in a weights file, by structured name; runs no code from the file.

    Raises:
        PruneError: the file is damaged, or holds more than arrays.
    """
    try:
        content = read_pickle(path, "a weights file")
    except ValueError as error:
        raise PruneError(
            f"{path}: not a complete Paddle weights file ({error}). Copy or download it again."
        ) from error
    if not isinstance(content, dict):
        raise PruneError(f"{path}: holds a {type(content).__name__}, not a dictionary of weights.")
    shapes: dict[str, tuple[int, ...]] = {}
    for name, value in content.items():
        if isinstance(value, tuple) and len(value) == 2:  # (Paddle's own name, array)
            value = value[1]
        if isinstance(value, Array) and isinstance(name, str):
            shapes[name] = value.shape
    return shapes


def infer_kept_channels(
    graph: ChannelGraph,
    shapes: Mapping[str, Sequence[int]],
    read: Collection[tuple[str, int]] = (),
) -> dict[str, int] | None:
    """Widths of the groups that explain the shapes in a file, by the graph's own couplings.

    The first two axes of a parameter may have any length there where no group owns them: those of
    classes or a dictionary. Further ones are the size of a kernel.

    Args:
        graph: the channel groups of the unpruned network.
        shapes: those in the file, by name.
        read: parameters with the axis along which they read channels. What is read was put out by
            another layer, so that it never has another length because of classes.

    Returns:
        Group name → channels kept, for the groups that are narrower; None where no pruning of
        this model has these shapes, or where the file shares no name with the model.
    """
    if not any(name in shapes for name in graph.shapes):
        return None
    equations = _equations(graph, shapes, read)
    sizes = {group.name: group.size for group in graph.groups}
    known = None if equations is None else _solved(equations, sizes)
    if known is None:
        return None
    return {name: kept for name, kept in known.items() if kept != sizes[name]}


# A sum, and what it is the sum of: how often each group's width stands in it.
_Equation = tuple[int, dict[str, int]]


def _equations(
    graph: ChannelGraph, shapes: Mapping[str, Sequence[int]], read: Collection[tuple[str, int]]
) -> list[_Equation] | None:
    """What the lengths of axes say of the groups' widths; None where the ranks differ."""
    axes: dict[tuple[str, int], list[tuple[str, int, int]]] = {}
    for group in graph.groups:
        for member in group.members:
            places = member.indices.shape[1]
            axes.setdefault((member.parameter, member.axis), []).append(
                (group.name, group.size, places)
            )
    equations: list[_Equation] = []
    for name, shape in graph.shapes.items():
        if name not in shapes:
            continue
        if len(shapes[name]) != len(shape):
            return None
        for axis, size in enumerate(shape):
            found = shapes[name][axis]
            terms = axes.get((name, axis), [])
            if not terms and axis < 2 and (name, axis) not in read:
                continue
            # found = what no group owns + sum of kept channels x places; without any group an
            # equation with no unknowns is left
            rest = size - sum(width * places for _, width, places in terms)
            equations.append((found - rest, {group: places for group, _, places in terms}))
    return equations


def _solved(equations: list[_Equation], sizes: Mapping[str, int]) -> dict[str, int] | None:
    """The widths; None where there are none, or more unknown ones than the file can tell."""
    known: dict[str, int] = {}
    pending = equations
    while pending:
        still = []
        for total, terms in pending:
            open_terms = {g: places for g, places in terms.items() if g not in known}
            solved = sum(known[g] * places for g, places in terms.items() if g in known)
            if not open_terms:
                if solved != total:
                    return None
            elif len(open_terms) == 1:
                (name, places), left = next(iter(open_terms.items())), total - solved
                if left % places or not 0 < left // places <= sizes[name]:
                    return None
                known[name] = left // places
            else:
                still.append((total, terms))
        if len(still) == len(pending):
            return None
        pending = still
    return known
