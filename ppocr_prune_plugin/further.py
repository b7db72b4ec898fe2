"""Pruning a network that is pruned already: one plan against the original network, whatever number
of cuts it took, and targets that count from there.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from .errors import PruneError
from .graph.groups import ChannelGroup
from .plan import GroupPlan, PruningPlan
from .ratios.rounding import width_for_ratio
from .ratios.uniform import ratio_of
from .section import PruneSection
from .structure import Change, PrunedStructure, SizeAttribute

# Of a share: a target that is nearer to what is removed already asks for nothing.
_NOTHING = 0.005


def together(first: PruningPlan | None, second: PruningPlan) -> PruningPlan:
    """What two cuts of one network are, one after the other.

    Args:
        first: of the original network; None where it is whole.
        second: of the network that the first one has left.

    Raises:
        PruneError: the second is not about what the first has left.
    """
    if first is None:
        return second
    groups = {group.name: group for group in first.groups}
    for group in second.groups:
        before = groups.get(group.name)
        groups[group.name] = group if before is None else _both(before, group)
    one, two = first.structures[""], second.structures[""]
    structure = PrunedStructure(
        _axes(one, two),
        Change(one.flops.before, two.flops.after),
        Change(one.params.before, two.params.after),
        {**two.multipliers, **one.multipliers},
        _attributes(one, two),
    )
    return PruningPlan(
        second.criterion,
        tuple(groups.values()),
        structure.flops,
        structure.params,
        {"": structure},
        first.unpruned,
        dictionary=second.dictionary or first.dictionary,
    )


def _both(first: GroupPlan, second: GroupPlan) -> GroupPlan:
    if second.channels != first.kept_channels:
        raise PruneError(
            f"{first.name} has {second.channels} channels, and {first.kept_channels} by the plan "
            "that the network carries"
        )
    if first.kept is None or second.kept is None:
        raise PruneError(
            f"the plan does not say which channels of {first.name} the network still has (it was "
            "worked out from the shapes of a weights file), so that it cannot be pruned further. "
            "Put the .prune.json of where it was trained beside the weights."
        )
    kept = tuple(first.kept[index] for index in second.kept)
    return GroupPlan(first.name, first.channels, kept, second.kept_channels)


def _axes(first: PrunedStructure, second: PrunedStructure) -> dict[str, dict[int, tuple[int, int]]]:
    axes = {name: dict(lengths) for name, lengths in first.axes.items()}
    for name, lengths in second.axes.items():
        own = axes.setdefault(name, {})
        for axis, (before, after) in lengths.items():
            own[axis] = (own[axis][0] if axis in own else before, after)
    return axes


def _attributes(first: PrunedStructure, second: PrunedStructure) -> tuple[SizeAttribute, ...]:
    """Sizes of the original network: those that the first cut moved are in its list."""
    known = {(item.layer, item.name, item.place) for item in first.attributes}
    more = (i for i in second.attributes if (i.layer, i.name, i.place) not in known)
    return (*first.attributes, *more)


def goal(share: float, step: int, steps: int) -> float:
    """What of the original network is removed after a step, so that every step takes the same share
    of what is left and the last one ends at ``share``."""
    return 1 - (1 - share) ** (step / steps)


def section_for(
    section: PruneSection, before: PruningPlan | None, step: int = 1, steps: int = 1
) -> PruneSection | None:
    """The section as it reads for the network in hand; None where that is as small already.

    Args:
        section: its shares count from the original network. ``max_loss`` is a loss by this cut, and
            ``pruned_latency`` counts from the network in hand, in every step alike.
        before: what was removed already.
        step: which of ``steps``, from 1 on.
    """
    if section.pruned_latency is not None:
        return dataclasses.replace(section, pruned_latency=goal(section.pruned_latency, 1, steps))
    flops, params = (None, None) if before is None else (before.flops, before.params)
    if section.pruned_flops is not None:
        left = _left(goal(section.pruned_flops, step, steps), flops)
        return None if left is None else dataclasses.replace(section, pruned_flops=left)
    if section.pruned_params is not None:
        left = _left(goal(section.pruned_params, step, steps), params)
        return None if left is None else dataclasses.replace(section, pruned_params=left)
    return section


def _left(wanted: float, change: Change | None) -> float | None:
    """What is to be removed of what a cut has left, so that this share of the original goes; None
    where that is nothing."""
    removed = change.pruned if change is not None else 0.0
    return 1 - (1 - wanted) / (1 - removed) if wanted > removed + _NOTHING else None


def widths_by_ratio(
    section: PruneSection,
    groups: Sequence[ChannelGroup],
    before: PruningPlan | None,
    step: int = 1,
    steps: int = 1,
) -> dict[str, int]:
    """Group name → channels kept where ``Prune.ratio`` says how much: shares of the groups of the
    original network, as if they were cut at once."""
    whole = {} if before is None else {g.name: g.channels for g in before.groups}
    ratio = section.ratio
    assert ratio is not None
    found = {}
    for group in groups:
        share = goal(ratio_of(group, ratio), step, steps)
        width = width_for_ratio(whole.get(group.name, group.size), share, section.round_to)
        found[group.name] = min(width, group.size)
    return found


def removes(widths: Mapping[str, int], groups: Sequence[ChannelGroup]) -> bool:
    """Whether these widths take anything."""
    return any(widths[group.name] < group.size for group in groups)
