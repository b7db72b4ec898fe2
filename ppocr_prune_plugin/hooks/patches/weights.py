"""The seam at ``ppocr.utils.save_load``: pruned checkpoints load, and carry their plan.

PaddleOCR reads a weights file before it asks the model for its shapes. In between the model is
given the structure of what was read: the file is read once, by PaddleOCR itself.
"""

from __future__ import annotations

import functools
import inspect as signatures
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from ...cut_dictionary import KEY as DICTIONARY
from ...errors import PruneError, exit_on_error
from ...network import apply_checked, plan_of
from ...plan import load_plan, plan_path
from ...report.lines import summary
from ..adapters.dictionaries import in_use
from ..adapters.loading import Loading, Purpose
from ..adapters.networks import Networks
from ..adapters.state import plan_of as plan_of_model
from ..adapters.state import set_of_pruned, set_plan
from ..adapters.sub_models import (
    SubModel,
    combined,
    own_groups,
    sub_model_config,
    sub_models,
    sub_models_of,
)
from . import config as config_hook
from .export import patch_older_tool


def patch(module: ModuleType) -> None:
    """Wrap ``load_model``, ``save_model`` and ``load_pretrained_params``; the config hook reports a
    tree without them."""
    if not (hasattr(module, "load_model") and hasattr(module, "save_model")):
        return
    reader = _Reader(getattr(module, "paddle", None))
    module.paddle = reader  # type: ignore[attr-defined]
    module.load_model = _wrap_load(module.load_model, module, reader)  # type: ignore[attr-defined]
    module.save_model = _wrap_save(module.save_model)  # type: ignore[attr-defined]
    if hasattr(module, "load_pretrained_params"):
        module.load_pretrained_params = _wrap_pretrained(  # type: ignore[attr-defined]
            module.load_pretrained_params, module, reader
        )


# What a checkpoint has beside its weights with an array for each parameter.
_BESIDE = (".pdopt", ".pdema")


