"""The seam at ``ppocr.utils.save_load``: pruned checkpoints load, and carry their plan."""

from __future__ import annotations

import functools
import inspect as signatures
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from .. import surgery
from ..checkpoint import infer_kept_channels, read_shapes
from ..errors import PruneError, exit_on_error
from ..network import Network, apply_checked, plan_of
from ..plan import GroupPlan, PruningPlan, load_plan, plan_path
from ..report.table import summary
from . import config as config_hook
from .exporting import patch_older_tool
from .state import plan_of as plan_of_model
from .state import set_plan
from .tracing import network_of

Shapes = Mapping[str, tuple[int, ...]]


def patch(module: ModuleType) -> None:
    """Wrap ``load_model`` and ``save_model``; the config hook reports a tree without them."""
    if not (hasattr(module, "load_model") and hasattr(module, "save_model")):
        return
    module.load_model = _wrap_load(module.load_model, module)  # type: ignore[attr-defined]
    module.save_model = _wrap_save(module.save_model)  # type: ignore[attr-defined]


def _wrap_load(original: Any, module: ModuleType) -> Any:
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def load_model(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        config, model = call["config"], call["model"]
        logger = module.get_logger()
        path = _weights_file(config, call.get("model_type", "det"), module)
        plan = _rebuild(config, model, path, logger) if path is not None else None
        result = original(*args, **kwargs)
        if plan is not None:
            set_plan(model, plan)
        patch_older_tool()
        if config_hook.prune_plan_file is not None:
            _apply_plan_file(config, model, Path(config_hook.prune_plan_file), path, logger)
        return result

    return load_model


def _weights_file(config: Mapping[str, Any], model_type: str, module: ModuleType) -> Path | None:
    """The file that PaddleOCR is about to load; None where it loads none or in its own way."""
    settings = config["Global"]
    algorithm = config["Architecture"].get("algorithm")
    if model_type == "kie" and algorithm != "SDMGR":
        return None  # language models of PaddleNLP have their own files
    stated = settings.get("checkpoints")
    if not stated and settings.get("pretrained_model"):
        download = getattr(module, "maybe_download_params", lambda path: path)
        stated = download(settings["pretrained_model"])
    if not stated:
        return None
    path = Path(str(stated).removesuffix(".pdparams") + ".pdparams")
    return path if path.is_file() else None


def _rebuild(
    config: Mapping[str, Any], model: paddle.nn.Layer, path: Path, logger: logging.Logger
) -> PruningPlan | None:
    """Give the model the shapes in a pruned weights file; None where it is not pruned."""
    try:
        found = read_shapes(path)
    except PruneError:
        if config_hook.current_section(config) is not None:
            raise
        return None  # PaddleOCR reads (or refuses) it as before
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    common = [name for name in expected if name in found]
    beside = plan_path(path)
    if all(found[name] == expected[name] for name in common):
        if beside.exists():
            logger.warning(
                f"prune: {beside} is ignored: the weights beside it are not pruned. It may be "
                "left over from another run."
            )
        return None
    if not beside.exists() and not all(_may_be_cut(found[n], expected[n]) for n in common):
        return None  # wider somewhere: another dictionary or backbone, and nothing to trace for
    try:
        network = network_of(config, model)
        plan = (
            _stated_plan(network, beside, found)
            if beside.exists()
            else _inferred_plan(network, path, found, logger)
        )
    except Exception:
        if beside.exists():
            raise
        return None  # not known to be pruned, and not ours to fail on
    if plan is None:
        return None
    surgery.resize(
        model,
        surgery.shapes_after(network.graph, plan.kept_channels()),
        network.graph,
    )
    logger.info(f"prune: rebuilt the pruned network of {path}: {summary(plan, None, None, None)}")
    return plan


def _may_be_cut(found: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(found) == len(whole) and all(a <= b for a, b in zip(found, whole, strict=True))


def _stated_plan(network: Network, beside: Path, found: Shapes) -> PruningPlan:
    plan = load_plan(beside)
    try:
        for item in plan.groups:
            surgery.check_fit(network.graph, item)
    except PruneError as error:
        raise PruneError(f"{beside}: {error}.") from error
    for name, shape in surgery.shapes_after(network.graph, plan.kept_channels()).items():
        if name in found and found[name] != shape:
            raise PruneError(
                f"{beside}: does not fit the weights beside it: {name} has the shape "
                f"{list(found[name])} there, and {list(shape)} by the plan. Copy both files of one "
                "checkpoint, or delete the plan: the structure is then worked out from the weights."
            )
    return plan


def _inferred_plan(
    network: Network, path: Path, found: Shapes, logger: logging.Logger
) -> PruningPlan | None:
    kept = infer_kept_channels(network.graph, found)
    if not kept:
        return None  # another number of classes, another backbone: not for us
    logger.info(f"prune: no {plan_path(path).name}: structure worked out from {path.name}")
    sizes = {group.name: group.size for group in network.graph.groups}
    items = [GroupPlan(name, sizes[name], None, width) for name, width in kept.items()]
    return plan_of(network, "unknown", items)


def _apply_plan_file(
    config: Mapping[str, Any],
    model: paddle.nn.Layer,
    file: Path,
    weights: Path | None,
    logger: logging.Logger,
) -> None:
    if weights is None:
        raise PruneError(
            f"--prune-plan {file}: there are no weights to prune. Set Global.pretrained_model or "
            "Global.checkpoints to the unpruned checkpoint."
        )
    if plan_of_model(model) is not None:
        raise PruneError(
            f"--prune-plan {file}: {weights} is pruned already. Leave the option away to export it "
            "as it is, or name the unpruned checkpoint."
        )
    plan = load_plan(file)
    network = network_of(config, model)
    try:
        apply_checked(network, plan)
    except PruneError as error:
        raise PruneError(f"{file}: {error}") from error
    set_plan(model, plan)
    logger.info(f"prune: applied {file}: {summary(plan, None, None, None)}")
    logger.warning(
        "prune: nothing was trained after this cut, and batch norms were not re-estimated: expect "
        "less accuracy than from the checkpoint that tools/train.py makes with the same plan"
    )


def _wrap_save(original: Any) -> Any:
    signature = signatures.signature(original)

    @functools.wraps(original)
    def save_model(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        plan = plan_of_model(call.arguments["model"])
        if plan is not None:
            folder, prefix = call.arguments["model_path"], call.arguments["prefix"]
            plan.save(plan_path(os.path.join(folder, prefix)))
            if os.path.isfile(os.path.join(folder, "best_model", "model.pdparams")) and (
                prefix == "best_accuracy"
            ):
                plan.save(plan_path(os.path.join(folder, "best_model", "model")))
        return result

    return save_model
