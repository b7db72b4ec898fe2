"""Products of two activations: what is summed over goes together, what is left keeps its place."""

from __future__ import annotations

import numpy as np

from ..flow import NEUTRAL, Atoms, ChannelFlow, where
from ..trace import Op, Value


def multiply_activations(
    flow: ChannelFlow, op: Op, x: Value, y: Value, transposed: tuple[bool, bool]
) -> None:
    """``x [..., m, k] @ y [..., k, n]``.

    Along ``k`` both lose the same channels. Where the channels also run along an axis in front
    (the heads of an attention), the summed axis stays as long as it is: whole heads go. Axes in
    front are broadcast and have to agree. Rows of x and columns of y that both carry channels
    would make a result that is cut along two axes; y is kept then.
    """
    out = op.outputs[0]
    if (
        x.shape is None
        or y.shape is None
        or out.shape is None
        or min(len(x.shape), len(y.shape)) < 2
    ):
        for value in (x, y):
            flow.freeze_value(value, f"{where(op)} multiplies tensors of unknown shape")
        return
    ndim = max(len(x.shape), len(y.shape))
    a, a_size = _aligned(flow.channel_map(x), x.shape, ndim, transposed[0])
    b, b_size = _aligned(flow.channel_map(y), y.shape, ndim, transposed[1])
    a, b = _contract(flow, op, a, b)
    if a.shape[-2] > 1 and _varies(b):
        flow.freeze(b, f"{where(op)} multiplies two activations that both carry channels")
        b = np.full((1,) * ndim, NEUTRAL, dtype=np.int64)
    for axis in range(ndim - 2):
        for one, other, size in ((a, b, b_size), (b, a, a_size)):
            if one.shape[axis] > 1 and other.shape[axis] == 1 and size[axis] > 1:
                flow.freeze_axis(one, axis, f"{where(op)} meets a tensor of fixed size")
    front = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*front, a.shape[-2], b.shape[-1])
    left, right = np.broadcast_to(a, shape), np.broadcast_to(b, shape)
    flow.couple(left, right)
    for one, two, maps in ((left, right, a), (right, left, b)):
        if any(size > 1 for size in maps.shape[:-2]):
            flow.freeze(two[one == NEUTRAL], f"{where(op)} meets channels that stay")
    flow.set_channel_map(out, np.where(left == NEUTRAL, right, left))


def _aligned(
    maps: Atoms, size: tuple[int, ...], ndim: int, transposed: bool
) -> tuple[Atoms, tuple[int, ...]]:
    """Channel maps and sizes with ``ndim`` axes, the last two as the product sees them."""
    extra = (1,) * (ndim - len(size))
    maps, size = maps.reshape(extra + maps.shape), extra + size
    if transposed:
        return maps.swapaxes(-1, -2), (*size[:-2], size[-1], size[-2])
    return maps, size


def _contract(flow: ChannelFlow, op: Op, a: Atoms, b: Atoms) -> tuple[Atoms, Atoms]:
    """Settle the summed axis; afterwards neither operand's maps change along it."""
    if a.shape[-1] == 1 and b.shape[-2] == 1:
        return a, b
    only_a = _varies(a) and all(size == 1 for size in a.shape[:-1])
    only_b = _varies(b) and all(size == 1 for k, size in enumerate(b.shape) if k != b.ndim - 2)
    if only_a and only_b:
        flow.couple(a.reshape(-1), b.reshape(-1))
        flow.sum_over(a.reshape(-1))
        bare = (a.reshape(-1) == NEUTRAL) | (b.reshape(-1) == NEUTRAL)
        for maps in (a, b):
            flow.freeze(maps.reshape(-1)[bare], f"{where(op)} meets channels that stay")
        one = np.full((1,) * a.ndim, NEUTRAL, dtype=np.int64)
        return one, one
    reason = f"{where(op)} sums over them and over an axis of fixed size"
    flow.freeze_axis(a, -1, reason)
    flow.freeze_axis(b, -2, reason)
    return _first(a, -1), _first(b, -2)


def _first(maps: Atoms, axis: int) -> Atoms:
    """Channel maps without the axis along which they have been coupled or frozen."""
    taken: Atoms = maps.take([0], axis=axis)
    # Channels that ran along this axis alone are fixed: nothing is left to hand on.
    if maps.shape[axis] > 1 and taken.size == 1:
        return np.full_like(taken, NEUTRAL)
    return taken


def _varies(maps: Atoms) -> bool:
    return maps.size > 1
