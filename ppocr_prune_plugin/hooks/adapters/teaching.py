"""What of a PaddleOCR network's answer the unpruned network teaches, by its head."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import paddle

from ...errors import PruneError
from ...recovery import lessons
from ...section import DistillOptions

Lesson = Callable[[paddle.Tensor, paddle.Tensor], paddle.Tensor]

_CTC, _ATTENTION = lessons.averaged_over_time, lessons.decoupled
# Head → lesson by the name of the answer in what the head gives when it trains ("": all of it).
_LESSONS: dict[str, dict[str, Lesson]] = {
    **dict.fromkeys(("DBHead", "PFHeadLocal"), {"maps": lessons.soft_maps}),
    "CTCHead": {"": _CTC},
    "ClsHead": {"": lessons.probabilities},
    **dict.fromkeys(("AttentionHead", "SARHead", "Transformer"), {"": _ATTENTION}),
    "MultiHead": {"ctc": _CTC, **dict.fromkeys(("sar", "gtc", "nrtr"), _ATTENTION)},
}


def require_teachable(
    config: Mapping[str, Any], options: DistillOptions, unlabelled: bool, source: str
) -> None:
    """Raise :class:`PruneError` where nothing of a network could be taught.

    Args:
        config: the config of the network.
        options: how it is to be taught.
        unlabelled: images without labels are to be added.
        source: the config's file, for messages.
    """
    head, known = _head(config), ", ".join(_LESSONS)
    if head not in _LESSONS and not options.features:
        raise PruneError(
            f"{source}: Prune.recovery.distill: what {head} answers cannot be compared (known: "
            f"{known}). Set Prune.recovery.distill.features: true to compare features alone, or "
            "Prune.recovery.distill: false."
        )
    if unlabelled and not any(lesson is not _ATTENTION for lesson in _lessons(config).values()):
        raise PruneError(
            f"{source}: Prune.recovery.unlabelled: {head} reads labels while it trains. Images "
            "without labels serve DB-like detectors, CTC recognisers and classifiers; leave the "
            "key away."
        )


def taught(
    config: Mapping[str, Any], student: Any, teacher: Any, labelled: bool = True
) -> list[paddle.Tensor]:
    """What the student's answers are away from the teacher's.

    Args:
        config: the config of the network.
        student: what it answers in training.
        teacher: what its teacher answers, in the same form.
        labelled: whether both were given the labels of these images.
    """
    found = []
    for name, lesson in _lessons(config).items():
        s, t = _answer(student, name), _answer(teacher, name)
        if s is None or t is None or (lesson is _ATTENTION and not labelled):
            continue
        s, t = s.astype("float32"), t.astype("float32")
        if lesson is lessons.soft_maps:
            s, t = s[:, 0], t[:, 0]  # the map that is shrunk; the others are for training alone
        found.append(lesson(s, t))
    return found


def _lessons(config: Mapping[str, Any]) -> Mapping[str, Lesson]:
    return _LESSONS.get(_head(config), {})


def _head(config: Mapping[str, Any]) -> str:
    return str((config["Architecture"].get("Head") or {}).get("name"))


def _answer(answers: Any, name: str) -> paddle.Tensor | None:
    """One answer of what a network gives; None where it does not give it."""
    if isinstance(answers, Mapping) and name not in answers:
        answers = answers.get("head_out")  # with ``return_all_feats``
    if name and isinstance(answers, Mapping):
        answers = answers.get(name)
    if isinstance(answers, tuple | list) and answers:
        answers = answers[-1]  # a head with ``return_feats`` gives them first
    return answers if isinstance(answers, paddle.Tensor) else None
