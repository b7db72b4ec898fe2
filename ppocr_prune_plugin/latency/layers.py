"""One operation as a network of its own, to be exported and timed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import paddle
from paddle import nn
from paddle.nn import functional

Shapes = list[list[int]]


class _Function(nn.Layer):
    """A function of tensors.

    Paddle Inference loads no network without a parameter, so there is one beside it.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.function = function
        self.number = self.create_parameter([1])


class _Unary(_Function):
    def forward(self, x: paddle.Tensor) -> Any:
        return self.function(x), self.number * 2


class _Binary(_Function):
    def forward(self, x: paddle.Tensor, y: paddle.Tensor) -> Any:
        return self.function(x, y), self.number * 2


def build(kind: str, spec: Mapping[str, Any], sizes: Sequence[int]) -> tuple[nn.Layer, Shapes]:
    """A layer that does only this, with as many channels, and the shapes of what it takes.

    Args: as in :class:`~.operations.Operation`.
    """
    if kind == "linear":
        return nn.Linear(sizes[0], sizes[1]), [[spec["rows"], sizes[0]]]
    if kind.startswith(("conv", "depthwise")):
        return _convolution(kind, spec, sizes), [[spec["batch"], sizes[0], *spec["pixels"]]]
    shape = _shape(spec, sizes[0])
    if kind == "concat":
        return _concat(spec, shape)
    if kind.endswith("_interp"):
        return _interpolation(kind, spec, shape)
    if kind == "global_pool":
        return _Unary(nn.AdaptiveAvgPool2D(1)), [shape]
    if "operand" in spec:
        return _binary(kind, spec["operand"], shape)
    if kind == "scale":
        return _Unary(lambda x: paddle.scale(x, 2.0, 1.0)), [shape]
    return _Unary(getattr(functional, kind, None) or getattr(paddle, kind)), [shape]


def _shape(spec: Mapping[str, Any], channels: int) -> list[int]:
    pixels = list(spec["pixels"])
    batch = spec["batch"]
    return [batch, channels, *pixels] if len(pixels) == 2 else [batch, *pixels, channels]


def _convolution(kind: str, spec: Mapping[str, Any], sizes: Sequence[int]) -> nn.Layer:
    depthwise = kind.startswith("depthwise")
    inputs = sizes[0]
    outputs = inputs * spec["groups"] if depthwise else sizes[1]
    layer = nn.Conv2DTranspose if kind.endswith("_transpose") else nn.Conv2D
    padding = spec["padding"]
    return layer(
        inputs,
        outputs,
        list(spec["kernel"]),
        stride=list(spec["stride"]),
        padding=padding if isinstance(padding, str) else list(padding),
        dilation=list(spec["dilation"]),
        groups=inputs if depthwise else spec["groups"],
        bias_attr=None if spec["bias"] else False,
    )


def _concat(spec: Mapping[str, Any], shape: list[int]) -> tuple[nn.Layer, Shapes]:
    parts = min(spec["parts"], 8)
    axis = 1 if len(shape) == 4 else 2
    own = list(shape)
    own[axis] = max(shape[axis] // parts, 1)
    return _Unary(lambda x: paddle.concat([x] * parts, axis=axis)), [own]


def _interpolation(kind: str, spec: Mapping[str, Any], shape: list[int]) -> tuple[nn.Layer, Shapes]:
    # As PaddleOCR's necks do: by a factor where it is whole, else to a size.
    source, pixels = spec["source"], spec["pixels"]
    factors = [new // old for new, old in zip(pixels, source, strict=True)]
    whole = all(
        old * factor == new for old, factor, new in zip(source, factors, pixels, strict=True)
    )
    how = {"scale_factor": factors[0]} if whole and len(set(factors)) == 1 else {"size": pixels}
    mode = kind.partition("_")[0]
    return (
        _Unary(lambda x: functional.interpolate(x, mode=mode, **how)),
        [[shape[0], shape[1], *source]],
    )


def _binary(kind: str, operand: str, shape: list[int]) -> tuple[nn.Layer, Shapes]:
    function = getattr(paddle, kind)
    if operand == "same":
        return _Binary(function), [shape, shape]
    channels = [shape[0], shape[1], 1, 1] if len(shape) == 4 else [1, 1, shape[2]]
    return _Binary(function), [shape, channels if operand == "channel" else [1]]
