"""How PaddleOCR's training loop calls each kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle

from .decisions import training_items
from .tree import tree_in_use


def takes_labels(config: Mapping[str, Any]) -> bool:
    """Whether the model (or a part of a distillation model) takes labels beside images, as
    ``extra_input`` in ``tools/program.py`` says and for tables."""
    return len(training_items(tree_in_use(), config["Architecture"])) > 1


def call_arguments(batch: list[Any], config: Mapping[str, Any]) -> list[Any]:
    """Positional arguments that ``tools.program.train`` makes of a batch of its loader.

    Raises:
        PruneError: the tree in use does not say.
    """
    items = training_items(tree_in_use(), config["Architecture"])
    return [_chosen(item, batch) for item in items]


def _chosen(items: Any, batch: list[Any]) -> Any:
    if isinstance(items, list):
        return [_chosen(item, batch) for item in items if item < len(batch)]
    return batch[items]


def training_forward(model: paddle.nn.Layer, batch: list[Any], config: Mapping[str, Any]) -> Any:
    """Call the model on a batch of the training loader as ``tools.program.train`` does."""
    return model(*call_arguments(batch, config))
