"""The seam at ``tools.program.train``: weights are loaded, training has not begun."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import paddle

from ... import surgery
from ...errors import PruneError, exiting_on_error
from ...files import replacing
from ...further import removes, section_for, together, widths_by_ratio
from ...gradients import Array, batch_gradients
from ...holders import Holders, renew_reducer
from ...network import Network
from ...plan import Progress, PruningPlan, plan_path
from ...report.lines import summary
from ...section import PruneSection
from ...sensitivity.ranks import Ranks
from ...workflow import PruningRun
from ..adapters.calibration_batches import calibration_batches, few_images, first_images
from ..adapters.calls import training_forward
from ..adapters.classes import plan_of_lost
from ..adapters.dictionaries import in_use, write_dictionary
from ..adapters.evaluation import PaddleOCREvaluation
from ..adapters.launch import gather
from ..adapters.modes import dynamic_forward, full_precision
from ..adapters.networks import Networks
from ..adapters.settings import gradient_settings, measured_settings
from ..adapters.stages import begun, is_due, train_until
from ..adapters.state import inner, plan_of, set_plan
from ..adapters.sub_models import Family, SubModel, arguments_of, combined, families, sub_models_of
from ..adapters.unpruned import require_classes, require_loaded, weights_file
from ..adapters.whole_metric import whole_metric
from ..release import release_of
from . import config as config_hook
from .fine_tuning import FineTuning
from .weights import remember_sub_models, with_dictionary

PLAN_FILE = "plan.prune.json"
# The checkpoint of a dry run, beside it.
UNTRAINED = "untrained"

# Arguments of program.train that are data, text or the network itself; any other, those of later
# releases too, is searched for what it holds of the network's parameters.
_NO_HOLDERS = frozenset(
    {
        *("config", "train_dataloader", "valid_dataloader", "device", "model"),
        *("pre_best_model_dict", "logger", "log_writer", "step_pre_epoch"),
    }
)


def patch(module: ModuleType) -> None:
    """Wrap ``train``."""
    module.train = _wrap_train(module.train, module)  # type: ignore[attr-defined]


def _wrap_train(original: Any, module: ModuleType) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def train(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        arguments = call.arguments
        with exiting_on_error():
            section = config_hook.current_section(arguments["config"], prunes=True)
            if plan_of(arguments["model"]) is not None:  # it was rebuilt while it was loaded
                _holders(arguments).renew()
        if section is None:
            return original(*call.args, **call.kwargs)
        with exiting_on_error():
            done, tuning = _begin(section, arguments)
        while not done.done:
            with exiting_on_error():
                if is_due(done, arguments):
                    if tuning is not None:
                        tuning.end()
                    done = replace(done, step=done.step + 1)
                    tuning = _prune(module, section, arguments, done)
            if section.dry_run:
                break
            if not done.done:
                train_until(original, call, done)
        return None if section.dry_run else original(*call.args, **call.kwargs)

    return train


def _begin(
    section: PruneSection, arguments: MutableMapping[str, Any]
) -> tuple[Progress, FineTuning | None]:
    """How far pruning has come; and a checkpoint's training is taken up."""
    config, model = arguments["config"], arguments["model"]
    plan = plan_of(model) if config["Global"].get("checkpoints") else None
    done = begun(section, plan, arguments, config_hook.section_source())
    if plan is None or is_due(done, arguments):
        return done, None
    arguments["logger"].info("prune: resuming a pruned model; it is not pruned again")
    if section.dry_run:
        return done, None
    parts = sub_models_of(config, model)
    plans = {part.name: plan for part in parts if (plan := plan_of(part.model)) is not None}
    tuning = FineTuning(section, arguments, [part for part in parts if part.name in plans])
    tuning.find_unpruned(plans)
    tuning.begin(plans)
    return done, tuning


