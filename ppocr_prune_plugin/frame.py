"""The pruned structure in a model's own terms: what a network is rebuilt from without a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Shape = tuple[int, ...]


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
class Frame:
    """Everything about a pruned network but the numbers in it.

    ``shapes`` holds before and after of each parameter and buffer that becomes smaller,
    ``multipliers`` and ``attributes`` are those of the channel graph.
    """

    shapes: Mapping[str, tuple[Shape, Shape]]
    multipliers: Mapping[str, int]
    attributes: tuple[SizeAttribute, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON."""
        return {
            "shapes": {name: [list(a), list(b)] for name, (a, b) in self.shapes.items()},
            "multipliers": dict(self.multipliers),
            "attributes": [list(dataclasses.astuple(item)) for item in self.attributes],
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Frame:
        """Read that form; raises KeyError, TypeError or ValueError for anything else."""
        shapes = {
            str(name): (tuple(int(n) for n in before), tuple(int(n) for n in after))
            for name, (before, after) in content["shapes"].items()
        }
        multipliers = {str(name): int(count) for name, count in content["multipliers"].items()}
        attributes = tuple(SizeAttribute(*item) for item in content["attributes"])
        return cls(shapes, multipliers, attributes)
