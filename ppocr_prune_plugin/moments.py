"""First and second moments of what layers read: what compensation and the criterion obs work on.

They are taken once, of the unpruned network in evaluation mode, over positions of a few images;
labels are not needed. Positions count by how much the network's outputs react to what is read
there: a page is mostly empty, and what a layer gives for paper matters little where the map of text
is zero all the same. The reaction is the square of the gradient of a random projection of the
outputs (Hutchinson's estimate of the diagonal of ``J^T J``), one backward pass for each batch.

Errors at many positions of one image that have the same sign add up wherever something averages
over positions, as squeeze-and-excitation does, however small each of them is. So the mean over the
positions of an image counts by itself, as much as the reactions at different positions agree:
``|sum g|^2 - sum |g|^2``, the part of that estimate that lies off its diagonal.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle
from paddle.nn.layer.rnn import RNNBase

from .graph.channels import ChannelGraph
from .graph.flow import IN
from .graph.live import tensors_in

Array = npt.NDArray[Any]

# Positions that are looked at of one image in one layer; more change nothing.
_POSITIONS = 1024
# The share of a position's weight that does not depend on the outputs, and how many times the mean
# reaction the rest may be: few positions must not be all that counts.
_EQUAL, _LARGEST = 0.3, 10.0
# What the moments of all layers may take, in bytes; layers beyond it are left as they are.
_MOST = 2 * 2**30


@dataclass
class Moments:
    """Weight, sum and second moment of the channels that a layer reads, of every second image each:
    ``[2]``, ``[2, channels]``, ``[2, channels, channels]``."""

    count: Array
    total: Array
    second: Array

    @classmethod
    def of_channels(cls, channels: int) -> Moments:
        return cls(np.zeros(2), np.zeros((2, channels)), np.zeros((2, channels, channels)))

    def add(self, half: int, rows: Array, weights: Array) -> None:
        """Take in ``[positions, channels]``, each position as often as its weight says."""
        rows = rows.astype(np.float64)
        weighted = rows * weights[:, None]
        self.count[half] += weights.sum()
        self.total[half] += weighted.sum(axis=0)
        self.second[half] += weighted.T @ rows

    @staticmethod
    def bytes_of(channels: int) -> int:
        """What the moments of so many channels take, with the reaction to them."""
        return 3 * 8 * (channels + 1) ** 2

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
    prunable channels and can mix them, ``left`` the others, with the reason. ``reactions``: weight
    → second moment ``[channels, channels]`` of the gradient of the network's outputs by what is
    read, summed over all positions of all images; ``remark`` says why there are none, and why all
    positions count alike, where that is so."""

    readers: tuple[Reader, ...]
    left: Mapping[str, str]
    moments: Mapping[str, Moments]
    reactions: Mapping[str, Array] = field(default_factory=dict)
    remark: str = ""


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
    watch = _Watch(dict(model.named_sublayers()), readers)
    with watch.watching(), evaluating(model), _with_gradients(model):
        for number, run in enumerate(batches):
            watch.take(run(), number)
    norms, moments = watch.norms, watch.moments
    left |= {
        reader.layer: f"the moments of all layers would take more than {_MOST // 2**20} MiB"
        for reader in readers
        if reader.weight in watch.too_wide
    }
    found = [
        reader
        if reader.bias or reader.layer not in norms or watch.is_shared(reader)
        else replace(reader, bias=f"{norms[reader.layer]}._mean", mean=True)
        for reader in readers
        if reader.weight not in watch.too_wide
    ]
    reactions = {} if watch.remark else watch.reactions
    return ReadMoments(tuple(found), left, moments, reactions, watch.remark)


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
        found_bias = getattr(layer, bias, None)
        # One shift for all layers that have the weight: they must share the bias, too.
        has_bias = isinstance(found_bias, paddle.Tensor) and all(
            getattr(layers[other], bias, None) is found_bias
            for other in _sharing(layers, name, own)
        )
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
def _with_gradients(model: paddle.nn.Layer) -> Iterator[None]:
    """In this block recurrent layers keep what a backward pass needs, which they do in training
    mode only; without dropout they compute the same in both modes."""
    layers = [layer for layer in model.sublayers() if isinstance(layer, RNNBase)]
    before = [(layer, layer.training, layer.dropout) for layer in layers]
    for layer in layers:
        layer.training, layer.dropout = True, 0.0
    try:
        yield
    finally:
        for layer, training, dropout in before:
            layer.training, layer.dropout = training, dropout


