"""What a drawing of a channel group shows: its layers, and how its channels flow between them.

The flow is read from the traced program, in which the groups were found. Operations that only hand
channels on (activations, resizing) are left out; those where flows meet (sums, products,
concatenations) are shown.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import paddle

from ..graph.channels import ChannelGraph, ChannelGroup, Member
from ..graph.flow import AFFINE, IN, OUT
from ..graph.trace import Op, Program, Value

_SIGNS = {"add": "+", "multiply": "×", "subtract": "−", "divide": "÷"}
_CHAINED = ("+", "×")  # of several terms


@dataclass(frozen=True)
class ChannelMap:
    """Where the group's channels stand along an axis of ``size``: ``runs`` of neighbours, first and
    last; ``words`` say the same. ``role`` is ``out``, ``affine`` or ``in``."""

    role: str
    size: int
    runs: tuple[tuple[int, int], ...]
    words: str

    @property
    def whole(self) -> bool:
        """Whether the axis has no other channels."""
        return self.runs == ((0, self.size - 1),)


@dataclass(frozen=True)
class DrawnLayer:
    """One layer: its name, what it is, and where it holds the group's channels, filters first."""

    name: str
    kind: str
    maps: tuple[ChannelMap, ...]


@dataclass(frozen=True)
class Box:
    """Layers that follow each other with nothing between, the first of which gives the box its
    role; or, without layers, an operation where flows meet, by its ``sign``."""

    layers: tuple[DrawnLayer, ...] = ()
    sign: str = ""

    @property
    def roles(self) -> frozenset[str]:
        """Of all its layers."""
        return frozenset(item.role for layer in self.layers for item in layer.maps)

    @property
    def role(self) -> str:
        """The one that it is drawn by: to make channels counts for most, to carry them for least.
        Raises StopIteration where there are no layers."""
        return next(role for role in (OUT, IN, AFFINE) if role in self.roles)


@dataclass(frozen=True)
class Arrow:
    """From one box to another, by number; where other channels lie between, it is not ``direct``:
    what the second makes depends on what the first reads."""

    start: int
    end: int
    direct: bool = True


@dataclass(frozen=True)
class Scene:
    """The drawing of one group; boxes are in the order of the forward pass. ``notes`` are lines
    below the title."""

    title: str
    notes: tuple[str, ...]
    boxes: tuple[Box, ...]
    arrows: tuple[Arrow, ...]


def scene_of(
    model: paddle.nn.Layer, graph: ChannelGraph, group: ChannelGroup, notes: Sequence[str] = ()
) -> Scene:
    """Lay out what a drawing of a group shows.

    Args:
        model: the network; its layers say what they are.
        graph: its channel groups, with the program that they were found in.
        group: one of them.
        notes: lines to stand below the title.
    """
    assert graph.program is not None
    walk = _Walk(graph.program, group)
    layers = dict(model.named_sublayers(include_self=True))
    drawn = {
        name: DrawnLayer(name, _kind(layers.get(name), members, graph), _maps(members, graph))
        for name, members in walk.layers.items()
    }
    boxes = [Box((drawn[item],)) if item in drawn else Box(sign=item[1:]) for item in walk.boxes]
    return Scene(
        f"{group.name}: {group.size} channels",
        tuple(notes),
        *_tidied(boxes, walk.arrows),
    )