def _prune(
    module: ModuleType,
    section: PruneSection,
    arguments: MutableMapping[str, Any],
    step: Progress,
) -> FineTuning:
    """Prune the model that is about to be trained, or trained further; ``step`` is what is done
    then."""
    config, model, logger = arguments["config"], arguments["model"], arguments["logger"]
    settings = config["Global"]
    source = config_hook.section_source()
    found = families(config, inner(model), section, source)
    chosen = [part for family in found for part in family.members]
    before = {part.name: plan for part in chosen if (plan := plan_of(part.model)) is not None}
    _require_trained(section, chosen, settings, source)
    if not section.dry_run:
        _require_epochs(settings, arguments["pre_best_model_dict"])
    holders = _holders(arguments)
    holders.require_known()
    if section.sensitivity.file is not None and len(found) > 1:
        raise PruneError(
            f"{source}: Prune.sensitivity.file is one file, but "
            f"{' and '.join(family.members[0].name for family in found)} differ and are measured "
            "one by one. Leave the key away: each gets a folder of its own."
        )
    tuning = FineTuning(section, arguments, chosen)
    networks = Networks()
    folder = Path(settings["save_model_dir"]) / "prune"
    own_folder = folder / f"step{step.step}" if step.steps > 1 else folder
    with full_precision(inner(model)), dynamic_forward(inner(model), config, logger):
        if not section.allow_untrained:
            _require_loaded(found, networks, source)
        if before:
            tuning.find_unpruned(before)
        else:
            tuning.keep_unpruned(networks)
            tuning.look()
        begins = {part.name: _beginning(part, networks.of(part)) for part in chosen}
        cuts, masks = _prune_families(module, found, arguments, own_folder, networks, begins, step)
    plans = {
        name: replace(together(begins[name], cut), progress=step if step.steps > 1 else None)
        for name, cut in cuts.items()
    }
    whole = combined(plans)
    assert whole is not None
    if plans != cuts or len(chosen) > 1 or chosen[0].name:
        whole.save(folder / PLAN_FILE)
    if before or chosen[0].name:
        what = ", ".join(plans) + " together" if chosen[0].name else "against the unpruned network"
        logger.info(f"prune: {what}: {summary(whole, None, None, None)}")
    for part in chosen:
        set_plan(part.model, plans[part.name])
    dictionary = write_dictionary(config, folder)
    if dictionary is not None:
        logger.info(
            f"prune: the characters that are left are in {dictionary}, for tools that take a "
            "dictionary (tools/infer/predict_rec.py --rec_char_dict_path); weights carry them"
        )
    remember_sub_models(model, sub_models_of(config, model))
    if section.dry_run:
        weights = _save_untrained(inner(model), whole, folder)
        logger.info(
            f"prune: dry run; the plan is in {folder / PLAN_FILE}, the pruned weights without any "
            f"training in {weights}"
        )
        return tuning
    holders.cut(masks)
    renew_reducer(model)
    # The best metric of the unpruned model would keep every pruned one from being saved as best.
    best = arguments["pre_best_model_dict"]
    indicator = arguments["eval_class"].main_indicator
    if indicator in best:
        best[indicator] = 0
    tuning.begin(plans)
    return tuning


def _save_untrained(model: paddle.nn.Layer, plan: PruningPlan, folder: Path) -> Path:
    """Write what a dry run has pruned, as a checkpoint that every tool loads; its path without
    ``.pdparams``. Rank 0 does, the workers leave it to it."""
    path = folder / UNTRAINED
    if paddle.distributed.get_rank() == 0:
        # Before the weights: a run that is killed in between leaves no pruned ones without a plan.
        plan.save(plan_path(path))
        with replacing(Path(f"{path}.pdparams")) as file:
            paddle.save(with_dictionary(model.state_dict()), file.name)
    return path


def _beginning(part: SubModel, network: Network) -> PruningPlan | None:
    """What a network has lost before its channels are pruned: in earlier cuts, and the characters
    that it was loaded without."""
    before, used = plan_of(part.model), in_use()
    if used is None or used.alphabet is None:
        return before
    if before is not None and before.dictionary == used.dictionary:
        return before
    own = plan_of_lost(part, network, used)
    unpruned = weights_file(part.model) if before is None else None
    if unpruned is not None:
        own = replace(own, unpruned={"": unpruned})
    return together(before, own)


def _prune_families(
    module: ModuleType,
    found: Sequence[Family],
    arguments: Mapping[str, Any],
    folder: Path,
    networks: Networks,
    begins: Mapping[str, PruningPlan | None],
    step: Progress,
) -> tuple[dict[str, PruningPlan], surgery.Masks]:
    """Prune every network of every family: what was cut of it now, by name, and what stays of the
    whole model. ``begins``: what it had lost before."""
    plans: dict[str, PruningPlan] = {}
    masks: surgery.Masks = {}
    for family in found:
        widths: Mapping[str, int] | None = None
        for part in family.members:
            network = networks.of(part)
            if widths is None:
                section, widths = _for_step(
                    family.section, part, network, begins[part.name], step, arguments["logger"]
                )
            plans[part.name] = _prune_part(
                module, section, part, network, arguments, folder, begins[part.name], widths
            )
            widths = plans[part.name].kept_channels()
            for name, axes in surgery.kept_masks(network.graph, plans[part.name].groups).items():
                masks[part.prefix + name] = axes
    return plans, masks