class _Watch:
    """Takes the moments of what readers read while a network runs, and notes the batch norms behind
    them. Layers that share a weight are one reader: their inputs count together.

    Attributes:
        moments: weight → moments.
        reactions: weight → second moment of the gradient of the outputs.
        too_wide: weights of layers whose moments memory is not spent on.
        remark: why positions have equal weights; empty where they have not.
    """

    def __init__(self, layers: Mapping[str, paddle.nn.Layer], readers: Sequence[Reader]) -> None:
        self.moments: dict[str, Moments] = {}
        self.reactions: dict[str, Array] = {}
        self.too_wide: set[str] = set()
        self.remark = ""
        # What layers have read of the present batch.
        self._read: list[tuple[str, paddle.Tensor]] = []
        self._layers = layers
        self._readers: dict[str, list[Reader]] = {}
        for reader in readers:
            for name in _sharing(layers, reader.layer, reader.weight.rpartition(".")[2]):
                self._readers.setdefault(name, []).append(reader)
        self._recurrent = [
            weight
            for layer in layers.values()
            if isinstance(layer, RNNBase)
            for weight in layer.parameters()
            if not weight.stop_gradient
        ]
        self._images = dict.fromkeys(self._readers, 0)
        self._room = _MOST
        # Calls of layers and norms by name, and of norms right behind layers.
        self._calls: Counter[str] = Counter()
        self._pairs: Counter[tuple[str, str]] = Counter()
        # The last output of a layer, which stays alive so long.
        self._made: dict[int, tuple[str, Any]] = {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """What runs inside is watched."""
        hooks = []
        for name in self._readers:
            layer = self._layers[name]
            hooks.append(layer.register_forward_pre_hook(self._reads(name)))
            hooks.append(layer.register_forward_post_hook(self._gives(name)))
        for name, layer in self._layers.items():
            if isinstance(getattr(layer, "_mean", None), paddle.Tensor):
                hooks.append(layer.register_forward_pre_hook(self._normalises(name)))
        try:
            yield
        finally:
            self._made.clear()
            for hook in hooks:
                hook.remove()

    @property
    def norms(self) -> dict[str, str]:
        """Layer → the batch norm that reads all that it gives, and nothing else."""
        return {
            layer: norm
            for (layer, norm), times in self._pairs.items()
            if times == self._calls[layer] == self._calls[norm]
        }

    def is_shared(self, reader: Reader) -> bool:
        """Whether several layers have the reader's weight."""
        return sum(reader in readers for readers in self._readers.values()) > 1

    def take(self, answer: object, number: int) -> None:
        """Take in what was read while the network came to this answer.

        Args:
            answer: what the network gave for a batch.
            number: of the batch; other numbers have other projections.
        """
        reactions = self._reactions(answer, number)
        for (name, x), reaction in zip(self._read, reactions, strict=True):
            layer = self._layers[name]
            rows = _rows(layer, x)
            weights, means, alike = np.ones(rows.shape[:2]), rows[:, 0], 0.0
            if reaction is not None:
                found = np.square(_rows(layer, reaction), dtype=np.float64).sum(axis=-1)
                found = np.where(np.isfinite(found), found, 0.0)
                mean = float(found.mean()) or 1.0
                weights = _EQUAL + (1 - _EQUAL) * np.minimum(found / mean, _LARGEST)
                self._add_reaction(name, reaction)
                means, alike = _together(layer, x, reaction, rows.shape[1])
            for image, (row, weight) in enumerate(zip(rows, weights, strict=True)):
                for reader in self._readers[name]:
                    moments = self._of(reader.weight, row.shape[-1])
                    if moments is not None:
                        moments.add(self._images[name] % 2, row, weight)
                        if alike:
                            one = np.full(1, alike)
                            moments.add(self._images[name] % 2, means[image][None], one)
                self._images[name] += 1
        self._read.clear()
        self._made.clear()

    def _add_reaction(self, name: str, gradient: paddle.Tensor) -> None:
        """``gradient``: as the layer reads."""
        if _reads_last(self._layers[name]):
            flat = gradient.flatten(0, -2).transpose([1, 0])
        else:
            flat = gradient.flatten(2).transpose([1, 0, 2]).flatten(1)
        flat = paddle.where(paddle.isfinite(flat), flat, paddle.zeros_like(flat))
        second = paddle.matmul(flat, flat, transpose_y=True).astype("float64").numpy()
        for reader in self._readers[name]:
            if self._of(reader.weight, len(second)) is not None:
                self.reactions[reader.weight] = self.reactions.get(reader.weight, 0.0) + second

    def _reactions(self, answer: object, number: int) -> list[paddle.Tensor | None]:
        """The gradient of a projection of the answer by what was read; None where it is not
        known."""
        read = [x for _, x in self._read]
        outputs = [tensor for tensor in tensors_in(answer) if "float" in str(tensor.dtype)]
        try:
            projected = [_projected(tensor, number) for tensor in outputs if tensor.size]
            if read and not self.remark:
                # Recurrent layers know no backward pass that leaves their weights out.
                found = paddle.grad(projected, [*read, *self._recurrent], allow_unused=True)
                found = found[: len(read)]
                if any(gradient is not None for gradient in found):
                    return found
                self.remark = "they depend on none of the layers that read channels"
        except Exception as error:  # whatever an operation without a gradient raises
            lines = str(error).strip().splitlines() or [type(error).__name__]
            self.remark = lines[-1].strip()
        return [None] * len(read)

    def _reads(self, name: str) -> Callable[..., Any]:
        def hook(layer: paddle.nn.Layer, inputs: Any) -> Any:
            # A copy of its own: what other layers make of the same values does not count.
            own = inputs[0] * 1.0
            own.stop_gradient = False
            self._read.append((name, own))
            return (own, *inputs[1:])

        return hook

    def _of(self, weight: str, channels: int) -> Moments | None:
        if weight not in self.moments and weight not in self.too_wide:
            self._room -= Moments.bytes_of(channels)
            if self._room < 0:
                self._room += Moments.bytes_of(channels)
                self.too_wide.add(weight)
            else:
                self.moments[weight] = Moments.of_channels(channels)
        return self.moments.get(weight)

    def _gives(self, name: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any, output: Any) -> None:
            self._made.clear()
            self._made[id(output)] = (name, output)
            self._calls[name] += 1

        return hook

    def _normalises(self, name: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any) -> None:
            self._calls[name] += 1
            source = self._made.get(id(inputs[0]))
            if source is not None:
                self._pairs[source[0], name] += 1

        return hook


def _sharing(layers: Mapping[str, paddle.nn.Layer], name: str, own: str) -> list[str]:
    """A layer, and whatever other layers have its weight, by the name that it has in the layer."""
    weight = getattr(layers[name], own)
    return [name for name, layer in layers.items() if getattr(layer, own, None) is weight]


def _projected(output: paddle.Tensor, number: int) -> paddle.Tensor:
    """The sum of an output's values with signs drawn at random, as many of either along the last
    axis: what all classes gain together is nothing."""
    shape = tuple(output.shape)
    signs = np.broadcast_to(np.where(np.arange(shape[-1]) % 2, -1.0, 1.0), shape)
    drawn = np.random.default_rng(number).permuted(signs, axis=-1)
    scale = float(output.astype("float32").square().mean()) ** 0.5 or 1.0
    return (output.astype("float32") * paddle.to_tensor(drawn.astype(np.float32))).sum() / scale


def _reads_last(layer: paddle.nn.Layer) -> bool:
    """Whether a layer's channels lie along the last axis of what it reads, not the second."""
    return isinstance(layer, paddle.nn.Linear | RNNBase)


def _together(
    layer: paddle.nn.Layer, x: paddle.Tensor, reaction: paddle.Tensor, positions: int
) -> tuple[Array, float]:
    """The mean of what a layer reads over all positions of an image, ``[images, channels]``, and
    how much it counts beside ``positions`` rows of a mean weight of 1: as much as the products of
    the reactions at different positions, which are nothing where they do not depend on each other.
    """
    axes = list(range(1, x.ndim - 1)) if _reads_last(layer) else list(range(2, x.ndim))
    gradient = reaction.astype("float32")
    squares = float(gradient.square().sum())
    together = float(gradient.sum(axes).square().sum()) if axes else squares
    places = int(np.prod([x.shape[axis] for axis in axes]))
    excess = (together - squares) / squares if squares else 0.0
    weight = (1 - _EQUAL) * positions * excess if np.isfinite(excess) else 0.0
    means = x.astype("float32").mean(axes) if places > 1 else x.astype("float32")
    return means.numpy().reshape(len(x), -1), max(weight, 0.0)


def _rows(layer: paddle.nn.Layer, x: paddle.Tensor) -> Array:
    """What a layer reads, as ``[images, positions, channels]``: at most so many positions, evenly
    spread."""
    if _reads_last(layer):
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
