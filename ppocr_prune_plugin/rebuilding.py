"""Give a network that was built unpruned the structure of pruned weights, which are loaded next.

Nothing is traced: the structure says by name what every axis that lost channels measured before
and measures after. Any other axis is free. A dictionary or a number of classes may be another one
than when the network was pruned; PaddleOCR then leaves the parameters that do not fit as they were
initialised, here as with unpruned weights.

The names may have been wrapped since. Quantisation-aware training puts a layer in another one's
place and the original inside it, so that ``conv.weight`` becomes ``conv._layer.weight``; and what
it adds may be as long as the axis that it quantises.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import paddle

from .errors import PruneError
from .graph.channels import ChannelGraph
from .graph.live import set_arrays, tensors_of
from .structure import PrunedStructure, SizeAttribute

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]


def structure_fits(structure: PrunedStructure, shapes: Shapes) -> bool:
    """Whether weights of these shapes, by name, were pruned to this structure."""
    there = placed(structure.axes, shapes)
    return bool(there or not structure.axes) and all(
        _length(shapes[name], axis) == after
        for parameter, name in there.items()
        for axis, (_, after) in structure.axes[parameter].items()
    )


def rebuild(
    model: paddle.nn.Layer, structure: PrunedStructure, found: Shapes
) -> dict[str, tuple[Shape, Shape]] | None:
    """Resize a network in place to take pruned weights.

    What a weights file lacks, or has in another shape, keeps the values that it was initialised
    with, as far as they are left.

    Args:
        model: the network as it is built (or as it was rebuilt before).
        structure: what it is to become.
        found: shapes of the weights to load, by name.

    Returns:
        Parameters that the weights do not fit in an axis that pruning does not touch, with their
        shape here and there; None, and nothing is done, where the weights are not pruned.

    Raises:
        PruneError: the structure is not one of these weights, or not one of this network.
    """
    tensors = tensors_of(model)
    live = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not _are_pruned(structure, found):
        return None
    here = placed(structure.axes, live)
    shapes = {name: list(shape) for name, shape in live.items()}
    pruned_before = _require_network(structure, here, live)
    for parameter, name in here.items():
        for axis, (_, after) in structure.axes[parameter].items():
            shapes[name][axis] = after
    for name, axis, after in _following(structure, here, live, found):
        shapes[name][axis] = after
    named = ChannelGraph(
        (),
        (),
        {},
        _multipliers(model, structure, here, pruned_before),
        attributes=() if pruned_before else _attributes(model, structure, here),
    )
    arrays = {
        name: tensors[name].numpy()[tuple(slice(length) for length in shape)]
        for name, shape in shapes.items()
        if tuple(shape) != live[name]
    }
    set_arrays(model, arrays, named)
    return {
        name: (tuple(shape), tuple(found[name]))
        for name, shape in shapes.items()
        if name in found and tuple(shape) != tuple(found[name])
    }


def placed(names: Iterable[str], present: Collection[str]) -> dict[str, str]:
    """Which of the names that are present each name is.

    Where it is not there itself, it is the shortest name that becomes it once all words but the
    first that no name has are left out: those of layers around it. Names that are nowhere are left
    out.
    """
    names = list(names)
    own = set(names)
    words = {word for name in names for word in name.split(".")}
    wrapped: dict[str, list[str]] = {}
    for name in present:
        if name not in own:
            wrapped.setdefault(_without_others(name, words), []).append(name)
    found = {}
    for name in names:
        if name in present:
            found[name] = name
        elif name in wrapped:
            found[name] = min(wrapped[name], key=lambda other: other.count("."))
    return found


def _without_others(name: str, words: Collection[str]) -> str:
    """A name without the words of layers that were put around others; another network's names,
    below one of its own, stay what they are."""
    first, *rest = name.split(".")
    return ".".join([first, *(word for word in rest if word in words)])


def _length(shape: Shape, axis: int) -> int | None:
    return shape[axis] if axis < len(shape) else None


def _are_pruned(structure: PrunedStructure, found: Shapes) -> bool:
    """Whether weights are of this structure (True) or unpruned. Raises PruneError for others."""
    there = placed(structure.axes, found)
    if structure.axes and not there:
        raise PruneError(
            "does not fit the weights beside it, which have none of the parameters that it prunes "
            f"(its first is {next(iter(structure.axes))})"
        )
    unpruned, wrong = bool(there), ""
    for parameter, name in there.items():
        for axis, (before, after) in structure.axes[parameter].items():
            length = _length(found[name], axis)
            unpruned = unpruned and length == before
            if length != after and not wrong:
                wrong = (
                    f"{name} has the shape {list(found[name])} there, and {after} in axis {axis}"
                )
    if unpruned:
        return False
    if wrong:
        raise PruneError(f"does not fit the weights beside it: {wrong} by the plan")
    return True


def _require_network(structure: PrunedStructure, here: Mapping[str, str], live: Shapes) -> bool:
    """Check that the network is one that the structure is for; whether it has it already."""
    if structure.axes and not here:
        raise PruneError(
            "the pruning plan is for another architecture: it prunes "
            f"{next(iter(structure.axes))}, which this model has not"
        )
    have = set()
    for parameter, name in here.items():
        for axis, (before, after) in structure.axes[parameter].items():
            length = _length(live[name], axis)
            if length not in (before, after):
                raise PruneError(
                    f"the pruning plan is for another architecture: {name} has the shape "
                    f"{list(live[name])} here, and had {before} in axis {axis} before pruning"
                )
            have.add(length == after)
    if len(have) > 1:
        raise PruneError(
            "the pruning plan is for another architecture: some layers are as wide here as after "
            "pruning, and others as before"
        )
    return True in have


def _following(
    structure: PrunedStructure, here: Mapping[str, str], live: Shapes, found: Shapes
) -> Iterable[tuple[str, int, int]]:
    """What wrappers have added that is as long as an axis of the layer in them, with its axis and
    its new length."""
    words = {word for parameter in structure.axes for word in parameter.split(".")}
    layers: dict[str, set[tuple[int, int]]] = {}
    for parameter, axes in structure.axes.items():
        layers.setdefault(parameter.rpartition(".")[0], set()).update(axes.values())
    known = set(here.values()) | set(structure.axes)
    for name, shape in live.items():
        layer = _without_others(name, words)
        if name in known or layer not in layers or name.rpartition(".")[0] == layer:
            continue
        for axis, length in enumerate(shape):
            there = _length(found[name], axis) if name in found else None
            lengths = {
                after
                for before, after in layers[layer]
                if before == length and there in (None, after)
            }
            if len(lengths) == 1:
                yield name, axis, lengths.pop()


def _multipliers(
    model: paddle.nn.Layer, structure: PrunedStructure, here: Mapping[str, str], pruned_before: bool
) -> dict[str, int]:
    """Filters per input channel of depthwise convolutions, in the network's own names; the network
    has to know them alike."""
    layers = dict(model.named_sublayers())
    for parameter, name in here.items():
        layer: Any = layers.get(name.rpartition(".")[0])
        if pruned_before or not hasattr(layer, "_groups") or not name.endswith(".weight"):
            continue
        filters, inputs = layer.weight.shape[:2]
        depthwise = layer._groups > 1 and inputs == 1 and 0 in structure.axes[parameter]
        if "Transpose" in type(layer).__name__ and filters > layer._groups:
            depthwise = False  # cut by its inputs
        stated = structure.multipliers.get(parameter)
        if (stated is not None or depthwise) and stated != filters // layer._groups:
            raise PruneError(
                f"the pruning plan is for another architecture: {name} has "
                f"{filters // layer._groups} filters for each input channel here, and {stated} by "
                "the plan"
            )
    return {here[name]: count for name, count in structure.multipliers.items() if name in here}


def _attributes(
    model: paddle.nn.Layer, structure: PrunedStructure, here: Mapping[str, str]
) -> tuple[SizeAttribute, ...]:
    """The size attributes in the network's own names."""
    layers = dict(model.named_sublayers(include_self=True))
    words = {word for item in structure.attributes for word in item.layer.split(".")}
    wrapped: dict[str, list[str]] = {}
    for name in layers:
        wrapped.setdefault(_without_others(name, words), []).append(name)
    found = []
    for item in structure.attributes:
        if item.parameter not in here:
            continue  # of a head that this network was built without
        candidates = [item.layer, *wrapped.get(item.layer, [])] if item.layer in layers else []
        holding = next((name for name in candidates if item.holds_in(layers[name])), None)
        if holding is None:
            place = "" if item.place is None else f"[{item.place}]"
            raise PruneError(
                f"the pruning plan is for another architecture, or for other code: {item.layer} "
                f"has no {item.name}{place} of {item.value} here"
            )
        found.append(replace(item, layer=holding, parameter=here[item.parameter]))
    return tuple(found)