def _for_step(
    section: PruneSection,
    part: SubModel,
    network: Network,
    before: PruningPlan | None,
    step: Progress,
    logger: logging.Logger,
) -> tuple[PruneSection, Mapping[str, int] | None]:
    """The section as it reads for the network in hand, and widths where they follow from it without
    measuring. It has no target left where losing characters is all that is asked for, or enough.

    Raises:
        PruneError: the network is as small already.
    """
    source = config_hook.section_source()
    loses_characters = before is not plan_of(part.model)
    if not section.has_target:
        if loses_characters:
            return section, None
        raise PruneError(
            f"{source}: Prune.characters are the characters that {part.name or 'the model'} was "
            "left with already, so that nothing is pruned. Keep fewer; to fine-tune it as it is, "
            "set Prune.enable=false."
        )
    key, value = section.target
    own = section_for(section, before, step.step, step.steps)
    if section.ratio is not None and (before is not None and before.groups or step.steps > 1):
        groups = network.prunable(section, source)
        widths = widths_by_ratio(section, groups, before, step.step, step.steps)
        if removes(widths, groups):
            return section, widths
        own = None
    if own is None:
        assert before is not None
        if loses_characters:
            logger.info(
                f"prune: with the characters {part.name or 'the model'} loses "
                f"{before.flops.pruned:.1%} of the FLOPs (MACs) and {before.params.pruned:.1%} of "
                f"the parameters, as much as Prune.{key}: {value} asks for: all channels stay"
            )
            return section.without_target(), None
        raise PruneError(
            f"{source}: Prune.{key} is {value}, which counts from the unpruned network, and of "
            f"{part.name or 'the model'} {before.flops.pruned:.1%} of the FLOPs (MACs) and "
            f"{before.params.pruned:.1%} of the parameters are removed already. To fine-tune it as "
            "it is, set Prune.enable=false; to go on with its training, name it in "
            "Global.checkpoints; to prune more, ask for more."
        )
    return own, None


def _holders(arguments: Mapping[str, Any]) -> Holders:
    roots = {name: value for name, value in arguments.items() if name not in _NO_HOLDERS}
    return Holders(inner(arguments["model"]), roots)


def _prune_part(
    module: ModuleType,
    section: PruneSection,
    part: SubModel,
    network: Network,
    whole: Mapping[str, Any],
    folder: Path,
    begins: PruningPlan | None,
    widths: Mapping[str, int] | None,
) -> PruningPlan:
    """Prune one network of the model, as far as ``widths`` says or as the section asks for;
    ``begins``: what it had lost before."""
    used = in_use()
    arguments, logger = arguments_of(part, whole), whole["logger"]
    source = config_hook.section_source()
    if part.name:
        source = f"{source} ({part.name})"
        logger.info(f"prune: {part.name}" + (": the same widths" if widths is not None else ""))
    batches_folder, folder = folder, folder / part.name
    ranks = gather(folder)
    loader = arguments["valid_dataloader"]
    whole_reads, evaluation = None, None
    try:
        if loader is not None and len(loader) > 0:
            if ranks.rank == 0:
                whole_reads = whole_metric(part, module, arguments, section.sensitivity, folder)
            evaluation = PaddleOCREvaluation(module, arguments, section.sensitivity, folder)
        count = _for_recovery(section, whole) if section.has_target else 0
        batches = calibration_batches(whole, count, batches_folder, ranks) if count else []

        def settings(looks: bool) -> dict[str, str]:
            found = measured_settings(arguments["config"], _versions(module), batches)
            found |= {
                f"Prune.recovery.{key}": str(getattr(section.recovery, key))
                for key in ("compensate", "images")
            }
            if looks:
                seen = calibration_batches(whole, _for_gradients(section), batches_folder, ranks)
                found.update(gradient_settings(whole["config"], seen))
            return found

        return PruningRun(
            network,
            section,
            source,
            evaluation,
            [
                functools.partial(training_forward, part.model, few_images(batch), part.config)
                for batch in batches[: section.bn_batches]
            ],
            [
                functools.partial(training_forward, part.model, batch, part.config)
                for batch in first_images(batches, section.recovery.images)
            ],
            functools.partial(_gradients, section, part, whole, batches_folder, ranks),
            folder,
            logger,
            _versions(module),
            settings,
            ranks,
            widths,
            weights_file(part.model),
            None if used is None else used.alphabet,
            begins if begins is not plan_of(part.model) else None,
            whole_reads,
        ).run()
    finally:
        ranks.close()
        if evaluation is not None:
            evaluation.close()


