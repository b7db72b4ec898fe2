"""Which parameter of an exported inference program belongs to which layer of the training model.

A program is written down in the order in which the model's forward ran, so the layers that hold
parameters are paired kind by kind in that order, and every pair must agree in shape. What the
program has fused is found by fusing: a second model is built and told to ``rep()``, as PaddleOCR's
export does it, and what it then runs instead of what it ran before is where the fused kernels
belong. Newer trees fuse parts that older exports left as they were; these parts are left then.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]
Slots = dict[str, Any]  # of one layer, by Paddle's suffix: w_0, b_0, …
ByKind = dict[str, list[tuple[str, Slots]]]

_NAME = re.compile(r"(?P<layer>(?P<kind>.+?)(?:_unnamed)?_\d+)\.(?P<slot>[wb]_\d+)$")
# A kind of layer under the other names that some tree gives it.
_KINDS = {
    "fc": "linear",
    "batch_norm2d": "batch_norm",
    "learnable_affine_block": "affine",
    "mobile_one_block": "affine",
    "whswish_b": "affine",
}
# Sub-networks that an export may have left as they were trained, in the order of trying.
_WHOLE: tuple[tuple[str, ...], ...] = ((), ("head",), ("neck",), ("head", "neck"))


class MappingError(ValueError):
    """The inference program does not belong to this architecture."""


def assign(model: Any, build: Callable[[], Any], arrays: dict[str, Array], x: Array) -> list[Any]:
    """Copy the parameters of an inference program into ``model``, in place.

    A fused convolution goes to the first branch that has its shape, followed by a batch norm that
    does nothing but add the fused bias (mean 0, variance 1−eps, scale 1, shift = bias). The other
    branches get kernels of zeros, and scale and shift 0, so that importance criteria see no random
    weights there. A sum's own batch norm passes on what it gets.

    Args:
        model: the training model, in eval mode.
        build: gives another model of the same architecture, in eval mode.
        arrays: ``{Paddle's name: array}`` in the order of use.
        x: any input (N, C, H, W).

    Returns:
        The batch norms of what was fused, whose statistics say nothing (see :mod:`.statistics`).

    Raises:
        MappingError: counts or shapes do not agree; the message names the pair.
    """
    program = _program_by_kind(arrays)
    for whole in (*_WHOLE, ()):
        twin = build()
        before = dict(twin.named_sublayers())
        trained = _calls(twin, x)
        fuse(twin, whole)
        deployed = _calls(twin, x)
        running: ByKind = defaultdict(list)
        for call in deployed:
            kind, slots = _slots(call.layer)
            running[kind].append((call.name, slots))
        if _counts(running) == _counts(program):
            break
    layers = dict(model.named_sublayers())
    places = {call.name: _place(call, before, trained, deployed) for call in deployed}
    fused: list[tuple[str, Slots, _Branches]] = []
    for kind in sorted(program.keys() | running.keys()):
        for (source, slots), (target, tensors) in _paired(kind, program, running):
            for slot, tensor in tensors.items():
                _check(tensor, slots[slot], f"{source}.{slot} → {target}")
            names = places[target]
            if names is None:
                for slot, tensor in _slots(layers[target])[1].items():
                    tensor.set_value(slots[slot])
            else:
                calls = [call for call in trained if call.name in names]
                fused.append((target, slots, _Branches(calls, layers, slots["w_0"])))
    _put_fused(model, build, fused, whole)
    return [norm for _, _, branches in fused for norm in branches.norms]


def fuse(model: Any, whole: Collection[str] = ()) -> None:
    """Make ``model``, in place, what PaddleOCR exports: ``rep()`` on every layer that has it, but
    not on those in the sub-networks ``whole``."""
    for name, layer in model.named_sublayers():
        if name.partition(".")[0] in whole:
            continue
        if hasattr(layer, "rep") and not getattr(layer, "is_repped", False):
            layer.rep()


@dataclass(frozen=True)
class _Call:
    """One run of a layer with parameters of its own."""

    name: str
    layer: Any
    x: Any
    y: Any

    @property
    def is_norm(self) -> bool:
        return hasattr(self.layer, "_variance")


class _Branches:
    """The convolutions and batch norms that become one convolution.

    ``calls`` are their runs, ``layers`` the model's by name, ``kernel`` what they become.
    """

    def __init__(self, calls: list[_Call], layers: dict[str, Any], kernel: Array) -> None:
        norms = [call for call in calls if call.is_norm]
        convolutions = [call for call in calls if not call.is_norm]
        fitting = [c for c in convolutions if list(c.layer.weight.shape) == list(kernel.shape)]
        if not fitting:
            names = ", ".join(call.name for call in calls)
            raise MappingError(f"none of {names} has the fused kernel's shape {list(kernel.shape)}")
        live = fitting[0]
        self.live = layers[live.name]
        self.norms = [layers[call.name] for call in norms]
        self._dead = [layers[call.name] for call in convolutions if call is not live]
        # A batch norm passes values on where it follows the live convolution or a sum of branches;
        # it is silenced where it follows another convolution, or is a branch by itself.
        silent = [live.x, *(call.y for call in convolutions if call is not live)]
        passing = [call for call in norms if not any(call.x is tensor for tensor in silent)]
        self._passing = [layers[call.name] for call in passing]
        own = [layers[call.name] for call in passing if call.x is live.y]
        self._bias_owner = (own or self._passing or [self.live])[0]

    def clear(self) -> None:
        """Zero every kernel and shift; let the live branch's values through."""
        for convolution in (self.live, *self._dead):
            for tensor in _slots(convolution)[1].values():
                tensor.set_value(np.zeros(tensor.shape, np.float32))
        for norm in self.norms:
            zeros = np.zeros(norm.weight.shape, np.float32)
            norm.bias.set_value(zeros)
            norm._mean.set_value(zeros)
            norm._variance.set_value(zeros + np.float32(1.0 - norm._epsilon))
            norm.weight.set_value(zeros + any(norm is passing for passing in self._passing))

    def put(self, kernel: Array, bias: Array) -> None:
        """Set what the live branch computes."""
        self.live.weight.set_value(kernel)
        self._bias_owner.bias.set_value(bias)


def _put_fused(
    model: Any,
    build: Callable[[], Any],
    fused: list[tuple[str, Slots, _Branches]],
    whole: Collection[str],
) -> None:
    for _, _, branches in fused:
        branches.clear()
    if not fused:
        return
    # What is left of a branch without parameters: a sum may hold its input itself.
    rest = build()
    rest.set_state_dict(model.state_dict())
    fuse(rest, whole)
    left = dict(rest.named_sublayers())
    for name, slots, branches in fused:
        branches.put(
            slots["w_0"] - left[name].weight.numpy(), slots["b_0"] - left[name].bias.numpy()
        )


def _calls(model: Any, x: Array) -> list[_Call]:
    """Run ``model`` in eval mode; return the runs of its layers with parameters, in order."""
    import paddle

    calls: list[_Call] = []

    def record(name: str) -> Callable[[Any, Any, Any], None]:
        return lambda layer, inputs, output: calls.append(_Call(name, layer, inputs[0], output))

    hooks = [
        layer.register_forward_post_hook(record(name))
        for name, layer in model.named_sublayers()
        if _slots(layer)[1]
    ]
    model.eval()
    try:
        with paddle.no_grad():
            model(paddle.to_tensor(x))
    finally:
        for hook in hooks:
            hook.remove()
    return calls


def _place(
    call: _Call, before: dict[str, Any], trained: list[_Call], deployed: list[_Call]
) -> set[str] | None:
    """Names of the trained layers that a deployed one stands for; None: it was there before."""
    still = {other.name for other in deployed if before.get(other.name) is other.layer}
    name = call.name
    if name in still:
        return None
    in_place = name in before and bool(_slots(before[name])[1])
    folder = name if name in before and not in_place else name.rpartition(".")[0]
    gone = [
        other
        for other in trained
        if other.name.startswith(f"{folder}.") and other.name not in still
    ]
    if not in_place:
        return {other.name for other in gone}
    # A new convolution in the old one's place has taken in the branches beside it, which read what
    # the old one read, and the batch norms that read any of these.
    inputs = [other.x for other in gone if other.name == name]
    branches = [o for o in gone if not o.is_norm and any(o.x is tensor for tensor in inputs)]
    norms = [o for o in gone if o.is_norm and any(o.x is branch.y for branch in branches)]
    return {other.name for other in (*branches, *norms)}


def _slots(layer: Any) -> tuple[str, Slots]:
    """Kind, parameters and buffers of a layer, without those of its sublayers."""
    kind, slots = "", {}
    for tensor in (*layer.parameters(False), *layer.buffers(False)):
        match = _NAME.match(tensor.name)
        if match:
            kind = _KINDS.get(match["kind"], match["kind"])
            slots[match["slot"]] = tensor
    return kind, slots


def _program_by_kind(arrays: dict[str, Array]) -> ByKind:
    """Group ``{Paddle's name: array}`` into ``{kind: [(layer, {slot: array})]}``, in its order."""
    layers: dict[str, dict[str, Slots]] = defaultdict(dict)
    for name, array in arrays.items():
        match = _NAME.match(name)
        if match:
            kind = _KINDS.get(match["kind"], match["kind"])
            layers[kind].setdefault(match["layer"], {})[match["slot"]] = array
    return {kind: list(found.items()) for kind, found in layers.items()}


def _counts(layers: ByKind) -> dict[str, int]:
    return {kind: len(found) for kind, found in layers.items()}


def _paired(kind: str, program: ByKind, model: ByKind) -> Iterator[Any]:
    sources, targets = program.get(kind, []), model.get(kind, [])
    if len(sources) != len(targets):
        raise MappingError(
            f"{kind}: the program has {len(sources)} layers, the model {len(targets)}"
        )
    for (source, arrays), (target, tensors) in zip(sources, targets, strict=True):
        if sorted(arrays) != sorted(tensors):
            raise MappingError(f"{source} has {sorted(arrays)}, {target} has {sorted(tensors)}")
        yield (source, arrays), (target, tensors)


def _check(tensor: Any, array: Array, what: str) -> None:
    if list(tensor.shape) != list(array.shape):
        raise MappingError(f"{what}: {list(array.shape)} does not fit {list(tensor.shape)}")
