"""The pruned structure of a network, by names: what it is rebuilt from without a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Change:
    """A quantity of the whole network before and after pruning."""

    before: int
    after: int

    @property
    def pruned(self) -> float:
        """Share removed, between 0 and 1."""
        return 1 - self.after / self.before if self.before else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON."""
        return {"before": self.before, "after": self.after, "pruned": round(self.pruned, 6)}


@dataclass(frozen=True)
class SizeAttribute:
    """An integer of a layer (``num_heads``), or the one at ``place`` in a list (``embed_dim``),
    that follows the length of a parameter's axis: it is ``value`` where that axis is ``length``
    long, and in proportion where it is shorter."""

    layer: str
    name: str
    value: int
    parameter: str
    axis: int
    length: int
    place: int | None = None

    def at(self, length: int) -> int:
        """What it has to be when the axis has another length."""
        return self.value * length // self.length

    def holds_in(self, layer: object) -> bool:
        """Whether the layer, as it is built, has this value there."""
        found: Any = getattr(layer, self.name, None)
        if self.place is None:
            return type(found) is int and found == self.value
        if not isinstance(found, list | tuple) or len(found) <= self.place:
            return False
        return bool(found[self.place] == self.value)


@dataclass(frozen=True)
class PrunedStructure:
    """Everything about a pruned network but the numbers in it.

    ``axes`` holds what every axis that loses channels measured before and measures after, per
    parameter or buffer; pruning says nothing about any other axis. ``multipliers`` and
    ``attributes`` are those of the channel graph. ``flops`` and ``params`` are the network's costs
    when it was pruned.
    """

    axes: Mapping[str, Mapping[int, tuple[int, int]]]
    flops: Change
    params: Change
    multipliers: Mapping[str, int] = field(default_factory=dict)
    attributes: tuple[SizeAttribute, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON."""
        return {
            "flops": self.flops.as_dict(),
            "params": self.params.as_dict(),
            "axes": {
                name: {str(axis): list(lengths) for axis, lengths in axes.items()}
                for name, axes in self.axes.items()
            },
            "multipliers": dict(self.multipliers),
            "attributes": [dataclasses.asdict(item) for item in self.attributes],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> PrunedStructure:
        """Read that form; raises AttributeError, KeyError, TypeError or ValueError for anything
        else."""
        axes = {
            str(name): {int(axis): _lengths(name, pair) for axis, pair in own.items()}
            for name, own in content["axes"].items()
        }
        flops, params = (
            Change(_count(content[key]["before"]), _count(content[key]["after"]))
            for key in ("flops", "params")
        )
        multipliers = {str(n): _count(count, 1) for n, count in content["multipliers"].items()}
        attributes = tuple(_attribute(item) for item in content["attributes"])
        return cls(axes, flops, params, multipliers, attributes)


def _lengths(name: str, pair: Any) -> tuple[int, int]:
    before, after = (_count(number, 1) for number in pair)
    if before <= after:
        raise ValueError(f"{name}: an axis of {before} becomes {after}")
    return before, after


def _attribute(item: Mapping[str, Any]) -> SizeAttribute:
    place = item["place"]
    return SizeAttribute(
        str(item["layer"]),
        str(item["name"]),
        _count(item["value"]),
        str(item["parameter"]),
        _count(item["axis"]),
        _count(item["length"], 1),
        None if place is None else _count(place),
    )


def _count(number: Any, least: int = 0) -> int:
    if type(number) is not int or number < least:
        raise ValueError(f"{number!r} is no whole number of {least} or more")
    return number
