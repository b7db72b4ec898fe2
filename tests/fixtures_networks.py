"""PaddleOCR's detectors, each built, calibrated and traced once per session."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from architectures import DETECTORS

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.groups import ChannelGraph, find_groups
from ppocr_prune_plugin.graph.rep_sizes import follow_rep
from ppocr_prune_plugin.graph.trace import Program, trace
from ppocr_prune_plugin.holders import Holders
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.plan import GroupPlan

INPUTS = [([1, 3, 32, 64], "float32")]

Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Detector:
    """A float64 model in evaluation mode whose head returns all of its maps, as in training."""

    model: paddle.nn.Layer
    program: Program
    graph: ChannelGraph
    deployed: Program

    def tensors(self) -> dict[str, paddle.Tensor]:
        return tensors_of(self.model)

    def run(self) -> np.ndarray:
        """All maps of one fixed random image, ``[1, 3, 32, 64]``."""
        with paddle.no_grad():
            return self.model(image(1).astype("float64"))["maps"].numpy()


@pytest.fixture(scope="session")
def detector(tree: Path) -> Callable[[str], Detector]:
    """``detector(name)``: one of ``architectures.DETECTORS``; tests leave it as they find it."""
    use_tree(tree)
    return lru_cache(maxsize=None)(_detector)


def _detector(name: str) -> Detector:
    model = build(name)
    program = trace(model, INPUTS, training=True)
    deployed = trace(model, INPUTS, training=False)
    graph = follow_rep(model, find_groups(program))
    calibrate(model, image(4))
    model.to(dtype="float64")  # a deep random network multiplies rounding errors
    model.eval()
    model.head.training = True  # the head's own flag: its batch norms stay in evaluation mode
    return Detector(model, program, graph, deployed)


def build(name: str) -> paddle.nn.Layer:
    """A fresh model with random weights, the same in every run."""
    from ppocr.modeling.architectures import build_model

    paddle.seed(0)
    return build_model(copy.deepcopy(DETECTORS[name]))


def image(batch: int) -> paddle.Tensor:
    random = np.random.default_rng(batch)
    return paddle.to_tensor(random.standard_normal((batch, 3, 32, 64)).astype("float32"))


def tensors_of(model: paddle.nn.Layer) -> dict[str, paddle.Tensor]:
    """Parameters and buffers by structured name."""
    return dict([*model.named_parameters(), *model.named_buffers()])


def arrays_of(model: paddle.nn.Layer) -> Arrays:
    """Copies of all parameters and buffers."""
    return {name: tensor.numpy().copy() for name, tensor in tensors_of(model).items()}


def calibrate(model: paddle.nn.Layer, *inputs: paddle.Tensor) -> None:
    """Make a random network behave like a trained one.

    Scales, shifts and biases are drawn, so that leaving one of them away shows; then running
    statistics become those of the inputs, so that signals neither die nor grow with depth.
    """
    random = np.random.default_rng(1)
    for name, parameter in model.named_parameters():
        if len(parameter.shape) == 1:
            centre = 0.0 if name.endswith("bias") else 1.0
            drawn = centre + 0.3 * random.standard_normal(parameter.shape)
            parameter.set_value(drawn.astype("float32"))
    norms = [layer for layer in model.sublayers() if getattr(layer, "_variance", None) is not None]
    momenta = [layer._momentum for layer in norms]
    model.train()
    for layer in norms:
        layer._momentum = 0.0
    with paddle.no_grad():
        model(*inputs)
    for layer, momentum in zip(norms, momenta, strict=True):
        layer._momentum = momentum


def prune_along(
    model: paddle.nn.Layer, graph: ChannelGraph, plans: Sequence[GroupPlan], optimizer: Any
) -> surgery.Undo:
    """Prune a model, and cut along what its optimizer holds."""
    holders = Holders(model, {"optimizer": optimizer})
    undo = surgery.prune(model, graph, plans)
    holders.cut(surgery.kept_masks(graph, plans))
    return undo


@contextmanager
def zeroed(model: paddle.nn.Layer, members: Any, removed: list[int]) -> Iterator[None]:
    """Inside, the removed channels of these members are zero."""
    tensors = tensors_of(model)
    before: Arrays = {}
    for member in members:
        tensor = tensors[member.parameter]
        before.setdefault(member.parameter, tensor.numpy().copy())
        array = np.moveaxis(tensor.numpy().copy(), member.axis, 0)
        array[member.indices[removed].reshape(-1)] = 0
        tensor.set_value(np.ascontiguousarray(np.moveaxis(array, 0, member.axis)))
    try:
        yield
    finally:
        for name, array in before.items():
            tensors[name].set_value(array)
