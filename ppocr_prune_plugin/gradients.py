"""Gradients of a loss, taken without leaving a trace in the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .chance import without_chance
from .graph.live import untrained

Array = npt.NDArray[Any]


def batch_gradients(
    model: paddle.nn.Layer, losses: Sequence[Callable[[], paddle.Tensor]]
) -> list[dict[str, Array]]:
    """Parameter name → gradient, for each loss by itself.

    The model runs as it trains, but :func:`without_chance`. Its weights, buffers (running
    statistics) and modes are afterwards what they were, and no gradient is left.

    Args:
        model: the network.
        losses: each runs one batch through the model and returns the loss, a scalar.
    """
    updated = list(untrained(model).values())
    values = [tensor.numpy().copy() for tensor in updated]
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    result = []
    model.train()
    try:
        with without_chance(model):
            model.clear_gradients(set_to_zero=False)
            for loss in losses:
                loss().backward()
                result.append(
                    {
                        name: parameter.grad.numpy().astype(np.float32)
                        for name, parameter in model.named_parameters()
                        if parameter.grad is not None
                    }
                )
                model.clear_gradients(set_to_zero=False)
        return result
    finally:
        model.clear_gradients(set_to_zero=False)
        for layer, mode in modes:
            layer.training = mode
        for tensor, value in zip(updated, values, strict=True):
            tensor.set_value(value)