class _Reader:
    """Stands in for the name ``paddle`` in ``ppocr.utils.save_load``: tells what is loaded, and
    gives weights that are saved the dictionary of the recogniser."""

    def __init__(self, original: Any) -> None:
        self._original = original
        self._loading: Loading | None = None
        self._model: Any = None  # the whole, which that is loaded into

    def __getattr__(self, name: str) -> Any:
        return getattr(self._original, name)

    def load(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        content = self._original.load(path, *args, **kwargs)
        if self._loading is not None:
            if str(path).endswith(".pdparams"):
                self._loading.read(Path(str(path)), content)
            elif str(path).endswith(_BESIDE):
                self._loading.read_beside(self._model, content)
        return content

    def save(self, content: Any, path: Any, *args: Any, **kwargs: Any) -> Any:
        if str(path).endswith(".pdparams"):
            content = with_dictionary(content)
        return self._original.save(content, path, *args, **kwargs)

    @property
    def busy(self) -> bool:
        """Whether a call that loads a model is under way."""
        return self._loading is not None

    @contextmanager
    def watching(self, loading: Loading, model: paddle.nn.Layer) -> Iterator[None]:
        """In this block what is read for a model is shown to ``loading``."""
        self._loading, self._model = loading, model
        try:
            yield
        finally:
            self._loading = self._model = None


def with_dictionary(content: Any) -> Any:
    """A state dict with the characters of the recogniser, where it lost some."""
    used = in_use()
    if used is None or not isinstance(content, Mapping):
        return content
    return {**content, DICTIONARY: paddle.to_tensor(used.dictionary.as_array())}


def _wrap_load(original: Any, module: ModuleType, reader: _Reader) -> Any:
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def load_model(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs).arguments
        config, model, logger = call["config"], call["model"], module.get_logger()
        parts = sub_models_of(config, model)
        key, file = _weights_file(config, call.get("model_type", "det"))
        purpose = _purpose(config, call.get("optimizer") is not None)
        loading = Loading(parts, key, purpose, logger)
        with reader.watching(loading, model):
            result = original(*args, **kwargs)
        if file is not None:
            _require_read(loading, file)
        remember_sub_models(model, parts)
        patch_older_tool()
        if config_hook.prune_plan_file is not None:
            _apply_plan_file(config, model, Path(config_hook.prune_plan_file), file, logger)
        return result

    return load_model


def _purpose(config: Mapping[str, Any], optimized: bool) -> Purpose:
    """What weights are loaded for; ``optimized``: an optimizer is loaded with them."""
    if not (optimized or config_hook.is_training()):
        return Purpose.READ
    if "Prune" not in config:
        return Purpose.TRAIN
    return Purpose.TRAIN_STATED if config_hook.current_section(config) is None else Purpose.PRUNE


def _require_read(loading: Loading, file: Path) -> None:
    """Refuse weights with a plan that this package did not see being read."""
    if not loading.done and plan_path(file).exists():
        raise PruneError(
            f"{plan_path(file)}: cannot be applied: this PaddleOCR tree does not read its weights "
            "through paddle.load. Run `ppocr-prune doctor` to see what is supported."
        )


def remember_sub_models(model: paddle.nn.Layer, parts: Sequence[SubModel]) -> None:
    """Give the whole model the plan that its networks' plans make."""
    plans = {part.name: plan_of_model(part.model) for part in parts}
    whole = combined({name: plan for name, plan in plans.items() if plan is not None})
    if whole is not None:
        for part in parts:
            set_of_pruned(part.model)
        set_plan(model, whole)


def _wrap_pretrained(original: Any, module: ModuleType, reader: _Reader) -> Any:
    """``Architecture.Models.Student.pretrained`` may be a pruned checkpoint too.

    PaddleOCR loads it while it builds the model, before it has any other weights.
    """
    signature = signatures.signature(original)

    @functools.wraps(original)
    @exit_on_error
    def load_pretrained_params(*args: Any, **kwargs: Any) -> Any:
        if reader.busy:  # called by load_model
            return original(*args, **kwargs)
        call = signature.bind(*args, **kwargs).arguments
        model, stated = call["model"], call["path"]
        config = config_hook.merged_config() or {}
        name = next(
            (name for name, part in sub_models(config).items() if part.get("pretrained") == stated),
            None,
        )
        # Its file bears its own names.
        part = SubModel("", model, config if name is None else sub_model_config(config, name))
        key = f"Architecture.Models.{name}.pretrained" if name is not None else str(stated)
        loading = Loading([part], key, _purpose(config, optimized=False), module.get_logger())
        with reader.watching(loading, model):
            result = original(*args, **kwargs)
        _require_read(loading, Path(str(stated).removesuffix(".pdparams") + ".pdparams"))
        return result

    return load_pretrained_params


def _weights_file(config: Mapping[str, Any], model_type: str) -> tuple[str, Path | None]:
    """The setting that names what PaddleOCR is about to load, and the file, which may be an
    address; None where it loads none or in its own way."""
    settings = config["Global"]
    algorithm = (config.get("Architecture") or {}).get("algorithm")
    if model_type == "kie" and algorithm != "SDMGR":
        return "", None  # language models of PaddleNLP have their own files
    for key in ("checkpoints", "pretrained_model"):
        if settings.get(key):
            stated = str(settings[key])
            return f"Global.{key}", Path(stated.removesuffix(".pdparams") + ".pdparams")
    return "", None


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
            f"--prune-plan {file}: {weights} is pruned already. Omit the option to export it as "
            "it is, or name the unpruned checkpoint."
        )
    plan = load_plan(file)
    parts = sub_models_of(config, model)
    own = {part.name: own_groups(plan, part.name) for part in parts}
    strange = len(plan.groups) - sum(map(len, own.values()))
    if strange:
        raise PruneError(
            f"{file}: is for another architecture: {strange} of its layers are in none of "
            f"{', '.join(sub_models(config))}."
        )
    networks = Networks()
    for part in parts:
        if not own[part.name] and plan.dictionary is None:
            continue
        network = networks.of(part)
        try:
            apply_checked(network, plan_of(network, plan.criterion, own[part.name]))
        except PruneError as error:
            raise PruneError(f"{file}: {error}") from error
        set_plan(part.model, plan_of(network, plan.criterion, own[part.name]))
    remember_sub_models(model, parts)
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
        if plan is None:
            return original(*args, **kwargs)
        folder, prefix = call.arguments["model_path"], call.arguments["prefix"]
        # Before the weights: a run that is killed in between leaves no pruned ones without a plan.
        plan.save(plan_path(os.path.join(folder, prefix)))
        result = original(*args, **kwargs)
        best = os.path.join(folder, "best_model", "model")
        if prefix == "best_accuracy" and os.path.isfile(f"{best}.pdparams"):
            plan.save(plan_path(best))
        return result

    return save_model
