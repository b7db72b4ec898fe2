"""Is an exported model the network that it was made from?

Its answers are compared on several inputs, and its weights one by one. How large a difference
counts depends on what the answers say: a text map that is 1e-7 everywhere says nothing but by what
it varies, and a difference of 1e-3 of *that* is one. Answers vary with the input, or they are none:
what a network says to every input cannot tell it from another. And they are only as good as the
arithmetic behind them: an input off by one rounding shows how much of an answer is noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import paddle

from ..errors import PruneError
from .inputs import candidates, nudged

Array = npt.NDArray[Any]
Run = Callable[[Sequence[Any]], list[Array]]

# Of what an output varies by. Branches that an export makes one are summed in another order: with
# four of them 1.3e-4 was seen. A wrong channel, or one wrong weight, changes outputs by far more.
TOLERANCE = 1e-3
# Differences up to so many times the noise are allowed, too.
_NOISE_MARGIN = 10.0
# Where that is more than this share of what an output varies by, the output proves nothing.
_DROWNED = 0.1
# Where float32 ends, engines differ: what sigmoid leaves of -87 is 1.6e-38 in one and 0 in another.
_END_OF_NUMBERS = 2 * float(np.finfo(np.float32).tiny)


class Differs(PruneError):
    """An exported model is not the network that it was made from."""


class Exported(Protocol):
    """An exported model in whatever runs it; see :class:`.exported.ExportedModel`."""

    def run(self, inputs: Sequence[Sequence[Any]]) -> list[list[Array]]:
        """For each of the inputs all outputs."""

    def weights(self) -> dict[str, Array]:
        """Its numbers, by the names that Paddle gave them, as far as it has them."""


@dataclass(frozen=True)
class Agreement:
    """An exported model and its network agree.

    ``difference`` is the largest of any output, as a share of what it varies by; None where no
    output could be compared, for the reason ``why``. ``inputs`` counts those that were tried,
    ``weights`` the parameters that were found to be the same.
    """

    difference: float | None
    inputs: int
    weights: int
    why: str = ""


class Reference:
    """What a network answers, noted before it is exported."""

    def __init__(self, run: Run, inputs: Sequence[Any], tolerance: float = TOLERANCE) -> None:
        """Args:
        run: gives the network's outputs, in inference mode, for arrays in the order of its
            ``forward``; it is not needed afterwards.
        inputs: ``(shape, dtype)`` pairs, or arrays for what has to be as it is.
        tolerance: share of what an output varies by that may differ.
        """
        self._tolerance = tolerance
        self.inputs = candidates(inputs)
        self._answers = [_precise(run(arrays)) for arrays in self.inputs]
        self._again = [_precise(run(nudged(inputs, arrays))) for arrays in self.inputs]

    def compare(self, exported: Exported, weights: Mapping[str, tuple[str, Array]]) -> Agreement:
        """Look at the weights of an exported model, and run it.

        Args:
            exported: the model.
            weights: Paddle's name of a tensor → its name in the network, and its numbers; of the
                network as it was exported. Names that only one of the two has are passed over.

        Raises:
            Differs: it is another network; the message has no path in it.
            CannotRun: Paddle Inference cannot run it.
        """
        same = _compare_weights(exported.weights(), weights) if weights else 0
        answers = [_precise(outputs) for outputs in exported.run(self.inputs)]
        count = len(self._answers[0])
        if len(answers[0]) != count:
            raise Differs(f"it has {len(answers[0])} outputs instead of {count}")
        shares, reasons = [], []
        for number in range(count):
            share, reason = self._compare_output(number, answers)
            shares += [] if share is None else [share]
            reasons += [reason] if reason else []
        if not shares:
            why = reasons[0] if reasons else "it has no outputs"
            return Agreement(None, len(self.inputs), same, why)
        return Agreement(max(shares), len(self.inputs), same)

    def _compare_output(
        self, number: int, answers: Sequence[Sequence[Array]]
    ) -> tuple[float | None, str]:
        """The difference of one output over all inputs as a share of what it varies by, or why
        that says nothing."""
        expected = [outputs[number] for outputs in self._answers]
        found = [outputs[number] for outputs in answers]
        shapes = [a.shape for a in found], [a.shape for a in expected]
        if shapes[0] != shapes[1]:
            raise Differs(f"output {number} has the shapes {shapes[0]} instead of {shapes[1]}")
        noise = [
            max(_difference(a, outputs[number]), _END_OF_NUMBERS)
            for a, outputs in zip(expected, self._again, strict=True)
        ]
        steady, spread = _steady(expected, noise)
        size = _size(expected)
        places, scale = (steady, spread) if steady else (list(range(len(expected))), size)
        difference = max(_difference(expected[place], found[place]) for place in places)
        allowed = max(self._tolerance * scale, *(_NOISE_MARGIN * noise[place] for place in places))
        if difference > allowed:
            what = "what it varies by" if steady else "its largest value"
            raise Differs(
                f"output {number} differs by {difference / (scale or 1):.2e} of {what} (allowed: "
                f"{allowed / (scale or 1):.0e}) on some of {len(places)} inputs"
            )
        if steady:
            return difference / spread, ""
        if not all(np.isfinite(a).all() for a in expected):
            return None, "its outputs are not finite"
        if max(noise) <= max(TOLERANCE * size, _END_OF_NUMBERS):
            return None, "the network answers nearly the same to every input that was tried"
        return None, "the network answers otherwise when an input is off by no more than a rounding"


def weights_of(model: paddle.nn.Layer) -> dict[str, tuple[str, Array]]:
    """Parameters and buffers: Paddle's name → name in the network, and numbers."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {tensor.name: (name, tensor.numpy()) for name, tensor in tensors}


