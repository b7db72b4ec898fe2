"""Give the parameters of a live model other widths, in place, and put them back.

Parameters keep their identity; what layers note of their widths follows.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .channels import ChannelGraph, SizeAttribute

Array = npt.NDArray[Any]


def tensors_in(answer: Any) -> list[paddle.Tensor]:
    """The tensors of what a network or a layer gives, however they lie in lists and mappings."""
    return [item for item in paddle.utils.flatten(answer) if isinstance(item, paddle.Tensor)]


@dataclass
class Undo:
    """What it takes to put a model back as it was."""

    arrays: dict[str, Array] = field(default_factory=dict)
    attributes: list[tuple[Any, str, Any]] = field(default_factory=list)


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


def resize(
    model: paddle.nn.Layer, shapes: Mapping[str, Sequence[int]], graph: ChannelGraph
) -> Undo:
    """Give parameters other shapes, filled with zeros: the frame for weights loaded next."""
    tensors = tensors_of(model)
    arrays = {
        name: np.zeros(tuple(shape), dtype=tensors[name].numpy().dtype)
        for name, shape in shapes.items()
        if tuple(tensors[name].shape) != tuple(shape)
    }
    return set_arrays(model, arrays, graph)


@contextmanager
def attributes_read(model: paddle.nn.Layer) -> Iterator[set[tuple[str, str]]]:
    """Names of layers, and of the attributes that are read from them inside; layers made inside
    are not watched."""
    seen: set[tuple[str, str]] = set()
    layers = list(model.named_sublayers(include_self=True))
    classes = [type(layer) for _, layer in layers]
    names = {id(layer): name for name, layer in layers}

    def watched(cls: Any) -> Any:
        def __getattribute__(self: Any, key: str) -> Any:
            if id(self) in names:
                seen.add((names[id(self)], key))
            return cls.__getattribute__(self, key)

        return type(cls.__name__, (cls,), {"__getattribute__": __getattribute__})

    substitutes = {cls: watched(cls) for cls in set(classes)}
    for (_, layer), cls in zip(layers, classes, strict=True):
        layer.__class__ = substitutes[cls]
    try:
        yield seen
    finally:
        for (_, layer), cls in zip(layers, classes, strict=True):
            layer.__class__ = cls


def set_arrays(model: paddle.nn.Layer, arrays: Mapping[str, Array], graph: ChannelGraph) -> Undo:
    """Write arrays of any shape into parameters, and tell the layers their new widths."""
    tensors = tensors_of(model)
    undo = Undo({name: tensors[name].numpy() for name in arrays})
    for name, array in arrays.items():
        write(tensors[name], array)
    undo.attributes += _update_widths(
        model, {name.rpartition(".")[0] for name in arrays}, graph.multipliers
    )
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    undo.attributes += set_sizes(model, graph.attributes, shapes)
    return undo


def restore(model: paddle.nn.Layer, undo: Undo) -> None:
    """Put a model back as it was before :func:`prune`."""
    tensors = tensors_of(model)
    for name, array in undo.arrays.items():
        write(tensors[name], array)
    for layer, attribute, value in reversed(undo.attributes):
        setattr(layer, attribute, value)


def tensors_of(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Parameters and buffers by structured name."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def untrained(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """What training updates without gradients (running statistics) or not at all, by name.

    The statistics of ``paddle.nn.BatchNorm`` are parameters, those of ``BatchNorm2D`` are buffers.
    """
    found = {name: tensor for name, tensor in tensors_of(model).items() if tensor.stop_gradient}
    # Recurrent layers have an empty buffer, which takes no value; its `size` may say 1.
    return {name: tensor for name, tensor in found.items() if tensor.numpy().size}


def write(tensor: paddle.Tensor, array: Array) -> None:
    """Give a tensor another value of any shape; it stays the same tensor."""
    # `set_value` refuses another shape; the dense tensor underneath does not.
    place = paddle.framework._current_expected_place()
    if not tensor.is_contiguous():  # a transposed view, which cannot be resized
        tensor.get_tensor()._share_data_with(tensor.contiguous().get_tensor())
    tensor.get_tensor().set(np.ascontiguousarray(array), place)
    if not tensor.stop_gradient:
        tensor.clear_gradient(False)


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
        weight = getattr(layer, "weight", getattr(layer, "scale", None))
        if name not in touched:
            continue
        if hasattr(layer, "weight_ih_l0") and hasattr(layer, "input_size"):
            changes += _set(layer, "input_size", layer.weight_ih_l0.shape[1])
        if not isinstance(weight, paddle.Tensor):
            continue
        shape = tuple(weight.shape)
        if hasattr(layer, "_groups") and len(shape) > 2:
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
        elif hasattr(layer, "_num_channels"):
            changes += _set(layer, "_num_channels", shape[0])
        elif hasattr(layer, "_normalized_shape"):
            changes += _set(layer, "_normalized_shape", list(shape))
    return changes


def set_sizes(
    model: paddle.nn.Layer,
    attributes: Sequence[SizeAttribute],
    shapes: Mapping[str, Sequence[int]],
    root: str = "",
) -> list[tuple[Any, str, Any]]:
    """Make integers of layers follow the shapes of parameters; what was changed, with old values.

    ``root`` is the name of ``model`` in the network that the attributes are of.
    """
    changes: list[tuple[Any, str, Any]] = []
    layers = dict(model.named_sublayers(root, include_self=True)) if attributes else {}
    for item in attributes:
        size: Any = item.at(shapes[item.parameter][item.axis])
        layer = layers[item.layer]
        if item.place is not None:
            old = getattr(layer, item.name)
            size = type(old)([*old[: item.place], size, *old[item.place + 1 :]])
        changes += _set(layer, item.name, size)
    return changes