def _gradients(
    section: PruneSection, part: SubModel, arguments: Mapping[str, Any], folder: Path, ranks: Ranks
) -> list[dict[str, Array]]:
    """Gradients of the training loss, for each calibration batch by itself; at least for one."""
    model, config = inner(arguments["model"]), arguments["config"]
    batches = calibration_batches(arguments, _for_gradients(section), folder, ranks)

    def loss(batch: Any) -> Any:
        return arguments["loss_class"](training_forward(model, batch, config), batch)["loss"]

    # The loss of a distillation model is one of all its networks together.
    found = batch_gradients(model, [functools.partial(loss, batch) for batch in batches])
    return [
        {
            name.removeprefix(part.prefix): gradient
            for name, gradient in gradients.items()
            if name.startswith(part.prefix)
        }
        for gradients in found
    ]


def _for_recovery(section: PruneSection, arguments: Mapping[str, Any]) -> int:
    """Number of batches that batch norms are re-estimated and moments are taken on."""
    loader = (arguments["config"].get("Train") or {}).get("loader") or {}
    images = section.recovery.images
    size = loader.get("batch_size_per_card")
    per_batch = size if isinstance(size, int) and size > 0 else images
    return max(section.bn_batches, -(-images // per_batch))


def _for_gradients(section: PruneSection) -> int:
    """Number of batches that gradients are taken on."""
    return max(section.bn_batches, 1)


def _versions(program: ModuleType) -> dict[str, str]:
    tree = Path(program.__file__ or ".").resolve().parent.parent
    return {"PaddleOCR": str(release_of(tree))}


def _require_epochs(settings: Mapping[str, Any], loaded: Mapping[str, Any]) -> None:
    """Refuse a run that would be analysed and pruned and then train no epoch."""
    epochs, start = settings["epoch_num"], loaded.get("start_epoch", 1)
    if start <= epochs:
        return
    done = settings.get("checkpoints")
    if done:
        raise PruneError(
            f"Global.checkpoints: {done} has trained {start - 1} epochs and Global.epoch_num is "
            f"{epochs}, so that nothing would be trained after pruning. To begin at epoch 1 with "
            f"its weights set Global.pretrained_model={done} and leave Global.checkpoints empty; "
            f"to go on, set Global.epoch_num above {start - 1}."
        )
    raise PruneError(
        f"Global.epoch_num is {epochs}, so that nothing would be trained after pruning. Set it to "
        "1 or more, or Prune.dry_run=true to see what pruning would do."
    )


def _require_trained(
    section: PruneSection, parts: Sequence[SubModel], settings: Mapping[str, Any], source: str
) -> None:
    if settings.get("checkpoints") or settings.get("pretrained_model") or section.allow_untrained:
        return
    random = [
        part for part in parts if not (part.name and part.config["Architecture"].get("pretrained"))
    ]
    if random and random[0].name:
        named = [part.name for part in random]
        raise PruneError(
            f"{source}: Global.pretrained_model, Global.checkpoints and Architecture.Models."
            f"{named[0]}.pretrained are all empty, so the weights of {' and '.join(named)} are "
            "random and ranking their filters means nothing. Train first, then set one of them to "
            "the result; Prune.allow_untrained=true prunes all the same."
        )
    if random:
        raise PruneError(
            f"{source}: Global.pretrained_model and Global.checkpoints are both empty, so the "
            "weights are random and ranking their filters means nothing. Train first, then set "
            "Global.pretrained_model to the result; Prune.allow_untrained=true prunes all the same."
        )


def _require_loaded(found: Sequence[Family], networks: Networks, source: str) -> None:
    used = in_use()
    for family in found:
        for part in family.members:
            network = networks.of(part)
            if family.section.has_target:
                require_loaded(part, network, network.prunable(family.section, source), source)
            if used is not None and used.alphabet is not None:
                require_classes(part, network, source)