def _compare_weights(stored: Mapping[str, Array], weights: Mapping[str, tuple[str, Array]]) -> int:
    """How many are the same; raises :class:`Differs` where some are not."""
    both = {name: array for name, array in stored.items() if name in weights}
    wrong = [
        weights[name][0]
        for name, array in both.items()
        if not np.array_equal(array, weights[name][1], equal_nan=array.dtype.kind == "f")
    ]
    if wrong:
        raise Differs(
            f"{len(wrong)} of {len(both)} weights have other values, the first is {wrong[0]}"
        )
    return len(both)


def _precise(outputs: Sequence[Array]) -> list[Array]:
    """Outputs as float64, so that differences are exact."""
    return [np.asarray(output, np.float64) for output in outputs]


def _difference(some: Array, others: Array) -> float:
    """The largest; infinite where shapes differ, or a number stands for none."""
    if some.shape != others.shape:
        return float("inf")
    same = (some == others) | (np.isnan(some) & np.isnan(others))
    with np.errstate(invalid="ignore"):
        found = np.where(same, 0.0, np.abs(some - others))
    return float(np.nan_to_num(found, nan=np.inf, posinf=np.inf).max(initial=0))


def _steady(answers: Sequence[Array], noise: Sequence[float]) -> tuple[list[int], float]:
    """Which answers the noise does not drown, and by how much those vary."""
    places = list(range(len(answers)))
    while places:
        spread = _variation([answers[place] for place in places])
        kept = [p for p in places if spread > 0 and _NOISE_MARGIN * noise[p] <= _DROWNED * spread]
        if kept == places:
            return places, spread
        places = kept
    return [], 0.0


def _size(answers: Sequence[Array]) -> float:
    """The largest finite value."""
    return max(float(np.abs(a[np.isfinite(a)]).max(initial=0)) for a in answers)


def _variation(answers: Sequence[Array]) -> float:
    """By how much the answers to several inputs differ, at most, in one place; 0 where they are
    not all finite. Answers of several lengths differ by what there is in them."""
    if not all(np.isfinite(a).all() for a in answers):
        return 0.0
    if len({a.shape for a in answers}) > 1:
        return max(float(np.ptp(a)) if a.size else 0.0 for a in answers)
    stacked = np.stack(answers)
    return float((stacked.max(0) - stacked.min(0)).max(initial=0)) if stacked.size else 0.0
