"""Which plan a live model carries, and which file its weights are from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import paddle

from ...plan import PruningPlan

_KEY = "_ppocr_prune_plan"
_BESIDE = "_ppocr_prune_beside"
_FILE = "_ppocr_prune_file"
_LOADED = "_ppocr_prune_loaded"


def inner(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """The network inside a ``DataParallel``, or the model itself."""
    return getattr(model, "_layers", model)


def plan_of(model: paddle.nn.Layer) -> PruningPlan | None:
    """The plan that the model was pruned with; None for an unpruned one."""
    return inner(model).__dict__.get(_KEY)


def set_plan(model: paddle.nn.Layer, plan: PruningPlan) -> None:
    """Remember the plan; it goes along with copies of the model, and never into a state dict."""
    inner(model).__dict__[_KEY] = plan


def is_of_pruned(model: paddle.nn.Layer) -> bool:
    """Whether the network lost channels or characters, or another one of the same distillation
    model did."""
    return plan_of(model) is not None or _BESIDE in inner(model).__dict__


def set_of_pruned(model: paddle.nn.Layer) -> None:
    """Remember that another network of the same model was pruned, or that this one's weights say
    that it lost characters."""
    inner(model).__dict__[_BESIDE] = True


def file_of(model: paddle.nn.Layer) -> Path | None:
    """The weights file that was loaded into the network last; None where there was none."""
    return inner(model).__dict__.get(_FILE)


def set_file(model: paddle.nn.Layer, file: Path) -> None:
    """Remember the weights file that is loaded into the network."""
    inner(model).__dict__[_FILE] = file


def loaded(model: paddle.nn.Layer) -> frozenset[str]:
    """Names of the network's tensors that weights files gave values to, so far."""
    return inner(model).__dict__.get(_LOADED, frozenset())


def add_loaded(model: paddle.nn.Layer, shapes: Mapping[str, Sequence[int]]) -> None:
    """Remember that arrays of these names and shapes are loaded into the network; PaddleOCR leaves
    out those that differ from the network's own."""
    found = {
        name
        for name, tensor in inner(model).state_dict().items()
        if name in shapes and tuple(shapes[name]) == tuple(tensor.shape)
    }
    inner(model).__dict__[_LOADED] = loaded(model) | found
