"""Give back to the readers of pruned channels what the removed ones carried, without training.

Most of a removed channel is a linear combination of those that stay. So every layer that reads
them gets a weight that reads that combination instead: with ``x`` the channels that it reads, ``P``
those that stay and ``R`` those that go,

    x_R ~ B x_P + b,   W'_P = W_P + W_R B,   bias' = bias + W_R b,

where ``B`` and ``b`` are the ridge regression of ``x_R`` on ``x_P`` over all positions of a few
images. It is a closed form of first and second moments, which are taken once, of the unpruned
network in evaluation mode; labels are not needed. The idea is that of He et al. (ICCV 2017) and of
neuron merging (Kim et al., NeurIPS 2020); how far to trust the regression is decided for each
reader on the images that it was not fitted on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .. import surgery
from ..graph.channels import ChannelGraph
from ..graph.flow import IN
from ..graph.live import tensors_of
from ..plan import GroupPlan

Array = npt.NDArray[Any]

# Positions that are looked at of one image in one layer; more change nothing.
_POSITIONS = 1024
# Wider inputs than this are left as they are: their moments would not fit into memory.
_WIDEST = 4096
# Weights of the ridge, as shares of the mean variance; the last trusts the means alone.
_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0, np.inf)


@dataclass
class _Moments:
    """Count, sum and second moment of the channels that a layer reads, of every second image each:
    ``[2]``, ``[2, channels]``, ``[2, channels, channels]``."""

    count: Array
    total: Array
    second: Array

    @classmethod
    def of_channels(cls, channels: int) -> _Moments:
        return cls(np.zeros(2), np.zeros((2, channels)), np.zeros((2, channels, channels)))

    def add(self, half: int, rows: Array) -> None:
        """Take in ``[positions, channels]``."""
        rows = rows.astype(np.float64)
        self.count[half] += len(rows)
        self.total[half] += rows.sum(axis=0)
        self.second[half] += rows.T @ rows


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


@dataclass
class Compensation:
    """What is known of an unpruned network's activations, and the cure for any cut.

    ``readers`` can be compensated, ``left`` are layers that read prunable channels and cannot, with
    the reason.
    """

    model: paddle.nn.Layer
    graph: ChannelGraph
    readers: tuple[Reader, ...]
    left: Mapping[str, str]
    _moments: dict[str, _Moments] = field(default_factory=dict)

    def apply(self, groups: Sequence[GroupPlan], undo: surgery.Undo) -> dict[str, float]:
        """Give the readers of what was removed new weights and biases, in place.

        Args:
            groups: what is kept; the model was cut by it.
            undo: of that cut; it learns how to take this back.

        Returns:
            Weight → the share of what the removed channels gave to the layer's outputs that is
            still missing, between 0 and 1, judged on images that the regression has not seen.
        """
        masks = surgery.kept_masks(self.graph, groups)
        tensors = tensors_of(self.model)
        missing: dict[str, float] = {}
        for reader in self.readers:
            mask = masks.get(reader.weight, {}).get(reader.axis)
            moments = self._moments.get(reader.weight)
            if mask is None or mask.all() or moments is None or not moments.count.all():
                continue
            weight = undo.arrays[reader.weight]
            for axis, kept in masks[reader.weight].items():
                if axis != reader.axis:
                    weight = np.compress(kept, weight, axis=axis)
            # [outputs and taps, inputs]
            rows = np.moveaxis(weight.astype(np.float64), reader.axis, -1)
            removed = rows[..., ~mask].reshape(-1, int((~mask).sum()))
            shift = bool(reader.bias)
            ridge, missing[reader.weight] = _best_ridge(moments, mask, removed, shift)
            slope, offset = _regression(moments, mask, ridge, shift, (0, 1))
            new = rows[..., mask] + rows[..., ~mask] @ slope
            write = np.moveaxis(new, -1, reader.axis).astype(weight.dtype)
            tensors[reader.weight].set_value(np.ascontiguousarray(write))
            if shift:
                self._shift(reader, rows[..., ~mask] @ offset, tensors, undo)
        return missing

    @staticmethod
    def _shift(
        reader: Reader, added: Array, tensors: Mapping[str, paddle.Tensor], undo: surgery.Undo
    ) -> None:
        """Add to the bias what the removed channels gave on average.

        ``added``: ``[outputs, *taps]``; every tap of a convolution meets every output position,
        those of a transposed one share them.
        """
        bias = tensors[reader.bias]
        total = added.reshape(len(added), -1).sum(axis=1) / reader.shares
        old = bias.numpy()
        undo.arrays.setdefault(reader.bias, old)
        bias.set_value((old + (-total if reader.mean else total)).astype(old.dtype))


def collect(
    model: paddle.nn.Layer, graph: ChannelGraph, batches: Sequence[Callable[[], object]]
) -> Compensation:
    """Run calibration batches through an unpruned network and take the moments of what is read.

    Args:
        model: the network; it is run in evaluation mode and left as it was.
        graph: its channel groups.
        batches: each runs one batch of images through the model.
    """
    readers, left = _readers(model, graph)
    moments: dict[str, _Moments] = {}
    norms: dict[str, str] = {}
    layers = dict(model.named_sublayers())
    with _watched(layers, readers, moments, norms), _evaluating(model), paddle.no_grad():
        for run in batches:
            run()
    found = [
        reader
        if reader.bias or reader.layer not in norms
        else replace(reader, bias=f"{norms[reader.layer]}._mean", mean=True)
        for reader in readers
    ]
    return Compensation(model, graph, tuple(found), left, moments)


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
def _evaluating(model: paddle.nn.Layer) -> Iterator[None]:
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
    moments: dict[str, _Moments],
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
                    own = moments.setdefault(reader.weight, _Moments.of_channels(row.shape[-1]))
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


def _regression(
    moments: _Moments, mask: Array, ridge: float, shift: bool, halves: Sequence[int]
) -> tuple[Array, Array]:
    """Slope ``[removed, kept]`` and offset ``[removed]`` of the removed channels on those kept."""
    count = moments.count[list(halves)].sum()
    mean = moments.total[list(halves)].sum(axis=0) / count
    second = moments.second[list(halves)].sum(axis=0) / count
    if shift:
        second = second - np.outer(mean, mean)
    kept, cross = second[np.ix_(mask, mask)], second[np.ix_(~mask, mask)]
    if np.isinf(ridge):
        slope = np.zeros_like(cross)
    else:
        scale = float(np.diag(kept).mean()) or 1.0
        slope = np.linalg.solve(kept + ridge * scale * np.eye(len(kept)), cross.T).T
    return slope, (mean[~mask] - slope @ mean[mask] if shift else np.zeros(len(slope)))


def _best_ridge(moments: _Moments, mask: Array, weight: Array, shift: bool) -> tuple[float, float]:
    """The ridge whose regression on one half of the images serves the other half best, and the
    share of the removed channels' contribution that is missing then.

    ``weight``: ``[outputs and taps, removed]``.
    """
    power = weight.T @ weight

    def error(slope: Array, offset: Array, half: int) -> float:
        """Mean square of ``W (x_R - B x_P - b)`` over the positions of a half."""
        count = moments.count[half]
        mean, second = moments.total[half] / count, moments.second[half] / count
        r, p = ~mask, mask
        cross = second[np.ix_(r, p)] @ slope.T
        rest = second[np.ix_(r, r)] - cross - cross.T + slope @ second[np.ix_(p, p)] @ slope.T
        off = np.outer(mean[r] - slope @ mean[p], offset)
        rest = rest - off - off.T + np.outer(offset, offset)
        return max(float((power * rest).sum()), 0.0)

    nothing = np.zeros((int((~mask).sum()), int(mask.sum()))), np.zeros(int((~mask).sum()))
    whole = sum(error(*nothing, half) for half in (0, 1))
    if whole <= 0:
        return np.inf, 0.0
    errors = {
        ridge: sum(
            error(*_regression(moments, mask, ridge, shift, (half,)), 1 - half) for half in (0, 1)
        )
        for ridge in _RIDGES
    }
    best = min(errors, key=errors.__getitem__)
    return best, min(errors[best] / whole, 1.0)
