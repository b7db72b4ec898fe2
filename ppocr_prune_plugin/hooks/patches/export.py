"""The seam at the export: a pruned model takes a path that works, and its result is checked."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from ...errors import PruneError, exiting_on_error, one_line
from ...export.check import Agreement, Differs, Reference, weights_of
from ...export.exported import CannotRun, ExportedModel
from ...export.folding import fold_checked
from ...graph.trace import methods_translated_once
from ...network import run_once
from ..adapters.inputs import Inputs, example_inputs
from ..adapters.state import is_of_pruned
from . import config as config_hook

# The last release that still traces through its old intermediate representation.
_LAST_WITH_OLD_IR = "3.0."


def patch(module: ModuleType) -> None:
    """Wrap ``export_single_model`` of ``ppocr.utils.export_model``."""
    if hasattr(module, "export_single_model"):
        wrap(module)


def patch_older_tool() -> None:
    """Older trees define ``export_single_model`` in tools/export_model.py itself: it is there by
    the time that the tool loads its weights."""
    main = sys.modules.get("__main__")
    if main is not None and hasattr(main, "export_single_model"):
        wrap(main)


def wrap(module: ModuleType) -> None:
    """Replace ``export_single_model`` in its module, once."""
    original = module.export_single_model
    if hasattr(original, "__wrapped__"):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def export_single_model(*args: Any, **kwargs: Any) -> Any:
        arguments = signature.bind(*args, **kwargs).arguments
        model, logger = arguments["model"], arguments["logger"]
        pruned, fold = is_of_pruned(model), config_hook.fold
        if not pruned and not fold:
            return original(*args, **kwargs)
        reference: Reference | None = None
        if pruned:
            with _judging(logger):
                reference = _note(model, arguments)
        if "config" in arguments:
            _take_working_path(arguments["config"], logger)
        with methods_translated_once():
            result = original(*args, **kwargs)
        if pruned and reference is None:
            return result  # the log says why it cannot be checked
        with _judging(logger):  # a wrong export ends it: there is nothing to fold
            if reference is not None:
                _say(logger, *_checked(reference, model, arguments))
            if fold is not False and arguments.get("quanter") is None:
                _say(logger, *fold_checked(Path(arguments["save_path"]), _inputs(arguments)))
        return result

    module.export_single_model = export_single_model  # type: ignore[attr-defined]


def _say(logger: Any, how: str, words: str) -> None:
    getattr(logger, how)(f"prune: {words}")


@contextmanager
def _judging(logger: Any) -> Iterator[None]:
    """What is wrong with an export ends the tool. Where train.py exports by the way, before it
    saves its checkpoint, the training counts for more: it goes on, and the log says what is wrong.
    """
    if os.path.basename(sys.argv[0]) != "train.py":
        with exiting_on_error():
            yield
        return
    try:
        yield
    except Exception as error:  # whatever the check meets
        known = isinstance(error, PruneError)
        logger.error(one_line(f"prune: {'' if known else f'{type(error).__name__}: '}{error}"))


def _note(model: paddle.nn.Layer, arguments: Mapping[str, Any]) -> Reference:
    """What the network answers before the export, which may change it."""
    return Reference(lambda arrays: run_once(model, arrays), _inputs(arguments))


def _inputs(arguments: Mapping[str, Any]) -> Inputs:
    """What the exported model takes. A sub-model of a distillation model is exported by itself,
    with its own architecture."""
    return example_inputs({**arguments.get("config", {}), "Architecture": arguments["arch_config"]})


def _checked(
    reference: Reference, model: paddle.nn.Layer, arguments: Mapping[str, Any]
) -> tuple[str, str]:
    """Compare what was exported; how to log the result, and in which words.

    Raises:
        PruneError: it is wrong, and was moved aside; or it cannot be run.
    """
    exported = ExportedModel(Path(arguments["save_path"]))
    # A quantised model has other numbers on purpose.
    weights = weights_of(model) if arguments.get("quanter") is None else {}
    try:
        return _words(reference.compare(exported, weights))
    except Differs as error:
        aside = exported.move_aside()
        raise PruneError(
            f"{exported.prefix}: the exported model is not the trained one: {error}. It was moved "
            f"aside to {aside.name}.*; do not use it."
        ) from error
    except CannotRun as error:
        raise CannotRun(
            f"{error} PaddleOCR may not be able to export this architecture at all: try the "
            "unpruned model with Prune.enable=false."
        ) from error


def _words(agreement: Agreement) -> tuple[str, str]:
    weights = f"; all of its {agreement.weights} weights are the same" if agreement.weights else ""
    if agreement.difference is None:
        return "warning", (
            "the exported model was run, but cannot be compared with the trained one by its "
            f"answers: {agreement.why}{weights}"
        )
    return "info", (
        f"the exported model agrees with the trained one: on {agreement.inputs} inputs its outputs "
        f"differ by at most {agreement.difference:.1e} of what they vary by{weights}"
    )


def _take_working_path(config: dict[str, Any], logger: Any) -> None:
    settings = config["Global"]
    old_ir_works = paddle.__version__.startswith(_LAST_WITH_OLD_IR)
    if settings.get("export_with_pir") is None and not old_ir_works:
        settings["export_with_pir"] = True
        logger.info(
            f"prune: Paddle {paddle.__version__} no longer exports through its old IR; exporting "
            "through PIR (Global.export_with_pir=true)"
        )
