"""Which plan a live model carries."""

from __future__ import annotations

import paddle

from ...plan import PruningPlan

_KEY = "_ppocr_prune_plan"
_BESIDE = "_ppocr_prune_beside"


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
    """Whether the network, or another one of the same distillation model, was pruned."""
    return plan_of(model) is not None or _BESIDE in inner(model).__dict__


def set_of_pruned(model: paddle.nn.Layer) -> None:
    """Remember that another network of the same model was pruned."""
    inner(model).__dict__[_BESIDE] = True
