"""The seam at ``tools.program.train``: weights are loaded, training has not begun."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import PruneError, exiting_on_error
from ..gradients import Array, batch_gradients
from ..section import PruneSection
from ..sensitivity.team import Team
from ..workflow import PruningRun
from . import config as config_hook
from .calibration import calibration_batches
from .calls import training_forward
from .evaluation import PaddleOCREvaluation
from .ranks import gather
from .state import inner, plan_of, set_plan
from .tracing import network_of
from .tree import tree_version


def patch(module: ModuleType) -> None:
    """Wrap ``train``; the config hook reports a tree without it."""
    if not hasattr(module, "train"):
        return
    module.train = _wrap_train(module.train, module)  # type: ignore[attr-defined]


def _wrap_train(original: Any, module: ModuleType) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        arguments = call.arguments
        with exiting_on_error():
            section = config_hook.current_section(arguments["config"])
            go_on = section is None or _prune(module, section, arguments)
        return original(*call.args, **call.kwargs) if go_on else None

    return train


def _prune(module: ModuleType, section: PruneSection, arguments: Mapping[str, Any]) -> bool:
    """Prune the model that is about to be trained; False where training should not begin."""
    config, model, logger = arguments["config"], arguments["model"], arguments["logger"]
    settings = config["Global"]
    source = config_hook.section_source()
    plan = plan_of(model)
    if plan is not None and settings.get("checkpoints"):
        logger.info("prune: resuming a pruned model; it is not pruned again")
        return not section.dry_run
    if plan is not None:
        raise PruneError(
            f"Global.pretrained_model: {settings['pretrained_model']} is pruned already "
            f"({plan.flops.pruned:.1%} of its FLOPs). To fine-tune it as it is, set "
            "Prune.enable=false; to go on with its training, name it in Global.checkpoints; to "
            "prune more, start from the unpruned weights with a larger target."
        )
    _require_trained(section, settings, source)
    folder = Path(settings["save_model_dir"]) / "prune"
    team = gather(folder)
    loader = arguments["valid_dataloader"]
    evaluation = (
        PaddleOCREvaluation(module, arguments, section.sensitivity, folder)
        if loader is not None and len(loader) > 0
        else None
    )
    try:
        plan = PruningRun(
            network_of(config, inner(model)),
            section,
            source,
            evaluation,
            [
                functools.partial(training_forward, inner(model), batch, config)
                for batch in calibration_batches(arguments, section.bn_batches, folder, team)
            ],
            functools.partial(_gradients, section, arguments, folder, team),
            folder,
            logger,
            _versions(module),
            team,
        ).run(arguments["optimizer"])
    finally:
        if evaluation is not None:
            evaluation.close()
    if section.dry_run:
        logger.info(f"prune: dry run; the plan is in {folder / 'plan.prune.json'}")
        return False
    set_plan(model, plan)
    # The best metric of the unpruned model would keep every pruned one from being saved as best.
    best = arguments["pre_best_model_dict"]
    indicator = arguments["eval_class"].main_indicator
    if indicator in best:
        best[indicator] = 0
    return True


def _gradients(
    section: PruneSection, arguments: Mapping[str, Any], folder: Path, team: Team
) -> list[dict[str, Array]]:
    """Gradients of the training loss, for each calibration batch by itself; at least for one."""
    model, config = inner(arguments["model"]), arguments["config"]
    batches = calibration_batches(arguments, max(section.bn_batches, 1), folder, team)

    def loss(batch: Any) -> Any:
        return arguments["loss_class"](training_forward(model, batch, config), batch)["loss"]

    return batch_gradients(model, [functools.partial(loss, batch) for batch in batches])


def _versions(program: ModuleType) -> dict[str, str]:
    tree = Path(program.__file__ or ".").resolve().parent.parent
    return {"PaddleOCR": tree_version(tree) or "version not stated"}


def _require_trained(section: PruneSection, settings: Mapping[str, Any], source: str) -> None:
    if settings.get("checkpoints") or settings.get("pretrained_model") or section.allow_untrained:
        return
    raise PruneError(
        f"{source}: Global.pretrained_model and Global.checkpoints are both empty, so the weights "
        "are random and ranking their filters means nothing. Train first, then set "
        "Global.pretrained_model to the result; Prune.allow_untrained=true prunes all the same."
    )
