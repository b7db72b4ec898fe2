"""What a network computes in inference mode, each operation with its size as a function of widths.

Channels of a value are found as the groups are: the rules map every value with the parameter
channels behind it, so that concatenations, residual sums and squeeze-and-excite blocks follow.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np

from ..graph.flow import NEUTRAL, ChannelFlow
from ..graph.groups import ChannelGraph, follow_channels
from ..graph.inference_mode import Axes
from ..graph.trace import Op, Program, Value
from ..ratios.costs import Size, Widths

# What an inference engine computes together with the convolution before it.
_FUSED_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "hardswish", "swish", "sigmoid", "gelu")
_UNARY = (*_FUSED_ACTIVATIONS, "hardsigmoid", "silu", "tanh", "scale", "softmax", "exp")
_BINARY = ("add", "subtract", "multiply", "divide", "maximum", "minimum")
_CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
_TRANSPOSED = ("conv2d_transpose", "depthwise_conv2d_transpose")


@dataclass(frozen=True)
class Operation:
    """One operation that takes time.

    ``kind`` and ``spec`` (strides, spatial size, …; plain data) say what it is, ``sizes`` how many
    channels it has: inputs and outputs of a convolution, channels of an elementwise operation.
    """

    kind: str
    spec: tuple[tuple[str, Any], ...]
    sizes: tuple[Size, ...]

    @property
    def key(self) -> str:
        """The operation without its channels, as text."""
        return " ".join([self.kind, *(f"{name}={_text(value)}" for name, value in self.spec)])

    def widths(self, widths: Widths) -> tuple[int, ...]:
        """Its numbers of channels when groups are that wide."""
        return tuple(size(widths) for size in self.sizes)


def _text(value: Any) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value)


def operations_of(
    program: Program, graph: ChannelGraph, axes: Mapping[str, Axes] | None = None
) -> list[Operation]:
    """The operations of a network in inference mode, in order.

    Args:
        program: the network in inference mode, traced.
        graph: channel groups of the network as it trains; parameters are matched by name.
        axes: where the axes of those parameters come from that only inference mode has.

    What has no channels that follow from the groups' widths, and operations that cost next to
    nothing, are left out.
    """
    return list(_Reader(program, follow_channels(program), graph, axes or {}).read())


class _Reader:
    def __init__(
        self, program: Program, flow: ChannelFlow, graph: ChannelGraph, made: Mapping[str, Axes]
    ) -> None:
        self.program, self.flow = program, flow
        self.groups = graph.groups
        self.owner = np.full(flow.count + 1, -1, dtype=np.int64)  # the last stands for NEUTRAL
        members: dict[tuple[str, int], list[tuple[int, Any]]] = {}
        for number, group in enumerate(graph.groups):
            for member in group.members:
                key = (member.parameter, member.axis)
                members.setdefault(key, []).append((number, member.indices.reshape(-1)))
        for name, shape in program.parameter_shapes.items():
            axes = made.get(name, [(name, axis) for axis in range(len(shape))])
            for axis, source in enumerate(axes):
                for number, indices in () if isinstance(source, int) else members.get(source, ()):
                    self.owner[flow.spans[name, axis] + indices] = number
        self.users: dict[Value, int] = {}
        for op in program.ops:
            for value in op.inputs:
                if value is not None:
                    self.users[value] = self.users.get(value, 0) + 1
        self.maker = {output: op for op in program.ops for output in op.outputs}

    def read(self) -> Iterator[Operation]:
        for op in self.program.ops:
            out = op.outputs[0] if op.outputs else None
            if out is None or out.shape is None or -1 in out.shape or not op.inputs:
                continue
            found = self._operation(op, out)
            if found is not None:
                yield found

    def _operation(self, op: Op, out: Value) -> Operation | None:
        x = op.inputs[0]
        if x is None or out.shape is None:
            return None
        name = op.name.rstrip("_")
        if name == "concat" and x.elements:
            return self._elementwise("concat", op, out, parts=len(x.elements))
        if x.shape is None or -1 in x.shape or x.parameter is not None:
            return None
        if name in _CONVOLUTIONS + _TRANSPOSED:
            return self._convolution(op, x, out, name in _TRANSPOSED)
        if name == "matmul":
            return self._matmul(op, x, out)
        if name in _UNARY:
            fused = name in _FUSED_ACTIVATIONS and self._behind_convolution(x)
            return None if fused else self._elementwise(name, op, out)
        if name in _BINARY:
            return self._binary(name, op, out)
        if name in ("nearest_interp", "bilinear_interp") and len(x.shape) == 4:
            return self._elementwise(name, op, out, source=x.shape[2:])
        if name == "pool2d" and len(x.shape) == 4 and out.shape[2:] == (1, 1):
            return self._elementwise("global_pool", op, x)
        return None

    def _convolution(self, op: Op, x: Value, out: Value, transposed: bool) -> Operation | None:
        weight = op.inputs[1]
        if weight is None or weight.shape is None or x.shape is None or out.shape is None:
            return None
        if len(x.shape) != 4 or str(op.attrs.get("data_format", "NCHW")) not in (
            "NCHW",
            "AnyLayout",
        ):
            return None
        groups = int(op.attrs.get("groups", 1))
        inputs, outputs = self._size(x, 1), self._size(out, 1)
        depthwise = groups > 1 and groups == x.shape[1]
        spec = {
            "kernel": tuple(weight.shape[2:]),
            "stride": tuple(op.attrs.get("strides", (1, 1))),
            "padding": self._padding(op),
            "dilation": tuple(op.attrs.get("dilations", (1, 1))),
            "groups": out.shape[1] // groups if depthwise else groups,
            # Engines may take a convolution for themselves only along with what follows it.
            "bias": self._has_bias(out),
            "batch": x.shape[0],
            "pixels": tuple(x.shape[2:]),
        }
        kind = ("depthwise" if depthwise else "conv") + ("_transpose" if transposed else "")
        sizes = (inputs,) if depthwise else (inputs, outputs)
        return Operation(kind, tuple(spec.items()), sizes)

    @staticmethod
    def _padding(op: Op) -> Any:
        algorithm = str(op.attrs.get("padding_algorithm", "EXPLICIT"))
        return tuple(op.attrs.get("paddings", (0, 0))) if algorithm == "EXPLICIT" else algorithm

    def _matmul(self, op: Op, x: Value, out: Value) -> Operation | None:
        weight = op.inputs[1]
        if weight is None or weight.parameter is None or x.shape is None or out.shape is None:
            return None
        rows = prod(x.shape[:-1])
        sizes = (self._size(x, -1), self._size(out, -1))
        return Operation("linear", (("rows", rows),), sizes)

    def _binary(self, name: str, op: Op, out: Value) -> Operation | None:
        a, b = op.inputs[0], op.inputs[1]
        if a is None or b is None or a.shape is None or b.shape is None or out.shape is None:
            return None
        if a.shape != out.shape:
            a, b = b, a
        if b.shape == out.shape:
            with_what = "same"
        elif len(b.shape or ()) == len(out.shape) and prod(b.shape or ()) > 1:
            if self._is_bias(b) and self._behind_convolution(a):
                return None  # part of the convolution
            with_what = "channel"
        else:
            with_what = "number"
        return self._elementwise(name, op, out, operand=with_what)

    def _elementwise(self, kind: str, op: Op, value: Value, **spec: Any) -> Operation | None:
        """An operation that costs so much per element of a value."""
        shape = value.shape
        assert shape is not None
        if len(shape) == 4:
            axis, pixels = 1, tuple(shape[2:])
        elif len(shape) == 3:
            axis, pixels = 2, (shape[1],)
        else:
            return None
        spec = {"batch": shape[0], "pixels": pixels, **spec}
        return Operation(kind, tuple(spec.items()), (self._size(value, axis),))

    def _has_bias(self, value: Value) -> bool:
        """Whether a bias, a batch norm or an activation follows that is computed with it."""
        if self.users.get(value, 0) != 1:
            return False
        (op,) = (op for op in self.program.ops if value in op.inputs)
        if op.name == "add":
            other = op.inputs[1] if op.inputs[0] is value else op.inputs[0]
            return other is not None and self._is_bias(other)
        return op.name.startswith("batch_norm") or op.name in _FUSED_ACTIVATIONS

    def _is_bias(self, value: Value) -> bool:
        """One parameter, maybe reshaped."""
        if value.parameter is not None:
            return True
        op = self.maker.get(value)
        source = op.inputs[0] if op is not None and op.name == "reshape" else None
        return source is not None and source.parameter is not None

    def _behind_convolution(self, value: Value) -> bool:
        """Whether a value, used once, comes out of a convolution, its bias or its batch norm."""
        op = self.maker.get(value)
        if op is None or self.users.get(value, 0) != 1:
            return False
        if op.name in _CONVOLUTIONS:
            return True
        x = op.inputs[0] if op.inputs else None
        if x is None:
            return False
        bias = op.name == "add" and op.inputs[1] is not None and self._is_bias(op.inputs[1])
        return (op.name.startswith("batch_norm") or bias) and self._behind_convolution(x)

    def _size(self, value: Value, axis: int) -> Size:
        """Channels of a value along an axis, as a function of the widths."""
        assert value.shape is not None
        axis %= len(value.shape)
        total = value.shape[axis]
        maps = self.flow.channel_map(value, (axis,))
        if maps.shape[axis] != total:
            return Size(total)
        # What runs along other axes as well is cut along one of them only; it stands still here.
        atoms = maps.max(axis=tuple(k for k in range(maps.ndim) if k != axis))
        owners = self.owner[np.where(atoms == NEUTRAL, self.flow.count, atoms)]
        numbers, counts = np.unique(owners[owners >= 0], return_counts=True)
        parts, pruned = [], 0
        for number, count in zip(numbers.tolist(), counts.tolist(), strict=True):
            group = self.groups[number]
            places = count // group.size
            if places:
                parts.append((group.name, places))
                pruned += places * group.size
        return Size(total - pruned, tuple(parts))
