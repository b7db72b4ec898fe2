"""Sizes that ``rep()`` reads from a layer's attributes: they follow the channels.

``rep()`` builds new layers from numbers that its layer keeps (``channels``, ``groups``), which
surgery on parameters does not change. Which attribute is such a number shows in what the code reads
while ``rep()`` runs, and in what it equals; that it is the right one, in ``rep()`` on a narrower
copy.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence, Set
from dataclasses import replace

import paddle

from .channels import ChannelGraph, ChannelGroup, Frozen, SizeAttribute
from .inference_mode import draw_narrower, has_rep, narrower_copy
from .live import attributes_read, set_sizes, shapes_after

# Combinations of what a layer's attributes may follow.
_TRIES = 256


def follow_rep(model: paddle.nn.Layer, graph: ChannelGraph) -> ChannelGraph:
    """The graph with the attributes that ``rep()`` reads; groups for which no choice of them works
    are frozen.

    Args:
        model: the network as it trains; it is not touched.
        graph: its channel groups.

    Raises:
        PruneError: a ``rep()`` fails on the model as it is.
    """
    layers = [name for name, layer in model.named_sublayers() if has_rep(layer)]
    if not layers or not graph.groups:
        return graph
    reads = _read_by_rep(model)
    kept = draw_narrower(graph, seed=0)
    narrow = shapes_after(graph, kept)
    twin = narrower_copy(model, graph, kept)
    found = dict(twin.named_sublayers())
    decided: set[str] = set()
    chosen: list[SizeAttribute] = []
    refused: dict[str, str] = {}
    for name in sorted(layers, key=lambda layer: -layer.count(".")):  # a rep() may call inner ones
        inside = [
            inner
            for inner, layer in found.items()
            if _within(inner, name) and inner not in decided and not _has_widths_of_its_own(layer)
        ]
        decided |= set(inside)
        options = [
            way for inner in inside for way in _ways(inner, found[inner], graph, narrow, reads)
        ]
        working = _first_that_works(found[name], name, options, narrow)
        if working is None:
            refused[name] = f"rep() of {type(found[name]).__name__} fails when it is narrower"
            continue
        set_sizes(twin, working, narrow)
        chosen += working
    attributes = tuple(dict.fromkeys((*graph.attributes, *chosen)))
    return _frozen_inside(replace(graph, attributes=attributes), refused)


def _read_by_rep(model: paddle.nn.Layer) -> Set[tuple[str, str]]:
    twin = copy.deepcopy(model)
    with attributes_read(twin) as reads:
        for layer in list(twin.sublayers()):
            if has_rep(layer):
                layer.rep()
    return reads


def _within(inner: str, outer: str) -> bool:
    return inner == outer or inner.startswith(outer + ".")


def _has_widths_of_its_own(layer: paddle.nn.Layer) -> bool:
    """Paddle's own layers: what they note of their widths is read off their weights."""
    return type(layer).__module__.startswith("paddle.")


def _ways(
    name: str,
    layer: paddle.nn.Layer,
    graph: ChannelGraph,
    narrow: dict[str, tuple[int, ...]],
    reads: Set[tuple[str, str]],
) -> Iterator[list[SizeAttribute | None]]:
    """For each integer that is read: what it may follow, the likeliest first; None: nothing."""
    for key, value in vars(layer).items():
        if (name, key) not in reads:
            continue
        items = enumerate(value) if type(value) in (list, tuple) else [(None, value)]
        for place, item in items:
            if type(item) is not int or item < 2:
                continue
            axes: dict[int, SizeAttribute] = {}
            for parameter, axis in _axes_of_length(name, item, graph):
                length = narrow[parameter][axis]
                if length != item:
                    attribute = SizeAttribute(name, key, item, parameter, axis, item, place)
                    axes.setdefault(length, attribute)
            if axes:
                # Names say "in" and "out"; weights have their outputs on axis 0.
                ways = sorted(axes.values(), key=lambda way: _unlikely(key, way.axis))
                yield [*ways, None]


def _unlikely(key: str, axis: int) -> bool:
    return ("out" in key and axis != 0) or (key.startswith("in") and axis == 0)


def _axes_of_length(layer: str, length: int, graph: ChannelGraph) -> Iterator[tuple[str, int]]:
    for name, shape in graph.shapes.items():
        if name.startswith(layer + "."):
            yield from ((name, axis) for axis, size in enumerate(shape) if size == length)


def _first_that_works(
    layer: paddle.nn.Layer,
    name: str,
    options: Sequence[Sequence[SizeAttribute | None]],
    narrow: dict[str, tuple[int, ...]],
) -> list[SizeAttribute] | None:
    """The first combination with which ``rep()`` runs on a copy of the narrower layer."""
    for ways in itertools.islice(itertools.product(*options), _TRIES):
        attributes = [way for way in ways if way is not None]
        twin = copy.deepcopy(layer)
        twin.eval()
        set_sizes(twin, attributes, narrow, root=name)
        try:
            twin.rep()
        except Exception:  # whatever the model's code raises at a wrong size
            continue
        return attributes
    return None


def _frozen_inside(graph: ChannelGraph, refused: dict[str, str]) -> ChannelGraph:
    """The graph without the groups that have channels inside these layers."""
    if not refused:
        return graph

    def reason(group: ChannelGroup) -> str | None:
        inside = (
            why
            for layer, why in refused.items()
            for member in group.members
            if _within(member.layer, layer)
        )
        return next(inside, None)

    reasons = [(group, reason(group)) for group in graph.groups]
    kept = tuple(group for group, why in reasons if why is None)
    frozen = [Frozen(group.root.layer, group.size, why) for group, why in reasons if why]
    return replace(graph, groups=kept, frozen=(*graph.frozen, *frozen))
