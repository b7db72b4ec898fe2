"""The seam at the export: a pruned model takes a path that works, and its result is checked."""

from __future__ import annotations

import functools
import inspect
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import paddle

from ...errors import PruneError, exit_on_error
from ...network import random_inputs, run_once
from ..adapters.inputs import example_inputs
from ..adapters.state import is_of_pruned

# Of the largest output. Branches that the export makes one are summed in another order: with four
# of them up to 1.3e-4 was seen. A wrong channel changes outputs by far more than this.
TOLERANCE = 1e-3

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
    @exit_on_error
    def export_single_model(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        model = call.arguments["model"]
        if not is_of_pruned(model):
            return original(*args, **kwargs)
        arguments, logger = call.arguments, call.arguments["logger"]
        # A sub-model of a distillation model is exported by itself, with its own architecture.
        config = {**arguments.get("config", {}), "Architecture": arguments["arch_config"]}
        inputs = example_inputs(config)
        if "config" in arguments:
            _take_working_path(arguments["config"], logger)
        expected = run_once(model, inputs)
        repeatable = all(map(np.array_equal, expected, run_once(model, inputs)))
        result = original(*args, **kwargs)
        difference = _difference(arguments["save_path"], inputs, expected)
        if not repeatable:
            logger.warning(
                "prune: this model answers the same input differently each time (SRN drops out "
                "in evaluation, too), so that the exported model was run, but not compared with it"
            )
            return result
        if arguments.get("quanter") is not None:
            logger.info(
                f"prune: the exported model runs; it is quantised, and its answers are up to "
                f"{difference:.1e} of the largest output from those of training, which only "
                "simulates that"
            )
            return result
        if not difference <= TOLERANCE:
            raise PruneError(
                f"{arguments['save_path']}: the exported model differs from the trained one by "
                f"{difference:.2e} of the largest output (allowed: {TOLERANCE:g}) on a random "
                "input. Do not use it."
            )
        logger.info(
            f"prune: the exported model agrees with the trained one to {difference:.1e} on a "
            f"random input of {inputs[0][0]}"
        )
        return result

    module.export_single_model = export_single_model  # type: ignore[attr-defined]


def _take_working_path(config: dict[str, Any], logger: Any) -> None:
    settings = config["Global"]
    old_ir_works = paddle.__version__.startswith(_LAST_WITH_OLD_IR)
    if settings.get("export_with_pir") is None and not old_ir_works:
        settings["export_with_pir"] = True
        logger.info(
            f"prune: Paddle {paddle.__version__} no longer exports through its old IR; exporting "
            "through PIR (Global.export_with_pir=true)"
        )


def _difference(path: str, inputs: list[Any], expected: list[np.ndarray]) -> float:
    """Largest difference of any output on the input that ``expected`` was computed with, as a
    share of that output's largest value where this is above 1."""
    found = run_inference(path, inputs)
    if [a.shape for a in found] != [a.shape for a in expected]:
        shapes = [a.shape for a in found], [a.shape for a in expected]
        raise PruneError(f"{path}: the exported model gives {shapes[0]} instead of {shapes[1]}.")
    pairs = zip(found, expected, strict=True)
    return max(float(np.abs(a - b).max() / max(1, np.abs(b).max())) for a, b in pairs)


def _flat(inputs: list[Any]) -> list[np.ndarray]:
    nested = [_flat(item) if isinstance(item, list) else [item] for item in inputs]
    return [array for part in nested for array in part]


def run_inference(path: str, inputs: list[Any]) -> list[np.ndarray]:
    """Run an exported model with Paddle Inference on the input that ``run_once`` uses."""
    program = next(
        (p for p in (Path(path + ".json"), Path(path + ".pdmodel")) if p.is_file()), None
    )
    if program is None:
        raise PruneError(f"{path}: the export wrote no model there.")
    settings = paddle.inference.Config(str(program), path + ".pdiparams")
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.disable_mkldnn()
    predictor = paddle.inference.create_predictor(settings)
    # In the order of `forward`; the exporter leaves out arguments that the network does not read.
    for name, array in zip(predictor.get_input_names(), _flat(random_inputs(inputs)), strict=False):
        predictor.get_input_handle(name).copy_from_cpu(array)
    try:
        predictor.run()
    except Exception as error:  # whatever Paddle raises
        said = [line.strip() for line in str(error).splitlines() if "Error: " in line]
        raise PruneError(
            f"{path}: the export was written, but Paddle Inference cannot run it "
            f"({said[-1] if said else type(error).__name__}), so that it could not be compared "
            "with the trained model. PaddleOCR may not be able to export this architecture at "
            "all: try the unpruned model with Prune.enable=false."
        ) from error
    return [predictor.get_output_handle(n).copy_to_cpu() for n in predictor.get_output_names()]
