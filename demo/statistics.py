"""Give recovered batch norms the statistics of their real input, without changing the function.

A fused network knows nothing of the statistics it was trained with. Recovered with mean 0 and
variance 1−eps it is exact in eval mode, but train mode normalises by the batch, which is another
function. With mean and variance measured, and the difference folded into scale and shift, eval
mode computes what it did and train mode starts from it.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt


class _Moments:
    """Running sums of one batch norm's input, per channel, in double precision."""

    def __init__(self) -> None:
        self.count = 0
        self.total: Any = 0.0
        self.squares: Any = 0.0

    def hook(self, layer: Any, inputs: tuple[Any, ...]) -> None:
        x = inputs[0]
        # Reduced in Paddle: feature maps are large, and NumPy would copy each of them.
        pixels = x.shape[0] * x.shape[2] * x.shape[3]
        mean = x.mean([0, 2, 3])
        spread = ((x - mean.reshape([1, -1, 1, 1])) ** 2).mean([0, 2, 3])
        mean = mean.numpy().astype(np.float64)
        self.count += pixels
        self.total = self.total + pixels * mean
        self.squares = self.squares + pixels * (spread.numpy().astype(np.float64) + mean**2)

    def mean_and_variance(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        mean = self.total / self.count
        variance = np.maximum(self.squares / self.count - mean**2, 0.0)
        return mean.astype(np.float32), variance.astype(np.float32)


def calibrate(model: Any, norms: Sequence[Any], batches: Iterable[npt.NDArray[np.float32]]) -> None:
    """Measure and fold, in place, for these batch norms of ``model``.

    ``batches`` are network inputs (N, 3, H, W), normalised as in training. The model must compute
    the wanted function in eval mode; it is left in eval mode. Batch norms that the file brought
    along whole keep the statistics they were trained with.

    Raises:
        ValueError: ``batches`` is empty.
    """
    import paddle

    moments = [_Moments() for _ in norms]
    model.eval()
    hooks = [
        norm.register_forward_pre_hook(moment.hook)
        for norm, moment in zip(norms, moments, strict=True)
    ]
    try:
        with paddle.no_grad():
            for batch in batches:
                model(paddle.to_tensor(batch))
    finally:
        for hook in hooks:
            hook.remove()
    for norm, moment in zip(norms, moments, strict=True):
        if not moment.count:
            raise ValueError("calibration needs at least one image")
        _fold(norm, *moment.mean_and_variance())


def _fold(norm: Any, mean: npt.NDArray[np.float32], variance: npt.NDArray[np.float32]) -> None:
    """Change the statistics of ``norm``; its eval-mode function stays what it is."""
    old_mean, old_variance = norm._mean.numpy(), norm._variance.numpy()
    slope = norm.weight.numpy() / np.sqrt(old_variance + norm._epsilon)
    offset = norm.bias.numpy() - slope * old_mean
    norm._mean.set_value(mean)
    norm._variance.set_value(variance)
    norm.weight.set_value(slope * np.sqrt(variance + norm._epsilon))
    norm.bias.set_value(offset + slope * mean)
