"""Operations that move elements: reshaping, transposing, joining and splitting."""

from __future__ import annotations

import numpy as np

from ..flow import NEUTRAL, Atoms, ChannelFlow, where
from ..trace import Op
from . import rule
from .constants import scalar
from .elementwise import joined, meet


@rule("builtin.parameter", "builtin.combine", "data", "full", "full_int_array", "shape", "shape64")
def nothing(flow: ChannelFlow, op: Op) -> None:
    """Sources and shapes: there are no channels to hand on."""


@rule("reshape", "flatten", "squeeze", "unsqueeze", "view_shape")
def reshape(flow: ChannelFlow, op: Op) -> None:
    """Row-major order stays, whatever the axes are called."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None
    maps = flow.channel_map(x)
    if x.shape is None or out.shape is None or -1 in x.shape or -1 in out.shape:
        flow.freeze_value(x, f"{where(op)}: shape unknown")
        return
    if maps.size == 1:
        flow.set_channel_map(out, maps.reshape((1,) * len(out.shape)))
        if op.name in ("squeeze", "unsqueeze"):
            flow.set_alias(out, x)
    else:
        flow.set_channel_map(out, _reshaped(maps, x.shape, out.shape))


def _reshaped(maps: Atoms, before: tuple[int, ...], after: tuple[int, ...]) -> Atoms:
    """Maps under another shape; what does not change along axes that stay beside each other is
    never spread out, since the map of a whole tensor can be large."""
    spread, target = list(maps.shape), list(after)
    i = j = 0
    while i < len(before) and j < len(after):
        start, place = i, j
        left, right = before[i], after[j]
        i, j = i + 1, j + 1
        while left != right:  # the fewest axes of each that hold as many elements
            if left < right:
                left, i = left * before[i], i + 1
            else:
                right, j = right * after[j], j + 1
        if all(size == 1 for size in maps.shape[start:i]):
            target[place:j] = [1] * (j - place)
        else:
            spread[start:i] = before[start:i]
    target[j:] = [1] * (len(after) - j)
    return np.broadcast_to(maps, spread).reshape(target)


@rule("transpose")
def transpose(flow: ChannelFlow, op: Op) -> None:
    """Axes change places."""
    x = op.inputs[0]
    assert x is not None
    order = [int(axis) for axis in op.attrs["perm"]]
    flow.set_channel_map(op.outputs[0], flow.channel_map(x).transpose(order))


@rule("expand")
def expand(flow: ChannelFlow, op: Op) -> None:
    """Axes of size 1 are repeated, new ones come in front."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None
    maps = flow.channel_map(x)
    if out.shape is None:
        flow.freeze(maps, f"{where(op)}: shape unknown")
        return
    flow.set_channel_map(out, maps.reshape((1,) * (len(out.shape) - maps.ndim) + maps.shape))


@rule("stack")
def stack(flow: ChannelFlow, op: Op) -> None:
    """Tensors of one shape side by side along a new axis: they lose the same channels."""
    values, out = op.inputs[0], op.outputs[0]
    assert values is not None and out.shape is not None
    members = list(values.elements or ())
    maps = joined(flow, op, members, len(out.shape) - 1)
    flow.set_channel_map(out, np.expand_dims(maps, int(op.attrs["axis"]) % len(out.shape)))


