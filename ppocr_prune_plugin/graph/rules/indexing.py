"""Operations that pick, repeat or write elements by number: the axis that they count is kept."""

from __future__ import annotations

import numpy as np

from ..flow import NEUTRAL, OUT, Atoms, ChannelFlow, where
from ..trace import Op, Value
from . import rule
from .constants import axis_of


@rule("gather", "index_select")
def gather(flow: ChannelFlow, op: Op) -> None:
    """``x`` along one axis at the places ``index``; a parameter is a dictionary whose rows stay."""
    x, index, out = op.inputs[0], op.inputs[1], op.outputs[0]
    assert x is not None and x.shape is not None and index is not None and index.shape is not None
    axis = axis_of(op, len(x.shape), default=0)
    _pick(flow, op, x, out, (axis,), len(index.shape) if op.name == "gather" else 1)


@rule("gather_nd")
def gather_nd(flow: ChannelFlow, op: Op) -> None:
    """``index [..., k]`` counts along the first k axes of x."""
    x, index, out = op.inputs[0], op.inputs[1], op.outputs[0]
    assert x is not None and x.shape is not None and index is not None and index.shape is not None
    flow.freeze_value(index, f"{where(op)} is told places by it")
    _pick(flow, op, x, out, tuple(range(index.shape[-1])), len(index.shape) - 1)


def _pick(
    flow: ChannelFlow, op: Op, x: Value, out: Value, axes: tuple[int, ...], index_ndim: int
) -> None:
    """The consecutive ``axes`` of x are replaced by ``index_ndim`` others."""
    assert x.shape is not None
    maps = _dictionary(flow, x, axes)
    for axis in axes:
        flow.freeze_axis(maps, axis, f"{where(op)} picks channels by number")
        if maps.shape[axis] > 1:
            maps = _without(maps, axis)
    front, back = maps.shape[: axes[0]], maps.shape[axes[-1] + 1 :]
    if out.shape is not None and len(front) + index_ndim + len(back) == len(out.shape):
        flow.set_channel_map(out, maps.reshape((*front, *(1,) * index_ndim, *back)))
    else:
        flow.freeze(maps, f"{where(op)} gives an unexpected shape")


def _dictionary(flow: ChannelFlow, x: Value, axes: tuple[int, ...]) -> Atoms:
    """Channel maps of x; of a table of parameters, its columns are filters and the rest stays."""
    if x.parameter is None or x.shape is None or len(x.shape) != 2 or axes != (0,):
        return flow.channel_map(x)
    flow.freeze(flow.axis_atoms(x.parameter, 0, OUT), "the vocabulary stays")
    return flow.along(2, 1, flow.axis_atoms(x.parameter, 1, OUT))


def _without(maps: Atoms, axis: int) -> Atoms:
    """Channel maps after the axis, along which they were coupled or frozen, is gone."""
    taken: Atoms = maps.take([0], axis=axis)
    return np.full_like(taken, NEUTRAL) if taken.size == 1 else taken


@rule("topk", "argsort", "take_along_axis", "mode", "kthvalue")
def sorted_along_axis(flow: ChannelFlow, op: Op) -> None:
    """Elements are compared along one axis, which stays."""
    x = op.inputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    axis = axis_of(op, len(x.shape), default=-1)
    for value in op.inputs[1:]:
        if value is not None:
            flow.freeze_value(value, f"{where(op)} is told places by it")
    flow.freeze_axis(maps, axis, f"{where(op)} compares the channels")
    if maps.shape[axis] > 1:
        maps = _without(maps, axis)
    for output in op.outputs:
        if output.shape is not None and len(output.shape) == maps.ndim:
            flow.set_channel_map(output, maps)
        else:
            flow.freeze(maps, f"{where(op)} drops an axis")


@rule("roll", "flip", "triu", "tril", "fill_diagonal", "repeat_interleave")
def moved_along_axes(flow: ChannelFlow, op: Op) -> None:
    """Elements change places along some axes, which stay as they are."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    raw = op.attrs.get("axis")
    if op.name in ("triu", "tril", "fill_diagonal"):
        raw = [-1, -2]
    axes = range(len(x.shape)) if raw is None else (raw if isinstance(raw, list | tuple) else [raw])
    if not raw and raw != 0:
        axes = range(len(x.shape))
    for axis in axes:
        axis = int(axis) % len(x.shape)
        flow.freeze_axis(maps, axis, f"{where(op)} counts the channels")
        if maps.shape[axis] > 1:
            maps = _without(maps, axis)
    if out.shape is not None and len(out.shape) == maps.ndim:
        flow.set_channel_map(out, maps)
    else:
        flow.freeze(maps, f"{where(op)} flattens first")


@rule("one_hot", "nonzero", "unique", "bincount", "searchsorted", "masked_select", "numel")
def of_values(flow: ChannelFlow, op: Op) -> None:
    """The result's shape follows the values: nothing that goes in may become shorter."""
    for value in op.inputs:
        if value is not None:
            flow.freeze_value(value, f"{where(op)} depends on every element")


