"""What a pruned network is taught: distances between its answers and those of the unpruned one.

One function for each kind of answer. Each takes ``student`` and ``teacher``, of one shape, in full
precision, and returns one number that is 0 where both are equal; gradients go to the student.
"""

from __future__ import annotations

from typing import TypeAlias

import paddle
import paddle.nn.functional as F

_LEAST = 1e-6  # of probabilities, so that logarithms are finite
# Weight of the cross entropy beside Dice: that of DB's own loss (Liao et al., AAAI 2020).
_CROSS_ENTROPY = 5.0
# Of the two parts of decoupled distillation, for decoders of text (PP-OCRv4's recipe).
_ATTENTION = 0.1

Tensor: TypeAlias = paddle.Tensor


def soft_maps(student: Tensor, teacher: Tensor) -> Tensor:
    """Maps of probabilities ``[batch, height, width]``: 5 x cross entropy (above the teacher's own
    entropy) + Dice, of squares, so that it is 0 for equal soft maps."""
    s, t = _probable(student), _probable(teacher)
    entropy = t * (paddle.log(t) - paddle.log(s))
    entropy = entropy + (1 - t) * (paddle.log(1 - t) - paddle.log(1 - s))
    power = (s * s).sum(axis=[1, 2]) + (t * t).sum(axis=[1, 2])
    dice = 1 - 2 * (s * t).sum(axis=[1, 2]) / power
    return _CROSS_ENTROPY * entropy.mean() + dice.mean()


def averaged_over_time(student: Tensor, teacher: Tensor) -> Tensor:
    """Logits of a CTC head ``[batch, steps, classes]``, averaged over the steps before they are
    compared: where in a line a character is read is left to the student (PP-OCRv4's recipe)."""
    return probabilities(student.mean(axis=1), teacher.mean(axis=1))


def probabilities(student: Tensor, teacher: Tensor) -> Tensor:
    """Logits of a classifier ``[…, classes]``: KL divergence of the probabilities (Hinton et al.,
    2015, at temperature 1)."""
    return _divergence(F.log_softmax(student, axis=-1), F.log_softmax(teacher, axis=-1))


def decoupled(student: Tensor, teacher: Tensor) -> Tensor:
    """Logits of an attention head ``[batch, steps, classes]``: decoupled distillation (Zhao et al.,
    CVPR 2022), with what the teacher reads as the target class, both parts alike."""
    target = F.one_hot(teacher.argmax(axis=-1), teacher.shape[-1]).astype(teacher.dtype)
    both = [_decoupled(logits, target) for logits in (student, teacher)]
    (s_target, s_others), (t_target, t_others) = both
    return _ATTENTION * (_divergence(s_target, t_target) + _divergence(s_others, t_others))


def features(student: Tensor, teacher: Tensor) -> Tensor:
    """Values between the parts of a network: mean squared difference, in units of the teacher's
    variance."""
    difference = (student - teacher).square().mean()
    return difference / paddle.clip(teacher.var(), min=_LEAST)


def _decoupled(logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Logarithms of the probabilities ``[…, 2]`` of the target class and of all others together,
    and of the others among themselves ``[…, classes]``."""
    away = logits - 1e4 * target
    own = (logits * target).sum(axis=-1, keepdim=True)
    rest = paddle.logsumexp(away, axis=-1, keepdim=True)
    return F.log_softmax(paddle.concat([own, rest], axis=-1), -1), F.log_softmax(away, -1)


def _divergence(student: Tensor, teacher: Tensor) -> Tensor:
    """KL divergence of logarithms of probabilities, the mean over all but the last axis."""
    return (teacher.exp() * (teacher - student)).sum(axis=-1).mean()


def _probable(maps: Tensor) -> Tensor:
    return paddle.clip(maps, min=_LEAST, max=1 - _LEAST)
