"""The seam at ``ppocr.utils.save_load``: pruned checkpoints load, and carry their plan."""

from __future__ import annotations

import functools
import inspect as signatures
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from ... import surgery
from ...checkpoint import infer_kept_channels, read_shapes
from ...errors import PruneError, exit_on_error
from ...network import Network, apply_checked, plan_of
from ...plan import GroupPlan, PruningPlan, load_plan, plan_path
from ...report.lines import summary
from ..adapters.modes import full_precision
from ..adapters.networks import Networks
from ..adapters.state import plan_of as plan_of_model
from ..adapters.state import set_of_pruned, set_plan
from ..adapters.sub_models import Part, combined, own_groups, part_config, parts_of, sub_models
from . import config as config_hook
from .export import patch_older_tool

Shapes = Mapping[str, tuple[int, ...]]


def patch(module: ModuleType) -> None:
    """Wrap ``load_model``, ``save_model`` and ``load_pretrained_params``; the config hook reports a
    tree without them."""
    if not (hasattr(module, "load_model") and hasattr(module, "save_model")):
        return
    module.load_model = _wrap_load(module.load_model, module)  # type: ignore[attr-defined]
    module.save_model = _wrap_save(module.save_model)  # type: ignore[attr-defined]
    if hasattr(module, "load_pretrained_params"):
        module.load_pretrained_params = _wrap_pretrained(  # type: ignore[attr-defined]
            module.load_pretrained_params, module
        )


