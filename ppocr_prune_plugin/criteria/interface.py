"""What a criterion is: the interface, and what the package asks of its answers."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt
import paddle

from ..errors import PruneError
from ..graph.groups import ChannelGroup, Member
from ..moments import ReadMoments, nothing_read

Array = npt.NDArray[Any]
Arrays = Mapping[str, Array]


@runtime_checkable
class Criterion(Protocol):
    """How important a filter is."""

    def importance(self, group: ChannelGroup, arrays: Arrays) -> Array:
        """Score the channels of a group; those with the lowest scores are removed first.

        Args:
            group: the channel group. ``group.root`` is the member that it is named after,
                ``group.producers`` are all members whose filters make the channels.
            arrays: parameter or buffer name → its values in the unpruned network.

        Returns:
            ``[group.size]`` finite real numbers, higher is more important.
        """


@runtime_checkable
class Selection(Protocol):
    """Instead of a :class:`Criterion`: one that chooses for each width and has no scores."""

    def keep(self, group: ChannelGroup, arrays: Arrays, width: int) -> Sequence[int]:
        """Indices, ``0 … group.size - 1``, of exactly ``width`` channels that stay."""


@dataclass(frozen=True)
class Context:
    """What a criterion may look at beside the weights, before the first group is scored.

    A criterion that has a method ``prepare(context)`` is given this once. ``gradients()`` runs some
    training batches through the network as it trains and returns, for each of them, parameter name
    → gradient of the training loss; nothing of that stays in the model. ``moments()`` runs some
    training images through the network in evaluation mode and returns the moments of what its
    layers read.
    """

    model: paddle.nn.Layer
    inputs: Sequence[Any]
    groups: Sequence[ChannelGroup]
    gradients: Callable[[], Sequence[Arrays]]
    moments: Callable[[], ReadMoments] = nothing_read


@runtime_checkable
class Prepared(Protocol):
    """A criterion with the optional second method."""

    def prepare(self, context: Context) -> None:
        """Called once, on the unpruned network."""


def filters(member: Member, arrays: Arrays) -> Array:
    """Weights of a member as ``[channels, numbers per channel]``, in the group's order.

    Half precision becomes single precision; else the weights' own precision is kept.
    """
    weight = arrays[member.parameter]
    weight = weight.astype(np.result_type(weight.dtype, np.float32), copy=False)
    chosen = np.moveaxis(weight, member.axis, 0)[member.indices]
    return np.ascontiguousarray(chosen.reshape(len(member.indices), -1))


class Ranking:
    """Which channels of one group stay, for any width; the criterion is asked only once."""

    def __init__(
        self, name: str, criterion: Criterion | Selection, group: ChannelGroup, arrays: Arrays
    ) -> None:
        self._name, self._criterion, self._group, self._arrays = name, criterion, group, arrays
        self._scores: Array | None = None

    def kept(self, width: int) -> tuple[int, ...]:
        """Sorted indices of ``width`` channels.

        Raises:
            PruneError: the criterion fails, or its answer is not what it should be.
        """
        if isinstance(self._criterion, Selection):
            return self._selected(self._criterion, width)
        if self._scores is None:
            self._scores = self._checked_scores(self._criterion)
        return kept_by_importance(self._scores, width)

    def _selected(self, criterion: Selection, width: int) -> tuple[int, ...]:
        kept = tuple(sorted(int(index) for index in self._call(criterion.keep, width)))
        size = self._group.size
        if len(set(kept)) != width or len(kept) != width or kept[0] < 0 or kept[-1] >= size:
            raise self._fault(
                f"was to keep {width} of {size} channels and keeps {len(kept)}: {_short(kept)}"
            )
        return kept

    def _checked_scores(self, criterion: Criterion) -> Array:
        result = self._call(criterion.importance)
        try:
            scores = np.asarray(result)
        except ValueError as error:
            raise self._fault(f"returns no array ({error})") from error
        if scores.dtype.kind not in "fiub":
            raise self._fault(f"returns {type(result).__name__} instead of an array of numbers")
        if scores.shape != (self._group.size,):
            raise self._fault(
                f"returns scores of the shape {list(scores.shape)} for {self._group.size} channels;"
                f" they should have the shape [{self._group.size}]"
            )
        if not np.isfinite(scores).all():
            bad = np.flatnonzero(~np.isfinite(scores)).tolist()
            raise self._fault(f"returns scores that are not finite, for the channels {_short(bad)}")
        return scores

    def _call(self, method: Callable[..., Any], *more: int) -> Any:
        try:
            return method(self._group, self._arrays, *more)
        except PruneError:
            raise
        except Exception as error:  # whatever a criterion from outside raises
            raise self._fault(f"failed with {type(error).__name__}: {error}") from error

    def _fault(self, problem: str) -> PruneError:
        return PruneError(
            f"Prune.criterion: {self._name}, asked about the layer {self._group.name}, {problem}."
        )


def kept_by_importance(scores: Array, kept_channels: int) -> tuple[int, ...]:
    """Indices of the channels that stay, sorted.

    The order of equals is that of NumPy's default sort, which is what PaddleSlim uses.
    """
    order = np.argsort(scores)
    return tuple(sorted(order[len(order) - kept_channels :].tolist()))


def _short(items: Sequence[int]) -> str:
    shown = ", ".join(str(item) for item in items[:8])
    return shown + (", …" if len(items) > 8 else "")
