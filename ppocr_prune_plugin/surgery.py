"""Remove channels from a live model, in place, and put them back.

Parameters keep their identity: an optimizer built before the surgery trains them after it, once
what it holds was cut along (:mod:`.holders`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .errors import PruneError
from .graph.channels import ChannelGraph, ChannelGroup
from .graph.live import Undo, resize, restore, set_arrays, shapes_after, tensors_of
from .plan import GroupPlan, PruningPlan
from .structure import Change, PrunedStructure

Array = npt.NDArray[Any]
__all__ = [
    "Undo",
    "check_fit",
    "cut",
    "kept_masks",
    "prune",
    "resize",
    "restore",
    "set_arrays",
    "shapes_after",
    "structure_of",
]

Masks = dict[str, dict[int, npt.NDArray[np.bool_]]]


def kept_masks(graph: ChannelGraph, groups: Sequence[GroupPlan]) -> Masks:
    """Which indices stay, per parameter and axis; only axes that lose something are listed.

    Raises:
        PruneError: a group is not in this graph, or has another width there.
    """
    masks: Masks = {}
    seen: set[str] = set()
    for item in groups:
        group = check_fit(graph, item)
        if item.name in seen:
            raise PruneError(f"the pruning plan names {item.name} twice")
        seen.add(item.name)
        if item.kept is None:
            raise PruneError(
                f"the plan does not say which channels of {group.name} stay (it was worked out "
                "from the shapes of a weights file); prune again to get a complete one"
            )
        for member in group.members:
            axes = masks.setdefault(member.parameter, {})
            size = graph.shapes[member.parameter][member.axis]
            mask = axes.setdefault(member.axis, np.ones(size, dtype=np.bool_))
            mask[member.indices[item.removed].reshape(-1)] = False
    return masks


def check_fit(graph: ChannelGraph, item: GroupPlan) -> ChannelGroup:
    """The group that a plan's item is about; PruneError where it is not of this network."""
    try:
        group = graph[item.name]
    except KeyError:
        raise PruneError(
            f"the pruning plan is for another architecture: it prunes {item.name!r}, which is not "
            f"a channel group of this model (its first is {graph.groups[0].name!r})"
            if graph.groups
            else "the pruning plan is for another architecture: this model has no channel groups"
        ) from None
    if group.size != item.channels:
        raise PruneError(
            f"the pruning plan is for another architecture: {item.name} has {item.channels} "
            f"channels there and {group.size} here"
        )
    valid = 0 < item.kept_channels <= group.size and (
        item.kept is None
        or (
            len(item.kept) == item.kept_channels
            and list(item.kept) == sorted(set(item.kept))
            and 0 <= item.kept[0] <= item.kept[-1] < group.size
        )
    )
    if not valid:
        raise PruneError(f"the pruning plan keeps impossible channels of {item.name}")
    return group


def prune(
    model: paddle.nn.Layer,
    graph: ChannelGraph,
    groups: Sequence[GroupPlan] | PruningPlan,
) -> Undo:
    """Remove channels from a model that has the graph's shapes.

    Args:
        model: the unpruned network; its parameters are resized in place.
        graph: its channel groups.
        groups: what is kept.

    Returns:
        What :func:`restore` needs to put the model back.

    Raises:
        PruneError: the plan does not fit the graph.
    """
    items = groups.groups if isinstance(groups, PruningPlan) else groups
    masks = kept_masks(graph, items)
    tensors = tensors_of(model)
    arrays = {name: cut(tensors[name].numpy(), axes) for name, axes in masks.items()}
    return set_arrays(model, arrays, graph)


def structure_of(
    graph: ChannelGraph, shapes: Mapping[str, tuple[int, ...]], flops: Change, params: Change
) -> PrunedStructure:
    """The structure that a network of the graph has with these shapes, which pruning has left."""
    axes = {
        name: {
            axis: (whole, left)
            for axis, (whole, left) in enumerate(zip(before, shapes[name], strict=True))
            if whole != left
        }
        for name, before in graph.shapes.items()
        if shapes[name] != before
    }
    multipliers = {name: n for name, n in graph.multipliers.items() if name in axes}
    attributes = tuple(
        item for item in graph.attributes if item.axis in axes.get(item.parameter, {})
    )
    return PrunedStructure(axes, flops, params, multipliers, attributes)


def cut(array: Array, axes: Mapping[int, npt.NDArray[np.bool_]]) -> Array:
    """What of an array stays, by a mask for each axis that loses something."""
    for axis, mask in axes.items():
        array = np.compress(mask, array, axis=axis)
    return array
