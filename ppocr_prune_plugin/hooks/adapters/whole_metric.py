"""The metric of a recogniser with its whole dictionary, beside the one that lost characters.

The tool has built, labelled and decoded for the characters that stay, so that everything which
depends on the dictionary is made once more for the whole one; all other weights are those that are
live.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from ...graph.live import tensors_of
from ...section import SensitivityOptions
from .classes import class_axes
from .dictionaries import with_whole
from .evaluation import PaddleOCREvaluation
from .state import file_of, plan_of
from .sub_models import SubModel
from .tree import built_apart, set_out_channels


def whole_metric(
    part: SubModel,
    program: ModuleType,
    arguments: Mapping[str, Any],
    options: SensitivityOptions,
    folder: Path,
) -> float | None:
    """Evaluate the recogniser as it was before it lost characters, on the evaluation set.

    Args:
        part: the network as it was loaded, without them.
        program: the module ``tools.program``.
        arguments: what ``program.train`` was called with, by name.
        options: number of images and memory for batches.
        folder: where batches spill to.

    Returns:
        None where the network was pruned before, is one of several, or is from no file.
    """
    path, config = file_of(part.model), with_whole(arguments["config"])
    if part.name or plan_of(part.model) is not None or path is None or config is None:
        return None
    from ppocr.data import build_dataloader
    from ppocr.postprocess import build_post_process

    post_process = build_post_process(config["PostProcess"], config["Global"])
    set_out_channels(config, len(post_process.character))
    model = built_apart(config["Architecture"], "whole_")
    content, live = paddle.load(str(path)), tensors_of(part.model)
    prefix, classes = part.prefix_in(content), class_axes(part)
    for name, tensor in tensors_of(model).items():
        value = content.get(prefix + name) if name in classes else live[name]
        if value is None:  # of a head for training alone: require_classes has seen to the others
            continue
        if tuple(value.shape) != tuple(tensor.shape):
            return None
        tensor.set_value(paddle.to_tensor(value).astype(tensor.dtype))
    loader = build_dataloader(config, "Eval", arguments["device"], arguments["logger"])
    own = {"config": config, "model": model, "post_process_class": post_process}
    evaluation = PaddleOCREvaluation(
        program, {**arguments, **own, "valid_dataloader": loader}, options, folder
    )
    try:
        return evaluation()
    finally:
        evaluation.close()
