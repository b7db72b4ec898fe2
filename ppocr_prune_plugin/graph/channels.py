"""What the graph says: channel groups, what is frozen and why, and sizes that go along."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ..structure import SizeAttribute
from .flow import AFFINE, IN, OUT
from .trace import Program

__all__ = ["ChannelGraph", "ChannelGroup", "Frozen", "Indices", "Member", "SizeAttribute"]

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Member:
    """One axis of one parameter in a group.

    ``indices`` has shape ``[channels, positions]``: channel ``i`` of the group stands at
    ``indices[i]`` along the axis (several positions after a flatten, for instance).
    """

    parameter: str
    axis: int
    role: str
    indices: Indices

    @property
    def layer(self) -> str:
        """Structured name of the layer that holds the parameter."""
        return self.parameter.rpartition(".")[0]


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be removed from all of their members at once.

    ``name`` is the layer of the root, the first member that produces the channels; where channels
    of one layer fall into several groups, ``#2``, ``#3`` … follow the name.
    """

    name: str
    size: int
    members: tuple[Member, ...]

    @property
    def root(self) -> Member:
        """The member that the group is named after."""
        return self.members[0]

    @property
    def producers(self) -> tuple[Member, ...]:
        """Members along whose axis the channels are produced, the root first."""
        return tuple(m for m in self.members if m.role == OUT)

    def __str__(self) -> str:
        lines = [f"{self.name}: {self.size} channels"]
        words = {OUT: "filters of", AFFINE: "channels of", IN: "inputs of"}
        for member in self.members:
            count = member.indices.size
            span = f"[{member.indices.min()}..{member.indices.max()}]"
            extra = "" if count == self.size else f", {count // self.size} places per channel"
            lines.append(
                f"    {words[member.role]:12} {member.parameter} axis {member.axis} {span}{extra}"
            )
        return "\n".join(lines)


@dataclass(frozen=True)
class Frozen:
    """Channels that cannot be pruned: the layer that produces them, how many, and why."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True, eq=False)
class ChannelGraph:
    """All channel groups of a network, in the order of its forward pass.

    ``shapes`` holds the shape of every parameter and buffer that the trace has seen;
    ``multipliers`` the filters per input channel of each depthwise convolution; ``attributes``
    the sizes that the model's code keeps beside its parameters;
    ``unknown`` the operations without a rule, with how often each was met; ``program`` is the
    traced network that they were found in.
    """

    groups: tuple[ChannelGroup, ...]
    frozen: tuple[Frozen, ...]
    shapes: Mapping[str, tuple[int, ...]]
    multipliers: Mapping[str, int] = field(default_factory=dict)
    unknown: Mapping[str, int] = field(default_factory=dict)
    attributes: tuple[SizeAttribute, ...] = ()
    program: Program | None = None

    def __getitem__(self, name: str) -> ChannelGroup:
        for group in self.groups:
            if group.name == name:
                return group
        raise KeyError(name)
