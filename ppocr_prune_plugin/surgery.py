"""Remove channels from a live model (and its optimizer), in place, and put them back.

Parameters keep their identity: an optimizer built before the surgery trains them after it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .errors import PruneError
from .graph.channels import ChannelGraph, ChannelGroup
from .graph.live import Undo, resize, restore, set_arrays, shapes_after, tensors_of, write
from .plan import GroupPlan, PruningPlan
from .structure import Change, PrunedStructure

Array = npt.NDArray[Any]
__all__ = [
    "Undo",
    "check_fit",
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
    optimizer: paddle.optimizer.Optimizer | None = None,
) -> Undo:
    """Remove channels from a model that has the graph's shapes.

    Args:
        model: the unpruned network; its parameters are resized in place.
        graph: its channel groups.
        groups: what is kept.
        optimizer: its accumulators, if it has any already, are cut along.

    Returns:
        What :func:`restore` needs to put the model (not the optimizer) back.

    Raises:
        PruneError: the plan does not fit the graph.
    """
    items = groups.groups if isinstance(groups, PruningPlan) else groups
    masks = kept_masks(graph, items)
    tensors = tensors_of(model)
    arrays = {name: _cut(tensors[name].numpy(), axes) for name, axes in masks.items()}
    if optimizer is not None:
        cuts = {tensor.name: masks.get(name, {}) for name, tensor in tensors.items()}
        _cut_optimizer(optimizer, cuts)
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


def _cut(array: Array, axes: Mapping[int, npt.NDArray[np.bool_]]) -> Array:
    for axis, mask in axes.items():
        array = np.compress(mask, array, axis=axis)
    return array


def _cut_optimizer(
    optimizer: paddle.optimizer.Optimizer,
    cuts: Mapping[str, Mapping[int, npt.NDArray[np.bool_]]],
) -> None:
    """Cut accumulators that exist, and those that were loaded and wait for the first step.

    ``cuts`` has an entry, maybe an empty one, for every parameter by Paddle's own name.
    """
    inner = getattr(optimizer, "_inner_opt", optimizer)
    cuts = dict(cuts)
    for name, master in getattr(inner, "_master_weights", {}).items():
        axes = cuts.get(name, {})
        cuts[master.name] = axes  # accumulators of a half-precision parameter bear this name
        if _fits(master.shape, axes):
            write(master, _cut(master.numpy(), axes))
    for accumulators in getattr(inner, "_accumulators", {}).values():
        for name, tensor in accumulators.items():
            if _fits(tensor.shape, cuts.get(name, {})):
                write(tensor, _cut(tensor.numpy(), cuts[name]))
    waiting = getattr(inner, "_accumulators_holder", {})
    longest_first = sorted(cuts, key=len, reverse=True)
    for key, value in waiting.items():
        owner = next((name for name in longest_first if key.startswith(name + "_")), "")
        if _fits(np.shape(value), cuts.get(owner, {})):
            waiting[key] = paddle.to_tensor(_cut(np.asarray(value), cuts[owner]))


def _fits(shape: Sequence[int], axes: Mapping[int, npt.NDArray[np.bool_]]) -> bool:
    """Whether there is something to cut and the tensor has the axes for it (Adam's powers of beta
    have shape ``[1]``)."""
    return bool(axes) and all(
        axis < len(shape) and shape[axis] == len(mask) for axis, mask in axes.items()
    )
