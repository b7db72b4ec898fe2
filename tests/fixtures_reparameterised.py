"""Small networks whose ``rep()`` does what that of newer PaddleOCR networks does.

Their traits: ``rep()`` calls inner ones, or only sets a flag, or folds a batch norm; new layers are
built from sizes that the layer keeps under names of its own; branches are dilated; a layer stands
in for another one after ``rep()``; heads serve training alone; two sizes are equal by chance.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import paddle
from paddle import nn
from paddle.nn import functional

IMAGE = [([1, 3, 32, 48], "float32")]


def _folded(convolution: nn.Layer, norm: nn.Layer) -> tuple[paddle.Tensor, paddle.Tensor]:
    """Kernel and bias of a convolution with its batch norm inside."""
    scale = norm.weight / paddle.sqrt(norm._variance + norm._epsilon)
    return convolution.weight * scale.reshape([-1, 1, 1, 1]), norm.bias - norm._mean * scale


def _fill(layer: nn.Layer, kernel: paddle.Tensor, bias: paddle.Tensor) -> nn.Layer:
    layer.weight.set_value(kernel)
    layer.bias.set_value(bias)
    return layer


class ConvNorm(nn.Layer):
    """Folds its batch norm; the new convolution is built from the old one's own numbers."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.is_repped = False
        self.conv = nn.Conv2D(inputs, outputs, kernel, stride, kernel // 2, bias_attr=False)
        self.bn = nn.BatchNorm2D(outputs)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.conv(x)
        return functional.relu(x if self.is_repped else self.bn(x))

    def rep(self) -> None:
        old = self.conv
        new = nn.Conv2D(
            old._in_channels, old._out_channels, old._kernel_size, old._stride, old._padding
        )
        self.conv = _fill(new, *_folded(old, self.bn))
        del self.bn
        self.is_repped = True


class DilatedBranches(nn.Layer):
    """A large depthwise kernel with a dilated small one beside it; sizes are called ``channels``
    and ``kernel_size``, and happen to be equal in one of the networks."""

    def __init__(self, channels: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.channels, self.kernel_size = channels, kernel_size
        self.is_repped = False
        self.large = self._convolution(kernel_size, 1)
        self.large_bn = nn.BatchNorm2D(channels)
        self.small = self._convolution(3, 2)
        self.small_bn = nn.BatchNorm2D(channels)

    def _convolution(self, kernel: int, dilation: int) -> nn.Layer:
        padding = dilation * (kernel - 1) // 2
        return nn.Conv2D(
            self.channels, self.channels, kernel, padding=padding, dilation=dilation,
            groups=self.channels, bias_attr=False,
        )  # fmt: skip

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.is_repped:
            return self.merged(x)
        return self.large_bn(self.large(x)) + self.small_bn(self.small(x))

    def rep(self) -> None:
        kernel, bias = _folded(self.large, self.large_bn)
        small, small_bias = _folded(self.small, self.small_bn)
        array = kernel.numpy()
        first = self.kernel_size // 2 - 2
        array[:, :, first : first + 5 : 2, first : first + 5 : 2] += small.numpy()
        self.merged = nn.Conv2D(
            self.channels, self.channels, self.kernel_size, padding=self.kernel_size // 2,
            groups=self.channels,
        )  # fmt: skip
        _fill(self.merged, paddle.to_tensor(array), bias + small_bias)
        del self.large, self.large_bn, self.small, self.small_bn
        self.is_repped = True


class Stem(nn.Layer):
    """Only passes the call on."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.is_repped = False
        self.first = ConvNorm(3, width, 3, 2)
        self.second = ConvNorm(width, width, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.second(self.first(x))

    def rep(self) -> None:
        self.first.rep()
        self.second.rep()
        self.is_repped = True


class Mixer(nn.Layer):
    """A residual block: depthwise, then a hidden width with GELU; a 1x1 and a 3x3 in a row become
    one, whose input is the one's and whose output is the other's."""

    def __init__(self, width: int, hidden: int, kernel_size: int = 7) -> None:
        super().__init__()
        self.is_repped = False
        self.widths = [width, hidden]
        self.token = DilatedBranches(width, kernel_size)
        self.expand = nn.Conv2D(width, hidden, 1, bias_attr=False)
        self.spread = nn.Conv2D(hidden, hidden, 3, padding=1, bias_attr=False)
        self.compress = ConvNorm(hidden, width, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        y = self.token(x)
        y = self.fused(y) if self.is_repped else self.spread(self.expand(y))
        return x + self.compress(functional.gelu(y))

    def rep(self) -> None:
        self.token.rep()
        self.compress.rep()
        width, hidden = self.widths
        self.fused = nn.Conv2D(width, hidden, 3, padding=1, bias_attr=False)
        outer, inner = self.spread.weight.numpy(), self.expand.weight.numpy()[:, :, 0, 0]
        product = np.einsum("ohyx,hi->oiyx", outer, inner)
        self.fused.weight.set_value(paddle.to_tensor(product))
        del self.expand, self.spread
        self.is_repped = True


class Head(nn.Layer):
    """Switches a flag and folds a batch norm by replacing the layers under their old names."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.is_repped = False
        self.conv1 = nn.Conv2D(width, width // 2, 3, padding=1, bias_attr=False)
        self.bn1 = nn.BatchNorm2D(width // 2)
        self.conv2 = nn.Conv2DTranspose(width // 2, 1, 2, 2)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return functional.sigmoid(self.conv2(functional.relu(self.bn1(self.conv1(x)))))

    def rep(self) -> None:
        old = self.conv1
        new = nn.Conv2D(old._in_channels, old._out_channels, 3, padding=1)
        self.conv1, self.bn1 = _fill(new, *_folded(old, self.bn1)), nn.Identity()
        self.is_repped = True


class Heads(nn.Layer):
    """A head, and others that serve training alone; its ``rep()`` calls theirs."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.is_repped = False
        self.binarize, self.thresh, self.auxiliary = Head(width), Head(width), Head(width)

    def forward(self, x: paddle.Tensor) -> Any:
        if not self.training:
            return self.binarize(x)
        return self.binarize(x), self.thresh(x), self.auxiliary(x)

    def rep(self) -> None:
        for head in (self.binarize, self.thresh, self.auxiliary):
            head.rep()
        self.is_repped = True


class Network(nn.Layer):
    """Stem, mixers, heads. All of the layers with ``rep()`` are nested."""

    def __init__(self, width: int = 12, hidden: int = 20, kernel_size: int = 7) -> None:
        super().__init__()
        self.stem = Stem(width)
        self.mixers = nn.Sequential(
            Mixer(width, hidden, kernel_size), Mixer(width, width, kernel_size)
        )
        self.heads = Heads(width)

    def forward(self, x: paddle.Tensor) -> Any:
        return self.heads(self.mixers(self.stem(x)))


class Stubborn(nn.Layer):
    """``rep()`` builds a layer with a number that stands in its code."""

    def __init__(self) -> None:
        super().__init__()
        self.is_repped = False
        self.conv = nn.Conv2D(3, 8, 3, padding=1)
        self.out = nn.Conv2D(8, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.out(functional.relu(self.conv(x)))

    def rep(self) -> None:
        self.conv = _fill(nn.Conv2D(3, 8, 3, padding=1), self.conv.weight, self.conv.bias)
        self.is_repped = True


class AroundStubborn(nn.Layer):
    """A network with one layer that cannot be narrower, and others that can."""

    def __init__(self) -> None:
        super().__init__()
        self.stubborn = Stubborn()
        self.mixer = Mixer(4, 10)
        self.last = nn.Conv2D(4, 2, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.last(self.mixer(self.stubborn(x)))
