"""What widths cost, as a sum of parts that each depend on a few groups.

Whoever tries one width after another recomputes only the parts that the group is in. Parts are
whole numbers, so that a sum is the same in whatever order it was made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..graph.cost import CostModel
from ..graph.groups import ChannelGraph

Widths = Mapping[str, int]
IntArray: TypeAlias = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Size:
    """A number of channels: ``fixed`` and, for each of some groups, so many per channel kept."""

    fixed: int
    parts: tuple[tuple[str, int], ...] = ()

    def __call__(self, widths: Widths) -> int:
        return self.fixed + sum(count * widths[name] for name, count in self.parts)

    def along(self, widths: Widths, group: str, options: IntArray) -> IntArray | int:
        """The same for each of several widths of one group."""
        factor = sum(count for name, count in self.parts if name == group)
        if not factor:
            return self(widths)
        return self(widths) + factor * (options - widths[group])


@dataclass(frozen=True)
class Part:
    """One term of a cost: a function of a few sizes, of numbers or of arrays of one length."""

    sizes: tuple[Size, ...]
    price: Callable[[tuple[Any, ...]], Any]

    @property
    def groups(self) -> frozenset[str]:
        """Names of the groups that it depends on."""
        return frozenset(name for size in self.sizes for name, _ in size.parts)

    def __call__(self, widths: Widths) -> int:
        found: int = self.price(tuple(size(widths) for size in self.sizes))
        return found

    def along(self, widths: Widths, group: str, options: IntArray) -> IntArray:
        """The same for each of several widths of one group that it depends on."""
        found: IntArray = self.price(
            tuple(size.along(widths, group, options) for size in self.sizes)
        )
        return found


@dataclass(frozen=True)
class Cost:
    """FLOPs, parameters or milliseconds of a network whose groups keep that many channels.

    Need not fall with every channel removed: some widths run slower than wider ones. ``constant``
    and ``parts`` count in units of ``unit``.
    """

    constant: int
    parts: tuple[Part, ...]
    unit: float = 1

    def __call__(self, widths: Widths) -> float:
        """Args: widths: of every group of the network."""
        return self.unit * self.total(widths)

    def total(self, widths: Widths) -> int:
        """The same in whole units."""
        return self.constant + sum(part(widths) for part in self.parts)


def flops_of(graph: ChannelGraph, costs: CostModel) -> Cost:
    """Multiply-accumulates, as :meth:`CostModel.flops` of the shapes that widths leave."""
    return _of_shapes(graph, costs, costs.positions.items())


def params_of(graph: ChannelGraph, costs: CostModel) -> Cost:
    """Parameters, as :meth:`CostModel.params` of the shapes that widths leave."""
    return _of_shapes(graph, costs, ((name, 1) for name in sorted(costs.parameters)))


def _of_shapes(graph: ChannelGraph, costs: CostModel, counted: Iterable[tuple[str, int]]) -> Cost:
    """The sum of the parameters' numbers of elements, each taken so many times."""
    places: dict[tuple[str, int], list[tuple[str, int]]] = {}
    for group in graph.groups:
        for member in group.members:
            place = places.setdefault((member.parameter, member.axis), [])
            place.append((group.name, member.indices.shape[1]))
    sizes = {group.name: group.size for group in graph.groups}
    constant, merged = 0, dict[tuple[Size, ...], int]()
    for name, count in counted:
        varying, factor = [], count
        for source in costs.origins(name, graph.shapes):
            length = source if isinstance(source, int) else graph.shapes[source[0]][source[1]]
            parts = () if isinstance(source, int) else tuple(places.get(source, ()))
            if parts:
                kept = sum(per_channel * sizes[group] for group, per_channel in parts)
                varying.append(Size(length - kept, parts))
            else:
                factor *= length
        if varying:
            key = tuple(varying)
            merged[key] = merged.get(key, 0) + factor
        else:
            constant += factor
    return Cost(constant, tuple(Part(key, _Product(factor)) for key, factor in merged.items()))


@dataclass(frozen=True)
class _Product:
    """So many times the product of the sizes."""

    factor: int

    def __call__(self, sizes: tuple[Any, ...]) -> Any:
        return self.factor * prod(sizes)
