"""Pruning in steps: between them PaddleOCR's own loop trains a part of the epochs."""

from __future__ import annotations

import inspect
import platform
from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from ...errors import PruneError
from ...plan import Progress, PruningPlan
from ...section import PruneSection

KEY = "Prune.schedule"
# What the loop writes its curves to, by the names that releases give it.
_WRITERS = ("vdl_writer", "log_writer")


def begun(
    section: PruneSection, plan: PruningPlan | None, arguments: Mapping[str, Any], source: str
) -> Progress:
    """How far pruning has come; a single cut counts as a schedule of one step.

    Args:
        section: what the config asks for.
        plan: what a checkpoint carries from which training goes on; None where a run begins.
        arguments: of ``program.train``.
        source: where the section is written, for messages.

    Raises:
        PruneError: the schedule is not that of the checkpoint, or longer than the training.
    """
    epoch = _epoch(arguments)
    if plan is not None and plan.progress is not None:
        _require_same(section, plan.progress, source)
        return plan.progress
    if plan is not None:
        return Progress(1, 1, 1, epoch)
    if section.schedule is None or section.dry_run:
        return Progress(0, 1, 1, epoch)
    steps, epochs = section.schedule.steps, section.schedule.epochs
    last = epoch + (steps - 1) * epochs
    end = arguments["config"]["Global"]["epoch_num"]
    if last > end:
        raise PruneError(
            f"{source}: {KEY} prunes {steps} times with {epochs} epochs between, the last time "
            f"before epoch {last}, and Global.epoch_num is {end}. Set Global.epoch_num to {last} "
            "or more (the last cut needs epochs of training, too), or a shorter schedule."
        )
    return Progress(0, steps, epochs, epoch)


def is_due(done: Progress, arguments: Mapping[str, Any]) -> bool:
    """Whether the next step comes now, before any further epoch."""
    return not done.done and _epoch(arguments) >= done.next_epoch


def _epoch(arguments: Mapping[str, Any]) -> int:
    """The epoch that training begins with."""
    return int(arguments["pre_best_model_dict"].get("start_epoch", 1))


def _require_same(section: PruneSection, found: Progress, source: str) -> None:
    """Where a schedule is half done it is the one to go on with."""
    stated = section.schedule
    if found.done or (stated and (stated.steps, stated.epochs) == (found.steps, found.epochs)):
        return
    own = f"{{steps: {found.steps}, epochs: {found.epochs}}}"
    here = "is not there"
    if stated is not None:
        here = f"is {{steps: {stated.steps}, epochs: {stated.epochs}}} here"
    raise PruneError(
        f"{source}: {KEY}: the checkpoint has done step {found.step} of {own}, and the key {here}. "
        f"Set it to {own} to go on; Prune.enable=false trains the checkpoint as it is."
    )


def train_until(original: Callable[..., Any], call: inspect.BoundArguments, done: Progress) -> None:
    """Run PaddleOCR's loop up to the next step, so that it can be called again to go on.

    Args:
        original: ``program.train``.
        call: its arguments, which say where to begin, and afterwards where to go on.
        done: how far pruning has come.
    """
    arguments: MutableMapping[str, Any] = call.arguments
    settings, best = arguments["config"]["Global"], arguments["pre_best_model_dict"]
    end, first, epoch = settings["epoch_num"], _epoch(arguments), done.next_epoch - 1
    writers = {key: arguments[key] for key in _WRITERS if arguments.get(key) is not None}
    arguments["logger"].info(
        f"prune: step {done.step} of {done.steps}: epochs {first} to {epoch} of {end} are trained"
    )
    settings["epoch_num"] = epoch
    arguments.update({key: _Open(writer) for key, writer in writers.items()})
    try:
        original(*call.args, **call.kwargs)
    finally:
        settings["epoch_num"] = end
        arguments.update(writers)
    batches = len(arguments["train_dataloader"]) - (platform.system() == "Windows")
    best["global_step"] = best.get("global_step", 0) + (epoch - first + 1) * batches
    best["start_epoch"] = epoch + 1


class _Open:
    """A writer that stays open when the loop, at its end, closes it."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._writer, name)

    def close(self) -> None:
        pass
