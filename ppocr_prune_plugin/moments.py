"""First and second moments of what layers read: what compensation and the criterion obs work on.

They are taken once, of the unpruned network in evaluation mode, over all positions of a few images;
labels are not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .graph.channels import ChannelGraph
from .graph.flow import IN

Array = npt.NDArray[Any]

# Positions that are looked at of one image in one layer; more change nothing.
_POSITIONS = 1024
# Wider inputs than this are left as they are: their moments would not fit into memory.
_WIDEST = 4096


@dataclass
class Moments:
    """Count, sum and second moment of the channels that a layer reads, of every second image each:
    ``[2]``, ``[2, channels]``, ``[2, channels, channels]``."""

    count: Array
    total: Array
    second: Array

    @classmethod
    def of_channels(cls, channels: int) -> Moments:
        return cls(np.zeros(2), np.zeros((2, channels)), np.zeros((2, channels, channels)))

    def add(self, half: int, rows: Array) -> None:
        """Take in ``[positions, channels]``."""
        rows = rows.astype(np.float64)
        self.count[half] += len(rows)
        self.total[half] += rows.sum(axis=0)
        self.second[half] += rows.T @ rows

    @property
    def usable(self) -> bool:
        """Whether both halves have seen something."""
        return bool(self.count.all())

    def about(self, shift: bool, halves: Sequence[int] = (0, 1)) -> tuple[Array, Array]:
        """Mean ``[channels]`` and second moment ``[channels, channels]``, about the mean where a
        shift can be given back."""
        chosen = list(halves)
        count = self.count[chosen].sum()
        mean = self.total[chosen].sum(axis=0) / count
        second = self.second[chosen].sum(axis=0) / count
        return mean, second - np.outer(mean, mean) if shift else second


@dataclass(frozen=True)
class Reader:
    """A dense layer that reads channels: its weight, the axis along which it reads them, its bias
    (a parameter, or the running mean of the batch norm behind it; "" where there is neither).
    ``shares``: among how many output positions its taps are shared out."""

    layer: str
    weight: str
    axis: int
    shares: int = 1
    bias: str = ""
    mean: bool = False


@dataclass(frozen=True)
class ReadMoments:
    """``moments``: weight → moments of what its layer reads. ``readers`` are the layers that read
    prunable channels and can mix them, ``left`` the others, with the reason."""

    readers: tuple[Reader, ...]
    left: Mapping[str, str]
    moments: Mapping[str, Moments]


def nothing_read() -> ReadMoments:
    """The moments of a network that was shown no image."""
    return ReadMoments((), {}, {})


def collect(
    model: paddle.nn.Layer, graph: ChannelGraph, batches: Sequence[Callable[[], object]]
) -> ReadMoments:
    """Run calibration batches through an unpruned network and take the moments of what is read.

    Args:
        model: the network; it is run in evaluation mode and left as it was.
        graph: its channel groups.
        batches: each runs one batch of images through the model.
    """
    readers, left = _readers(model, graph)
    moments: dict[str, Moments] = {}
    norms: dict[str, str] = {}
    layers = dict(model.named_sublayers())
    with _watched(layers, readers, moments, norms), evaluating(model), paddle.no_grad():
        for run in batches:
            run()
    found = [
        reader
        if reader.bias or reader.layer not in norms
        else replace(reader, bias=f"{norms[reader.layer]}._mean", mean=True)
        for reader in readers
    ]
    return ReadMoments(tuple(found), left, moments)


def _readers(model: paddle.nn.Layer, graph: ChannelGraph) -> tuple[list[Reader], dict[str, str]]:
    """Layers that read prunable channels: those that can be compensated, and the others."""
    layers = dict(model.named_sublayers())
    reads = dict.fromkeys(
        (member.parameter, member.axis)
        for group in graph.groups
        for member in group.members
        if member.role == IN
    )
    found, left = [], {}
    for weight, axis in reads:
        name, _, own = weight.rpartition(".")
        layer = layers.get(name)
        problem = _why_not(layer, own, axis)
        if layer is None or problem:
            left[name] = problem
            continue
        bias = own.replace("weight", "bias")
        has_bias = isinstance(getattr(layer, bias, None), paddle.Tensor)
        transposed = isinstance(layer, paddle.nn.Conv2DTranspose)
        shares = int(np.prod(layer._stride)) if transposed else 1
        found.append(Reader(name, weight, axis, shares, f"{name}.{bias}" if has_bias else ""))
    return found, left


def _why_not(layer: paddle.nn.Layer | None, own: str, axis: int) -> str:
    """Why a layer cannot be compensated; empty where it can."""
    if layer is None:
        return "its weight lies outside any layer"
    kind = type(layer).__name__
    convolution = isinstance(layer, paddle.nn.Conv2D | paddle.nn.Conv1D)
    transposed = isinstance(layer, paddle.nn.Conv2DTranspose)
    if (convolution or transposed) and own == "weight":
        if layer._groups != 1:
            return f"{kind} with {layer._groups} groups cannot mix channels"
        if axis != (0 if transposed else 1):
            return f"{kind} reads channels along axis {axis} of its weight"
        return "" if layer._data_format.startswith("NC") else f"{kind} has channels last"
    if isinstance(layer, paddle.nn.Linear) and own == "weight" and axis == 0:
        return ""
    if own.startswith("weight_ih_l0") and axis == 1:
        return ""
    return f"no rule for the {own} of {kind}"


@contextmanager
def evaluating(model: paddle.nn.Layer) -> Iterator[None]:
    """In this block the model is in evaluation mode."""
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        yield
    finally:
        for layer, mode in modes:
            layer.training = mode


@contextmanager
def _watched(
    layers: Mapping[str, paddle.nn.Layer],
    readers: Sequence[Reader],
    moments: dict[str, Moments],
    norms: dict[str, str],
) -> Iterator[None]:
    """Inside, moments of what the readers read are taken, and the batch norms behind them noted."""
    by_layer: dict[str, list[Reader]] = {}
    for reader in readers:
        by_layer.setdefault(reader.layer, []).append(reader)
    images = dict.fromkeys(by_layer, 0)
    made: dict[int, tuple[str, Any]] = {}  # the last output of a layer, which stays alive so long

    def read(name: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any) -> None:
            rows = _rows(layer, inputs[0])
            if rows.shape[-1] > _WIDEST:
                return
            for row in rows:
                for reader in by_layer[name]:
                    own = moments.setdefault(reader.weight, Moments.of_channels(row.shape[-1]))
                    own.add(images[name] % 2, row)
                images[name] += 1

        return hook

    def give(name: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any, output: Any) -> None:
            made.clear()
            made[id(output)] = (name, output)

        return hook

    def norm(name: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any) -> None:
            source = made.get(id(inputs[0]))
            if source is not None:
                norms[source[0]] = name

        return hook

    hooks = []
    for name in by_layer:
        hooks.append(layers[name].register_forward_pre_hook(read(name)))
        hooks.append(layers[name].register_forward_post_hook(give(name)))
    for name, layer in layers.items():
        if isinstance(getattr(layer, "_mean", None), paddle.Tensor):
            hooks.append(layer.register_forward_pre_hook(norm(name)))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _rows(layer: paddle.nn.Layer, x: paddle.Tensor) -> Array:
    """What a layer reads, as ``[images, positions, channels]``: at most so many positions, evenly
    spread."""
    if isinstance(layer, paddle.nn.Linear | paddle.nn.LSTM | paddle.nn.GRU):
        array = x.astype("float32").numpy()
        array = array.reshape(len(array), -1, array.shape[-1])
    else:
        flat = x.astype("float32").flatten(2) if x.ndim > 3 else x.astype("float32")
        array = flat.transpose([0, 2, 1]).numpy()
    positions = array.shape[1]
    if positions > _POSITIONS:
        chosen = np.linspace(0, positions - 1, _POSITIONS).astype(np.int64)
        array = array[:, chosen]
    return array
