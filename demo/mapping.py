"""Which parameter of an exported inference program belongs to which layer of the training model.

Paddle names parameters ``<layer type>_<counter>.<slot>``, in the program as in the model, and
layers are created in the same order in both. Names differ where the exporting tree called a
class otherwise, and counters differ where the training model has layers that export drops, so
the pairing goes type by type, in order, and every pair must agree in shape.

PPLCNetV3 is exported fused: export adds one convolution with bias for each ``LearnableRepLayer``
after the whole model was built, so these are the last convolutions by counter.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Slots = dict[str, Any]

_NAME = re.compile(r"(?P<kind>.+)_(?P<counter>\d+)\.(?P<slot>[wb]_\d+)$")
_KINDS = ("conv2d_transpose", "conv2d", "batch_norm2d", "batch_norm", "layer_norm", "linear")
# A layer type under the name that the exporting tree gave it.
_RENAMED = {"fc": "linear"}
# The affine blocks after the sum of the branches and after the activation.
_SUM_AFFINE, _ACTIVATION_AFFINE = "mobile_one_block", "whswish_b"
# These exist for training only: no inference program has them.
TRAINING_ONLY = ("head.thresh.", "head.gtc_head.", "head.before_gtc.", "head.sar_head.")


class MappingError(ValueError):
    """The inference program does not belong to this architecture."""


def rep_layers(model: Any) -> list[Any]:
    """Return PPLCNetV3's re-parameterisable layers, in the order of their creation."""
    return [layer for layer in model.sublayers() if hasattr(layer, "conv_kxk")]


def assign(model: Any, arrays: dict[str, Array]) -> None:
    """Copy the parameters of an inference program into ``model``, in place.

    A fused convolution goes to the first k×k branch of its layer, followed by a batch norm that
    does nothing but add the fused bias (mean 0, variance 1−eps, scale 1, shift = bias). The other
    branches get scale and shift 0 and, where they have one, a kernel of zeros, so that importance
    criteria see no random weights there.

    Raises:
        MappingError: counts or shapes do not agree; the message names the pair.
    """
    program = _by_kind((name, name, array) for name, array in arrays.items())
    layers = rep_layers(model)
    fused_prefixes = tuple(
        f"{name}." for name, layer in model.named_sublayers() if hasattr(layer, "conv_kxk")
    )
    tensors = [*model.named_parameters(), *model.named_buffers()]
    plain = _by_kind(
        (tensor.name, name, tensor)
        for name, tensor in tensors
        if not name.startswith(fused_prefixes + TRAINING_ONLY)
    )
    convolutions = program.get("conv2d", [])
    fused = convolutions[len(convolutions) - len(layers) :]
    program["conv2d"] = convolutions[: len(convolutions) - len(layers)]

    for kind in _KINDS:
        _copy_all(kind, program.get(kind, []), plain.get(kind, []))
    _copy_all("affine", program.get(_SUM_AFFINE, []), [_affine_slots(la.lab) for la in layers])
    # A stride of 2 leaves out the activation, and with it its affine block.
    active = [_affine_slots(layer.act.lab) for layer in layers if layer.stride != 2]
    _copy_all("affine of activation", program.get(_ACTIVATION_AFFINE, []), active)
    if len(fused) != len(layers):
        raise MappingError(f"{len(fused)} fused convolutions for {len(layers)} layers")
    for layer, (_, slots) in zip(layers, fused, strict=True):
        _put_fused(layer, slots["w_0"], slots["b_0"])


def branch_norms(layer: Any) -> Iterator[Any]:
    """Yield every batch norm of a re-parameterisable layer, that of the live branch first."""
    for branch in layer.conv_kxk:
        yield branch.bn
    if layer.conv_1x1 is not None:
        yield layer.conv_1x1.bn
    if layer.identity is not None:
        yield layer.identity


def _put_fused(layer: Any, kernel: Array, bias: Array) -> None:
    live = layer.conv_kxk[0]
    _set(live.conv.weight, kernel, "fused kernel")
    for norm in branch_norms(layer):
        channels = list(norm.weight.shape)
        norm.weight.set_value(np.zeros(channels, np.float32))
        norm.bias.set_value(np.zeros(channels, np.float32))
    _set(live.bn.bias, bias, "fused bias")
    live.bn.weight.set_value(np.ones_like(bias))
    live.bn._mean.set_value(np.zeros_like(bias))
    live.bn._variance.set_value(np.full_like(bias, 1.0 - live.bn._epsilon))
    dead = list(layer.conv_kxk)[1:] + ([layer.conv_1x1] if layer.conv_1x1 is not None else [])
    for branch in dead:
        branch.conv.weight.set_value(np.zeros(list(branch.conv.weight.shape), np.float32))


def _by_kind(named: Iterable[tuple[str, str, Any]]) -> dict[str, list[tuple[str, Slots]]]:
    """Group (Paddle's name, readable name, value) into ``{kind: [(layer, {slot: value})]}``.

    The layers of a kind are in the order of their counters, which is that of their creation.
    """
    layers: dict[str, dict[int, tuple[str, Slots]]] = defaultdict(dict)
    for paddle_name, name, value in named:
        match = _NAME.match(paddle_name)
        if match is None:
            continue
        kind = _RENAMED.get(match["kind"], match["kind"])
        layer = layers[kind].setdefault(int(match["counter"]), (name.rpartition(".")[0], {}))
        layer[1][match["slot"]] = value
    return {kind: [found[counter] for counter in sorted(found)] for kind, found in layers.items()}


def _affine_slots(block: Any) -> tuple[str, Slots]:
    return block.scale.name, {"w_0": block.scale, "w_1": block.bias}


def _copy_all(kind: str, program: list[tuple[str, Slots]], model: list[tuple[str, Slots]]) -> None:
    if len(program) != len(model):
        raise MappingError(f"{kind}: the program has {len(program)} layers, the model {len(model)}")
    for (source, arrays), (target, tensors) in zip(program, model, strict=True):
        if sorted(arrays) != sorted(tensors):
            raise MappingError(f"{source} has {sorted(arrays)}, {target} has {sorted(tensors)}")
        for slot, tensor in tensors.items():
            _set(tensor, arrays[slot], f"{source}.{slot} → {target}")


def _set(tensor: Any, array: Array, what: str) -> None:
    if list(tensor.shape) != list(array.shape):
        raise MappingError(f"{what}: {list(array.shape)} does not fit {list(tensor.shape)}")
    tensor.set_value(array)
