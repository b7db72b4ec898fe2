"""Remove channels from a live model (and its optimizer), in place, and put them back.

Parameters keep their identity: an optimizer built before the surgery trains them after it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .errors import PruneError
from .graph.groups import ChannelGraph, ChannelGroup
from .plan import GroupPlan, PruningPlan

Array = npt.NDArray[Any]
Masks = dict[str, dict[int, npt.NDArray[np.bool_]]]

# Widths that PaddleOCR's composite layers repeat from the convolutions inside them.
_DECLARED = ("in_channels", "out_channels", "groups")


@dataclass
class Undo:
    """What it takes to put a model back as it was."""

    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: list[tuple[Any, str, Any]] = field(default_factory=list)


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


def shapes_after(
    graph: ChannelGraph, kept_channels: Mapping[str, int]
) -> dict[str, tuple[int, ...]]:
    """Shapes of all parameters when groups keep that many channels; exact, nothing is cut."""
    shapes = {name: list(shape) for name, shape in graph.shapes.items()}
    for group in graph.groups:
        kept = kept_channels.get(group.name, group.size)
        if kept != group.size:
            for member in group.members:
                lost = (group.size - kept) * member.indices.shape[1]
                shapes[member.parameter][member.axis] -= lost
    return {name: tuple(shape) for name, shape in shapes.items()}


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
    tensors = _tensors(model)
    arrays = {name: _cut(tensors[name].numpy(), axes) for name, axes in masks.items()}
    if optimizer is not None:
        cuts = {tensor.name: masks.get(name, {}) for name, tensor in tensors.items()}
        _cut_optimizer(optimizer, cuts)
    return set_arrays(model, arrays, graph.multipliers)


def resize(
    model: paddle.nn.Layer, shapes: Mapping[str, Sequence[int]], multipliers: Mapping[str, int]
) -> None:
    """Give parameters other shapes, filled with zeros: the frame for weights loaded next."""
    tensors = _tensors(model)
    arrays = {
        name: np.zeros(tuple(shape), dtype=tensors[name].numpy().dtype)
        for name, shape in shapes.items()
        if tuple(tensors[name].shape) != tuple(shape)
    }
    set_arrays(model, arrays, multipliers)


def set_arrays(
    model: paddle.nn.Layer, arrays: Mapping[str, Array], multipliers: Mapping[str, int]
) -> Undo:
    """Write arrays of any shape into parameters, and tell the layers their new widths."""
    tensors = _tensors(model)
    undo = Undo({name: tensors[name].numpy() for name in arrays})
    declared = list(_declared_widths(model))
    for name, array in arrays.items():
        _write(tensors[name], array)
    undo.attributes += _update_widths(
        model, {name.rpartition(".")[0] for name in arrays}, multipliers
    )
    undo.attributes += _update_declared(declared)
    return undo


def restore(model: paddle.nn.Layer, undo: Undo) -> None:
    """Put a model back as it was before :func:`prune`."""
    tensors = _tensors(model)
    for name, array in undo.arrays.items():
        _write(tensors[name], array)
    for layer, attribute, value in reversed(undo.attributes):
        setattr(layer, attribute, value)


def _tensors(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    return dict([*model.named_parameters(), *model.named_buffers()])


def _cut(array: Array, axes: Mapping[int, npt.NDArray[np.bool_]]) -> Array:
    for axis, mask in axes.items():
        array = np.compress(mask, array, axis=axis)
    return array


def _write(tensor: paddle.Tensor, array: Array) -> None:
    # `set_value` refuses another shape; the dense tensor underneath does not.
    place = paddle.framework._current_expected_place()
    tensor.get_tensor().set(np.ascontiguousarray(array), place)
    if not tensor.stop_gradient:
        tensor.clear_gradient(False)


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
            _write(master, _cut(master.numpy(), axes))
    for accumulators in getattr(inner, "_accumulators", {}).values():
        for name, tensor in accumulators.items():
            if _fits(tensor.shape, cuts.get(name, {})):
                _write(tensor, _cut(tensor.numpy(), cuts[name]))
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


def _set(layer: Any, attribute: str, value: Any) -> list[tuple[Any, str, Any]]:
    old = getattr(layer, attribute, None)
    if old is None or old == value:
        return []
    setattr(layer, attribute, value)
    return [(layer, attribute, old)]


def _update_widths(
    model: paddle.nn.Layer, touched: set[str], multipliers: Mapping[str, int]
) -> list[tuple[Any, str, Any]]:
    changes: list[tuple[Any, str, Any]] = []
    for name, layer in model.named_sublayers():
        weight = getattr(layer, "weight", None)
        if name not in touched or weight is None:
            continue
        shape = tuple(weight.shape)
        if hasattr(layer, "_groups") and hasattr(layer, "_in_channels") and len(shape) > 2:
            groups = layer._groups
            multiplier = multipliers.get(f"{name}.weight")
            if multiplier:
                groups = shape[0] // multiplier
            transposed = "Transpose" in type(layer).__name__
            wide, narrow = (shape[0], shape[1] * groups)
            changes += _set(layer, "_groups", groups)
            changes += _set(layer, "_in_channels", wide if transposed else narrow)
            changes += _set(layer, "_out_channels", narrow if transposed else wide)
        elif hasattr(layer, "_num_features"):
            changes += _set(layer, "_num_features", shape[0])
        elif hasattr(layer, "_normalized_shape"):
            changes += _set(layer, "_normalized_shape", list(shape))
    return changes


def _declared_widths(
    model: paddle.nn.Layer,
) -> Iterator[tuple[paddle.nn.Layer, list[paddle.nn.Layer]]]:
    """Composite layers that repeat the widths of convolutions inside them, with those."""
    for layer in model.sublayers():
        mine = tuple(getattr(layer, key, None) for key in _DECLARED)
        if not all(isinstance(value, int) for value in mine):
            continue
        twins = [
            inner
            for inner in layer.sublayers()
            if mine == tuple(getattr(inner, "_" + key, None) for key in _DECLARED)
        ]
        if twins:
            yield layer, twins


def _update_declared(
    declared: Sequence[tuple[paddle.nn.Layer, Sequence[paddle.nn.Layer]]],
) -> list[tuple[Any, str, Any]]:
    changes: list[tuple[Any, str, Any]] = []
    for layer, twins in declared:
        for key in _DECLARED:
            values = {getattr(inner, "_" + key) for inner in twins}
            if len(values) == 1:
                changes += _set(layer, key, values.pop())
    return changes