@rule("unbind", "unstack")
def unbind(flow: ChannelFlow, op: Op) -> None:
    """The slices along one axis, which has as many as it had."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    axis = int(op.attrs["axis"]) % maps.ndim
    count = x.shape[axis]
    flow.freeze_axis(maps, axis, f"{where(op)} picks channels by number")
    if sum(size > 1 for size in maps.shape) == 1 and maps.shape[axis] > 1:
        maps = np.full((1,) * maps.ndim, NEUTRAL, dtype=np.int64)
    steps = range(count) if maps.shape[axis] > 1 else [0] * count
    flow.set_channel_maps(op.outputs[0], [np.asarray(maps.take(k, axis=axis)) for k in steps])


@rule("concat")
def concat(flow: ChannelFlow, op: Op) -> None:
    """Along the channels, each operand keeps its own; along another axis they have to agree."""
    values, axis_value = op.inputs[0], op.inputs[1]
    members = list(values.elements or ()) if values is not None else []
    out = op.outputs[0]
    ndim = len(out.shape or ())
    axis = -1
    if ndim and axis_value is not None and axis_value.constant is not None:
        axis = int(scalar(axis_value.constant)) % ndim
    if axis < 0 or not all(v.shape is not None and v.shape[axis] >= 0 for v in members):
        for value in members:
            flow.freeze_value(value, f"{where(op)}: shape unknown")
        return
    maps = [flow.channel_map(v, (axis,)) for v in members]
    others = [max(a.shape[k] for a in maps) for k in range(ndim)]
    if all(a.shape[axis] == 1 for a in maps) and max(others) > 1:
        meet(flow, op, members)
        return
    parts = []
    for member, value in zip(maps, members, strict=True):
        assert value.shape is not None
        shape = list(others)
        shape[axis] = value.shape[axis]
        parts.append(np.broadcast_to(member, shape))
    flow.set_channel_map(out, np.concatenate(parts, axis=axis))


@rule("split_with_num")
def split_evenly(flow: ChannelFlow, op: Op) -> None:
    """Equal parts stay equal when each loses the same channels."""
    x, axis_value = op.inputs[0], op.inputs[-1]
    assert x is not None and x.shape is not None and axis_value is not None
    axis = int(scalar(axis_value.constant)) % len(x.shape)
    parts = int(op.attrs["num"])
    maps = flow.channel_map(x)
    if maps.shape[axis] == 1:
        flow.set_channel_maps(op.outputs[0], [maps] * parts)
        return
    pieces = np.split(np.broadcast_to(maps, maps.shape), parts, axis=axis)
    for piece in pieces[1:]:
        flow.couple(pieces[0], piece)
    flow.set_channel_maps(op.outputs[0], pieces)


@rule("split")
def split_by_sizes(flow: ChannelFlow, op: Op) -> None:
    """Sizes are written in the model's code: the axis is frozen."""
    x, sizes_value, axis_value = op.inputs[0], op.inputs[1], op.inputs[2]
    assert x is not None and x.shape is not None and axis_value is not None
    axis = int(scalar(axis_value.constant)) % len(x.shape)
    maps = flow.channel_map(x)
    flow.freeze_axis(maps, axis, f"{where(op)} has its sizes in the model's code")
    sizes = sizes_value.constant if sizes_value is not None else None
    if maps.shape[axis] == 1 and isinstance(sizes, list | tuple):
        flow.set_channel_maps(op.outputs[0], [maps] * len(sizes))
    elif isinstance(sizes, list | tuple) and -1 not in sizes:
        cuts = np.cumsum(sizes)[:-1].tolist()
        flow.set_channel_maps(op.outputs[0], np.split(maps, cuts, axis=axis))
    else:
        flow.freeze(maps, f"{where(op)} has unknown sizes")


@rule("builtin.split")
def unpack(flow: ChannelFlow, op: Op) -> None:
    """A list becomes its members."""
    values = op.inputs[0]
    assert values is not None
    maps = flow.channel_maps(values)
    if maps is None and values.elements:
        maps = [flow.channel_map(member) for member in values.elements]
    for output, member in zip(op.outputs, maps or (), strict=False):
        if output.shape is not None and len(output.shape) == member.ndim:
            flow.set_channel_map(output, member)


@rule("slice")
def slice_(flow: ChannelFlow, op: Op) -> None:
    """Bounds are written in the model's code: a sliced axis is frozen."""
    x, starts_value, ends_value = op.inputs[0], op.inputs[1], op.inputs[2]
    assert x is not None and x.shape is not None
    maps: Atoms = flow.channel_map(x)
    axes = [int(axis) % maps.ndim for axis in op.attrs["axes"]]
    starts = starts_value.constant if starts_value is not None else None
    ends = ends_value.constant if ends_value is not None else None
    for place, axis in enumerate(axes):
        if maps.shape[axis] == 1:
            continue
        flow.freeze_axis(maps, axis, f"{where(op)} picks channels by number")
        if not isinstance(starts, list | tuple) or not isinstance(ends, list | tuple):
            flow.freeze(maps, f"{where(op)} has unknown bounds")
            return
        part = range(x.shape[axis])[slice(int(starts[place]), int(ends[place]))]
        only = sum(size > 1 for size in maps.shape) == 1
        maps = maps.take(list(part), axis=axis)
        if only and len(part) == 1:
            maps = np.full_like(maps, NEUTRAL)  # one channel, fixed above: broadcast as it is
    dropped = tuple(int(axis) % maps.ndim for axis in op.attrs.get("decrease_axis") or ())
    if all(maps.shape[axis] == 1 for axis in dropped):
        maps = np.squeeze(maps, axis=dropped)
        shape = op.outputs[0].shape
        if shape is not None and len(shape) == maps.ndim:
            flow.set_channel_map(op.outputs[0], maps)
            return
    flow.freeze(maps, f"{where(op)} drops an axis of channels")