@dataclass
class _Walk:
    """Follows the group's channels through the program.

    ``boxes`` are names of layers, once for each call, and signs of operations behind a ``\\0``;
    ``layers`` the members of each layer.
    """

    program: Program
    group: ChannelGroup
    boxes: list[str] = field(default_factory=list)
    arrows: set[Arrow] = field(default_factory=set)
    layers: dict[str, list[Member]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._members: dict[str, list[Member]] = {}
        for member in self.group.members:
            self._members.setdefault(member.parameter, []).append(member)
            self.layers.setdefault(member.layer or member.parameter, []).append(member)
        # Boxes that the channels of a value come from, directly and through other channels;
        # parameters that a value is made of alone.
        self._carried: dict[Value, frozenset[int]] = {}
        self._beyond: dict[Value, frozenset[int]] = {}
        self._own: dict[Value, frozenset[str]] = {}
        for op in self.program.ops:
            self._follow(op)

    def _follow(self, op: Op) -> None:
        values = [value for value in op.inputs if value is not None]
        parameters = frozenset[str]().union(*map(self._parameters, values))
        data = [v for v in values if v.parameter is None and v not in self._own]
        if not data and op.name != "data":  # made of parameters and constants alone
            self._own.update(dict.fromkeys(op.outputs, parameters))
            return
        carried = frozenset[int]().union(*(self._carried.get(v, frozenset()) for v in data))
        beyond = frozenset[int]().union(*(self._beyond.get(v, frozenset()) for v in data))
        hit = [member for name in sorted(parameters) for member in self._members.get(name, [])]
        if hit:
            box = self._at_layer(hit, carried, beyond)
            makes = any(member.role != IN for member in hit)
            carried, beyond = ({box}, ()) if makes else ((), {box})  # type: ignore[assignment]
        elif carried:
            sources = {self._carried[v] for v in data if v in self._carried}
            if len(sources) > 1 or op.name == "concat":
                box = self._box("\0" + _SIGNS.get(op.name, op.name.replace("_", " ")))
                self.arrows |= {Arrow(start, box) for start in carried}
                carried = frozenset({box})
        for value in op.outputs:
            if carried:
                self._carried[value] = frozenset(carried)
            if beyond:
                self._beyond[value] = frozenset(beyond)

    def _parameters(self, value: Value) -> frozenset[str]:
        named = [value, *(value.elements or ())]
        found = frozenset(item.parameter for item in named if item.parameter is not None)
        return found | self._own.get(value, frozenset())

    def _at_layer(
        self, hit: Sequence[Member], carried: Iterable[int], beyond: Iterable[int]
    ) -> int:
        """The box of the layer that an operation belongs to."""
        name = hit[0].layer or hit[0].parameter
        carried = frozenset(carried)
        if carried and all(self.boxes[box] == name for box in carried):
            return max(carried)  # its bias
        box = self._box(name)
        self.arrows |= {Arrow(start, box) for start in carried}
        if any(member.role == OUT for member in hit):
            self.arrows |= {Arrow(start, box, direct=False) for start in beyond}
        return box

    def _box(self, name: str) -> int:
        self.boxes.append(name)
        return len(self.boxes) - 1


def _tidied(
    boxes: Sequence[Box], arrows: Iterable[Arrow]
) -> tuple[tuple[Box, ...], tuple[Arrow, ...]]:
    """Without operations that lead nowhere, and with what follows a layer alone in its box."""
    found = dict(enumerate(boxes))
    direct = {(a.start, a.end) for a in arrows if a.direct}
    indirect = {(a.start, a.end) for a in arrows if not a.direct} - direct
    while True:
        starts = {start for start, _ in direct | indirect}
        dead = {number for number, box in found.items() if not box.layers and number not in starts}
        if not dead:
            break
        found = {number: box for number, box in found.items() if number not in dead}
        direct = {(start, end) for start, end in direct if end not in dead}
    for number in sorted(found):
        before = [start for start, end in direct if end == number]
        if any(end == number for _, end in indirect):
            continue
        for start in before:
            if [end for begin, end in direct | indirect if begin == start] != [number]:
                continue  # others follow as well
            if found[number].sign in _CHAINED and found[number].sign == found[start].sign:
                # a sum of sums
                direct = {(b, number if e == start else e) for b, e in direct if b != start}
                del found[start]
            elif len(before) == 1 and found[number].roles == {AFFINE} and found[start].layers:
                found[start] = Box((*found[start].layers, *found.pop(number).layers))
                direct = {(start if b == number else b, e) for b, e in direct if e != number}
                indirect = {(start if b == number else b, e) for b, e in indirect}
    place = {number: index for index, number in enumerate(sorted(found))}
    kept = [Arrow(place[b], place[e]) for b, e in sorted(direct)]
    kept += [Arrow(place[b], place[e], False) for b, e in sorted(indirect)]
    return tuple(found[number] for number in sorted(found)), tuple(kept)


def _maps(members: Sequence[Member], graph: ChannelGraph) -> tuple[ChannelMap, ...]:
    """Where a layer holds the channels; what is held alike (a bias beside its filters) is said
    once."""
    order = (OUT, AFFINE, IN)
    found: dict[tuple[Any, ...], ChannelMap] = {}
    roles = {member.role for member in members}
    for member in sorted(members, key=lambda m: order.index(m.role)):
        if member.role == AFFINE and OUT in roles:
            continue
        size = graph.shapes[member.parameter][member.axis]
        runs = _runs(np.sort(member.indices.reshape(-1)))
        item = ChannelMap(member.role, size, runs, _words(member, size, runs))
        found.setdefault((item.role, item.size, item.runs), item)
    return tuple(found.values())


def _runs(places: np.ndarray) -> tuple[tuple[int, int], ...]:
    """``0 1 2 5 6`` → ``(0, 2), (5, 6)``."""
    parts = np.split(places, np.flatnonzero(np.diff(places) > 1) + 1)
    return tuple((int(part[0]), int(part[-1])) for part in parts)


def _words(member: Member, size: int, runs: Sequence[tuple[int, int]]) -> str:
    count = member.indices.size
    noun = {OUT: "filters", AFFINE: "channels", IN: "inputs"}[member.role]
    if count == size:
        said = f"all {size} {noun}"
    elif len(runs) == 1:
        said = f"{noun} {runs[0][0]} to {runs[0][1]} of {size}"
    else:
        said = f"{count} of {size} {noun}"
    places = member.indices.shape[1]
    return said if places == 1 else f"{said}, {places} for each channel"


def _kind(layer: Any, members: Sequence[Member], graph: ChannelGraph) -> str:
    """What a layer is, with its widths: ``Conv2D 3x3, 96 to 24``."""
    if layer is None:
        return "parameter"
    kind = type(layer).__name__
    if hasattr(layer, "_kernel_size") and hasattr(layer, "_in_channels"):
        kernel = layer._kernel_size
        sizes = kernel if isinstance(kernel, list | tuple) else (kernel,)
        kind += " " + "×".join(str(size) for size in sizes)
        groups = getattr(layer, "_groups", 1)
        if groups > 1 and groups == layer._in_channels:
            return f"{kind}, depthwise, {layer._in_channels}"
        split = f", {groups} groups" if groups > 1 else ""
        return f"{kind}, {layer._in_channels} → {layer._out_channels}{split}"
    weight = getattr(layer, "weight", None)
    if isinstance(weight, paddle.Tensor) and len(weight.shape) == 2:
        return f"{kind}, {weight.shape[0]} → {weight.shape[1]}"
    sizes_held: Mapping[int, None] = dict.fromkeys(
        graph.shapes[member.parameter][member.axis] for member in members
    )
    return f"{kind}, {', '.join(str(size) for size in sizes_held)}"