def _wrap_load(original: Any, module: ModuleType) -> Any:
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def load_model(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        config, model = call["config"], call["model"]
        logger = module.get_logger()
        path = _weights_file(config, call.get("model_type", "det"), module)
        with full_precision(model):
            plans = _rebuild(config, model, path, logger) if path is not None else {}
        result = original(*args, **kwargs)
        parts = parts_of(config, model)
        for part in parts:
            if part.name in plans:
                set_plan(part.model, plans[part.name])
        remember_parts(model, parts)
        patch_older_tool()
        if config_hook.prune_plan_file is not None:
            _apply_plan_file(config, model, Path(config_hook.prune_plan_file), path, logger)
        return result

    return load_model


def remember_parts(model: paddle.nn.Layer, parts: Sequence[Part]) -> None:
    """Give the whole model the plan that its networks' plans make."""
    plans = {part.name: plan_of_model(part.model) for part in parts}
    whole = combined({name: plan for name, plan in plans.items() if plan is not None})
    if whole is not None:
        for part in parts:
            set_of_pruned(part.model)
        set_plan(model, whole)


def _wrap_pretrained(original: Any, module: ModuleType) -> Any:
    """``Architecture.Models.Student.pretrained`` may be a pruned checkpoint too.

    PaddleOCR loads it while it builds the model, before it has any other weights.
    """
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def load_pretrained_params(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        model, stated = call["model"], call["path"]
        config = config_hook.merged_config() or {"Architecture": {}}
        name = next(
            (name for name, part in sub_models(config).items() if part.get("pretrained") == stated),
            None,
        )
        if name is None:
            return original(*args, **kwargs)
        path = _local_file(str(stated), module)
        part = Part("", model, part_config(config, name))  # its file bears its own names
        stored = _stored_shapes(config, path) if path is not None else None
        plan = (
            _rebuild_part(part, path, stored, Networks(), module.get_logger())
            if path is not None and stored is not None
            else None
        )
        result = original(*args, **kwargs)
        if plan is not None:
            set_plan(model, plan)
        return result

    return load_pretrained_params


def _weights_file(config: Mapping[str, Any], model_type: str, module: ModuleType) -> Path | None:
    """The file that PaddleOCR is about to load; None where it loads none or in its own way."""
    settings = config["Global"]
    algorithm = config["Architecture"].get("algorithm")
    if model_type == "kie" and algorithm != "SDMGR":
        return None  # language models of PaddleNLP have their own files
    if settings.get("checkpoints"):
        return _existing(str(settings["checkpoints"]))
    if settings.get("pretrained_model"):
        return _local_file(str(settings["pretrained_model"]), module)
    return None


def _local_file(stated: str, module: ModuleType) -> Path | None:
    """The file behind ``pretrained_model``, which may be an address."""
    download = getattr(module, "maybe_download_params", lambda path: path)
    return _existing(str(download(stated)))


def _existing(stated: str) -> Path | None:
    path = Path(stated.removesuffix(".pdparams") + ".pdparams")
    return path if path.is_file() else None


def _rebuild(
    config: Mapping[str, Any], model: paddle.nn.Layer, path: Path, logger: logging.Logger
) -> dict[str, PruningPlan]:
    """Give every network in the model the shapes in a weights file; plans of those it prunes."""
    stored = _stored_shapes(config, path)
    if stored is None:
        return {}
    parts = parts_of(config, model)
    networks = Networks()
    found = {part.name: _rebuild_part(part, path, stored, networks, logger) for part in parts}
    plans = {name: plan for name, plan in found.items() if plan is not None}
    beside = plan_path(path)
    if not plans and beside.exists() and all(plan_of_model(part.model) is None for part in parts):
        logger.warning(
            f"prune: {beside} is ignored: the weights beside it are not pruned. It may be "
            "left over from another run."
        )
    return plans


def _stored_shapes(config: Mapping[str, Any], path: Path) -> Shapes | None:
    try:
        return read_shapes(path)
    except PruneError:
        if config_hook.current_section(config) is not None:
            raise
        return None  # PaddleOCR reads (or refuses) it as before


def _rebuild_part(
    part: Part, path: Path, stored: Shapes, networks: Networks, logger: logging.Logger
) -> PruningPlan | None:
    """Give one network the shapes in a weights file; None where the file does not prune it."""
    model = part.model
    found = {
        name.removeprefix(part.prefix): shape
        for name, shape in stored.items()
        if name.startswith(part.prefix)
    }
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    common = [name for name in expected if name in found]
    beside = plan_path(path)
    if all(found[name] == expected[name] for name in common):
        return None
    if part.name and plan_of_model(model) is not None:
        raise PruneError(
            f"{path}: {part.name} has other widths there than in "
            f"Architecture.Models.{part.name}.pretrained, which is pruned too. Leave `pretrained` "
            "away: these weights replace it."
        )
    if not beside.exists() and not all(_may_be_cut(found[n], expected[n]) for n in common):
        return None  # wider somewhere: another dictionary or backbone, and nothing to trace for
    if beside.exists() and not part.name:
        stated = load_plan(beside)
        if stated.frame is not None and surgery.rebuild(model, stated.frame, found):
            _log_rebuilt(stated, part, path, logger)
            return stated
    try:
        network = networks.of(part)
        plan = (
            _stated_plan(network, part, beside, found)
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
    _log_rebuilt(plan, part, path, logger)
    return plan


def _log_rebuilt(plan: PruningPlan, part: Part, path: Path, logger: logging.Logger) -> None:
    what = f"{part.name} of {path}" if part.name else str(path)
    logger.info(f"prune: rebuilt the pruned network of {what}: {summary(plan, None, None, None)}")


def _may_be_cut(found: tuple[int, ...], whole: tuple[int, ...]) -> bool:
    return len(found) == len(whole) and all(a <= b for a, b in zip(found, whole, strict=True))


def _stated_plan(network: Network, part: Part, beside: Path, found: Shapes) -> PruningPlan:
    whole = load_plan(beside)
    items = own_groups(whole, part)
    try:
        for item in items:
            surgery.check_fit(network.graph, item)
    except PruneError as error:
        raise PruneError(f"{beside}: {error}.") from error
    plan = plan_of(network, whole.criterion, items) if part.name else whole
    for name, shape in surgery.shapes_after(network.graph, plan.kept_channels()).items():
        if name in found and found[name] != shape:
            raise PruneError(
                f"{beside}: does not fit the weights beside it: {part.prefix}{name} has the shape "
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
    parts = parts_of(config, model)
    own = {part.name: own_groups(plan, part) for part in parts}
    strange = len(plan.groups) - sum(map(len, own.values()))
    if strange:
        raise PruneError(
            f"{file}: is for another architecture: {strange} of its layers are in none of "
            f"{', '.join(sub_models(config))}."
        )
    networks = Networks()
    for part in parts:
        if not own[part.name]:
            continue
        network = networks.of(part)
        try:
            apply_checked(network, plan_of(network, plan.criterion, own[part.name]))
        except PruneError as error:
            raise PruneError(f"{file}: {error}") from error
        set_plan(part.model, plan_of(network, plan.criterion, own[part.name]))
    remember_parts(model, parts)
    logger.info(f"prune: applied {file}: {summary(plan, None, None, None)}")
    logger.warning(
        "prune: nothing was trained after this cut, and batch norms were not re-estimated: expect "
        "less accuracy than from the checkpoint that tools/train.py makes with the same plan"
    )


def _wrap_save(original: Any) -> Any:
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def save_model(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        plan = plan_of_model(call.arguments["model"])
        folder, prefix = call.arguments["model_path"], call.arguments["prefix"]
        if plan is not None:
            # Before the weights: whenever this process is killed, there are none without a plan.
            plan.save(plan_path(os.path.join(folder, prefix)))
        result = original(*args, **kwargs)
        if plan is not None:
            if os.path.isfile(os.path.join(folder, "best_model", "model.pdparams")) and (
                prefix == "best_accuracy"
            ):
                plan.save(plan_path(os.path.join(folder, "best_model", "model")))
        return result

    return save_model