@rule(
    "set_value", "set_value_with_tensor", "index_put", "scatter", "scatter_nd_add", "put_along_axis"
)
def written(flow: ChannelFlow, op: Op) -> None:
    """Elements are written into another tensor by number: both keep their sizes."""
    for value in op.inputs:
        if value is not None:
            flow.freeze_value(value, f"{where(op)} writes into a tensor of fixed size")


@rule("grid_sample")
def grid_sample(flow: ChannelFlow, op: Op) -> None:
    """Pixels of ``x [n, c, h, w]`` at the places in ``grid``; channels stay apart."""
    x, grid = op.inputs[0], op.inputs[1]
    assert x is not None and x.shape is not None and grid is not None
    flow.freeze_value(grid, f"{where(op)} is told places by it")
    channels = flow.channels(x, 1, op)
    flow.set_channel_map(op.outputs[0], flow.along(len(x.shape), 1, channels))


@rule("pixel_shuffle")
def pixel_shuffle(flow: ChannelFlow, op: Op) -> None:
    """Blocks of ``factor ** 2`` channels become one; a block goes as a whole."""
    _blocks(flow, op, int(op.attrs["upscale_factor"]) ** 2)


@rule("unfold")
def unfold(flow: ChannelFlow, op: Op) -> None:
    """Every channel becomes one per tap of the kernel, ``[n, c * taps, positions]``."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None and out.shape is not None
    taps = int(np.prod(op.attrs["kernel_sizes"]))
    flow.set_channel_map(out, flow.along(3, 1, flow.channels(x, 1, op).repeat(taps)))


def _blocks(flow: ChannelFlow, op: Op, block: int) -> None:
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None and x.shape is not None
    axis = len(x.shape) - 1 if str(op.attrs.get("data_format", "NCHW")).endswith("C") else 1
    parts = flow.channels(x, axis, op).reshape(-1, block)
    flow.couple_rows(parts.T, op)
    flow.set_channel_map(out, flow.along(len(x.shape), axis, parts[:, 0].copy()))


@rule("tile")
def tile(flow: ChannelFlow, op: Op) -> None:
    """The whole axis again and again: every copy of a channel goes with it."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    repeats = op.inputs[1].constant if op.inputs[1] is not None else None
    if not isinstance(repeats, list | tuple) or out.shape is None:
        flow.freeze(maps, f"{where(op)} repeats an unknown number of times")
        return
    ndim = len(out.shape)
    shape: tuple[int, ...] = (1,) * (ndim - maps.ndim) + maps.shape
    maps = maps.reshape(shape)
    counts = (1,) * (ndim - len(repeats)) + tuple(int(count) for count in repeats)
    wide = [n if size > 1 else 1 for n, size in zip(counts, shape, strict=True)]
    flow.set_channel_map(out, np.tile(maps, wide))


@rule("pad", "pad3d")
def pad(flow: ChannelFlow, op: Op) -> None:
    """Pixels are added around; channels that get others beside them are kept."""
    x, out = op.inputs[0], op.outputs[0]
    assert x is not None and x.shape is not None
    maps = flow.channel_map(x)
    if op.name == "pad":
        raw = [int(n) for n in op.attrs["paddings"]]
        around = [(raw[2 * k], raw[2 * k + 1]) for k in range(len(raw) // 2)]
    else:
        constant = op.inputs[1].constant if op.inputs[1] is not None else op.attrs.get("paddings")
        if not isinstance(constant, list | tuple):
            flow.freeze(maps, f"{where(op)} pads by unknown sizes")
            return
        pairs = [(int(constant[k]), int(constant[k + 1])) for k in range(0, len(constant), 2)][::-1]
        last = str(op.attrs.get("data_format", "NCDHW")).endswith("C")
        around = [(0, 0), *pairs, (0, 0)] if last else [(0, 0), (0, 0), *pairs]
    for axis, (before, after) in enumerate(around):
        if maps.shape[axis] > 1 and (before or after):
            flow.freeze_axis(maps, axis, f"{where(op)} adds channels")
            if op.attrs.get("mode", "constant") == "constant" and before >= 0 and after >= 0:
                width = [(before, after) if k == axis else (0, 0) for k in range(maps.ndim)]
                maps = np.pad(maps, width, constant_values=NEUTRAL)
            else:
                flow.freeze(maps, f"{where(op)} mirrors channels")
                return
    flow.set_channel_map(out, maps)
