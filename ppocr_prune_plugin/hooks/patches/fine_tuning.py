"""How a pruned network is trained by PaddleOCR's own loop: taught by the unpruned one, with batch
norms that keep their statistics, and warned of what is going to spoil it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import paddle

from ...errors import PruneError
from ...network import Network
from ...plan import PruningPlan
from ...recovery.batch_norm import freeze
from ...recovery.teacher import Caught, Teacher
from ...section import PruneSection
from ..adapters import learning_rate, shrink_ratio
from ..adapters.distilled_loss import DistilledLoss, Pupil, precision_of
from ..adapters.networks import Networks
from ..adapters.sub_models import SubModel
from ..adapters.teaching import require_teachable
from ..adapters.tree import tree_in_use
from ..adapters.unlabelled import Unlabelled, image_files
from ..adapters.unpruned import rebuilt, require_trained
from . import config as config_hook

# Images that a detector's shrink ratio is measured on.
_LOOKED_AT = 64
# Below so many training images, or with so low a rate, `freeze_bn: auto` freezes the batch norms of
# compensated networks (docs/recovery.md).
_FEW_IMAGES, _SLOW = 10_000, 1e-4


class FineTuning:
    """What is done to the training of a pruned model.

    Args:
        section: what the config asks for.
        arguments: what ``program.train`` was called with; its loss is replaced by :meth:`begin`.
        parts: the networks that are pruned.

    Raises:
        PruneError: what is asked for does not go together with this config.
    """

    def __init__(
        self,
        section: PruneSection,
        arguments: MutableMapping[str, Any],
        parts: Sequence[SubModel],
    ) -> None:
        self._section, self._arguments, self._parts = section, arguments, parts
        self._source = config_hook.section_source()
        self._unpruned: dict[str, Network] = {}
        options = section.recovery
        self._images = image_files(options.unlabelled, self._source)
        self._loss = arguments["loss_class"]
        self._hooks: list[Any] = []
        self._compiled = bool(arguments["config"]["Global"].get("to_static"))
        if options.freeze_bn:
            self._require_dynamic("freeze_bn", "keeps the mode that it began in")
        if options.distill is None:
            return
        for part in parts:
            require_teachable(part.config, options.distill, bool(self._images), self._source)
        self._require_dynamic("distill", "gives away nothing of what is inside")

    def _require_dynamic(self, key: str, why_not: str) -> None:
        if self._compiled:
            raise PruneError(
                f"{self._source}: Prune.recovery.{key}: a compiled forward (Global.to_static: "
                f"true) {why_not}. Set one of them to false."
            )

    def keep_unpruned(self, networks: Networks) -> None:
        """Before the cut: note what the networks are now. They are in full precision.

        Raises:
            PruneError: a network that is to teach has random weights.
        """
        if self._section.recovery.distill is None or self._section.dry_run:
            return
        for part in self._parts:
            network = networks.of(part)
            require_trained(part, network, self._source)
            twin = copy.deepcopy(part.model)
            self._unpruned[part.name] = dataclasses.replace(network, model=twin)

    def find_unpruned(self, plans: Mapping[str, PruningPlan]) -> None:
        """Of a run that is resumed: make the unpruned networks anew from their weights.

        Raises:
            PruneError: these are not found again.
        """
        if self._section.recovery.distill is None:
            return
        stated = self._arguments["config"]["Global"].get("pretrained_model")
        others = [stated] if isinstance(stated, str) and stated else []
        networks = Networks()
        for part in self._parts:
            file = plans[part.name].unpruned.get("")
            self._unpruned[part.name] = rebuilt(part, file, others, networks)

    def look(self) -> None:
        """Before the cut: warn where the config trains towards something else than the networks
        were trained for, or so fast that they forget it."""
        if paddle.distributed.get_rank() != 0 or not self._section.has_target:
            return
        logger, config = self._arguments["logger"], self._arguments["config"]
        target = shrink_ratio.target_of(config, shrink_ratio.grows_in(tree_in_use()))
        dataset = getattr(self._arguments["train_dataloader"], "dataset", None)
        for part in self._parts if target is not None and hasattr(dataset, "ops") else ():
            found = shrink_ratio.measured(part.model, dataset, _LOOKED_AT)
            said = None if found is None or target is None else shrink_ratio.warning(target, *found)
            if said:
                logger.warning(f"prune: {f'{part.name}: ' if part.name else ''}{said}")
        too_fast = learning_rate.warning(config, self._section.recovery.compensate)
        if too_fast:
            logger.warning(f"prune: {too_fast}")

    def begin(self, plans: Mapping[str, PruningPlan]) -> None:
        """After the cut: set up what goes on during the training.

        Args:
            plans: those of the networks, by name. Where they cut no channels, what is left has
                lost nothing that training would have to give back.
        """
        if not any(plan.groups for plan in plans.values()):
            return
        self._freeze_norms()
        self._teach(plans)

    def end(self) -> None:
        """Undo :meth:`begin`: the networks are going to be pruned further."""
        self._arguments["loss_class"] = self._loss
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def _freeze_norms(self) -> None:
        logger, recovery = self._arguments["logger"], self._section.recovery
        if recovery.freeze_bn is not None:
            chosen, why = recovery.freeze_bn, "as Prune.recovery.freeze_bn says"
        else:
            chosen, why = self._auto()
            why = f"Prune.recovery.freeze_bn: auto; {why}"
        for part in self._parts if chosen else ():
            self._hooks += freeze(part.model)
        if self._hooks or not chosen:
            keep = "keep their statistics" if chosen else "go on taking statistics"
            logger.info(f"prune: batch norms {keep} while training ({why})")

    def _auto(self) -> tuple[bool, str]:
        """Whether batch norms are frozen, and why: the same whenever the run is resumed."""
        images = len(self._arguments["train_dataloader"].dataset)
        rate = learning_rate.peak(self._arguments["config"])
        if not self._section.recovery.compensate:
            return False, "nothing was compensated"
        if self._compiled:
            return False, "a compiled forward (Global.to_static) keeps the mode that it began in"
        if images < _FEW_IMAGES:
            return True, f"compensated, and {images} training images are few"
        if rate is not None and rate <= _SLOW:
            return True, f"compensated, and a learning rate of {rate:g} is low"
        return False, f"{images} training images are many"

    def _teach(self, plans: Mapping[str, PruningPlan]) -> None:
        arguments, recovery = self._arguments, self._section.recovery
        options, logger = recovery.distill, arguments["logger"]
        if options is None:
            return
        pupils = []
        for part in self._parts:
            groups = plans[part.name].groups
            teacher = Teacher(self._unpruned.pop(part.name), groups, options.features)
            pupils.append(Pupil(part, Caught(part.model, teacher.places), teacher))
            self._hooks += pupils[-1].caught.hooks
        unlabelled = None
        if self._images:
            dataset = getattr(arguments["train_dataloader"], "dataset", None)
            rank = paddle.distributed.get_rank()
            unlabelled = Unlabelled(self._images, arguments["config"], dataset, rank)
        arguments["loss_class"] = DistilledLoss(
            arguments["loss_class"],
            pupils,
            options.weight,
            precision_of(arguments),
            unlabelled,
            logger,
        )
        places = [f"{pupil.part.prefix}{p}" for pupil in pupils for p in pupil.teacher.places]
        logger.info(
            f"prune: taught by the unpruned network, with weight {options.weight:g}"
            + (f", features compared at {', '.join(places)}" if places else "")
            + (f", on {len(self._images)} images without labels, too" if self._images else "")
        )
