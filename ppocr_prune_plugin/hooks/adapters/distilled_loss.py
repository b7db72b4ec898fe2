"""The loss of a config with what the unpruned network teaches added: ``loss_class`` of
``tools.program.train``."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median
from typing import Any

import paddle

from ...errors import exit_on_error
from ...recovery import lessons
from ...recovery.teacher import Caught, Teacher
from .calls import training_forward
from .sub_models import SubModel
from .teaching import taught
from .unlabelled import Unlabelled

Precision = Callable[[], AbstractContextManager[Any]]

# The names under which PaddleOCR's log shows what is added.
TERM, FEATURES = "loss_distill", "loss_distill_features"
# Steps whose times are taken, after some in which memory is made ready.
_WARM, _TIMED = 2, 5
_AMP = {
    "amp_level": "level",
    "amp_custom_black_list": "custom_black_list",
    "amp_custom_white_list": "custom_white_list",
    "amp_dtype": "dtype",
}


@dataclass(frozen=True)
class Pupil:
    """A pruned network of the model that is trained, what its parts give, and its teacher."""

    part: SubModel
    caught: Caught
    teacher: Teacher


class DistilledLoss:
    """Called as the loss of the config, with what the model answers to a batch.

    Args:
        original: the loss of the config.
        pupils: who is taught.
        weight: of what is added.
        precision: under what networks are run.
        unlabelled: further images, as many as are in a batch, for this alone.
        logger: told once what it costs.
    """

    def __init__(
        self,
        original: Any,
        pupils: Sequence[Pupil],
        weight: float,
        precision: Precision,
        unlabelled: Unlabelled | None,
        logger: logging.Logger,
    ) -> None:
        self._original = original
        self._pupils = pupils
        self._weight = weight
        self._precision = precision
        self._unlabelled = unlabelled
        self._watch = _Stopwatch(logger)

    @exit_on_error
    def __call__(self, preds: Any, batch: Any) -> dict[str, Any]:
        """PaddleOCR's losses by name, the sum with what is added, and that by itself."""
        losses = dict(self._original(preds, batch))
        self._watch.start()
        answers: list[paddle.Tensor] = []
        features: list[paddle.Tensor] = []
        for pupil in self._pupils:
            own = preds[pupil.part.name] if pupil.part.name else preds
            self._compare(pupil, own, batch, True, answers, features)
        if self._unlabelled is not None:
            images = self._unlabelled.batch(batch[0])
            more = [images, *batch[1:]]  # of the labels only the form counts
            for pupil in self._pupils:
                with self._precision():
                    own = training_forward(pupil.part.model, more, pupil.part.config)
                self._compare(pupil, own, more, False, answers, features)
        for name, terms in ((TERM, answers), (FEATURES, features)):
            if terms:
                losses[name] = self._weight * paddle.add_n(terms)
                losses["loss"] = losses["loss"] + losses[name]
        self._watch.stop()
        return losses

    def _compare(
        self,
        pupil: Pupil,
        own: Any,
        batch: Any,
        labelled: bool,
        answers: list[paddle.Tensor],
        features: list[paddle.Tensor],
    ) -> None:
        config = pupil.part.config
        given = pupil.caught.take()
        with self._precision():
            answer, wanted = pupil.teacher.answer(
                functools.partial(_run, batch=batch, config=config)
            )
        answers += taught(config, own, answer, labelled)
        if given:
            compared = [
                lessons.features(s.astype("float32"), t.astype("float32"))
                for s, t in zip(given, wanted, strict=True)
            ]
            features.append(paddle.add_n(compared) / len(compared))


def precision_of(arguments: Mapping[str, Any]) -> Precision:
    """What ``tools.program.train`` with these arguments runs a model under."""
    if arguments.get("scaler") is None:
        return nullcontext
    given = {ours: arguments[theirs] for theirs, ours in _AMP.items() if theirs in arguments}
    return functools.partial(paddle.amp.auto_cast, **given)


def _run(model: paddle.nn.Layer, batch: Any, config: Mapping[str, Any]) -> Any:
    return training_forward(model, batch, config)


class _Stopwatch:
    """Tells once how long a step takes, and how much of it is between start and stop."""

    def __init__(self, logger: logging.Logger) -> None:
        self._logger = logger
        self._begun: list[float] = []
        self._spent: list[float] = []

    def start(self) -> None:
        if len(self._begun) <= _WARM + _TIMED:
            self._begun.append(_now())

    def stop(self) -> None:
        if len(self._spent) < _WARM + _TIMED:
            self._spent.append(_now() - self._begun[-1])
        elif len(self._spent) == _WARM + _TIMED:
            self._spent.append(0.0)
            steps = [b - a for a, b in zip(self._begun, self._begun[1:], strict=False)]
            step, spent = median(steps[_WARM:]), median(self._spent[_WARM : _WARM + _TIMED])
            self._logger.info(
                f"prune: {step:.2f} s per step with the teacher, {step - spent:.2f} s without"
            )


def _now() -> float:
    if paddle.device.get_device() != "cpu":
        paddle.device.synchronize()
    return time.perf_counter()
