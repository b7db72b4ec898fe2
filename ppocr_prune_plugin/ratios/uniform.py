"""The same ratio for all layers, or one per layer-name pattern."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase

from ..errors import PruneError, did_you_mean
from ..graph.groups import ChannelGroup


def matches(group: ChannelGroup, pattern: str) -> bool:
    """Whether a pattern names the group, or a layer that produces its channels."""
    names = {group.name, *(member.layer for member in group.producers)}
    return any(fnmatchcase(name, pattern) for name in names)


def require_matches(
    patterns: Iterable[str],
    groups: Sequence[ChannelGroup],
    key: str,
    source: str,
    others: Iterable[str] = (),
) -> None:
    """Raise :class:`PruneError` for a pattern that names no layer, of ``groups`` or ``others``."""
    others = list(others)
    for pattern in patterns:
        if not any(matches(group, pattern) for group in groups) and not any(
            fnmatchcase(name, pattern) for name in others
        ):
            names = [group.name for group in groups]
            hint = did_you_mean(pattern, names)
            raise PruneError(
                f'{source}: {key} has the pattern "{pattern}", which matches no layer that can be '
                f"pruned{hint}. `ppocr-prune groups` lists them; the first are "
                f"{', '.join(names[:3])}."
            )


def ratio_of(group: ChannelGroup, ratio: float | Mapping[str, float]) -> float:
    """The ratio of a group; in a mapping the first pattern that matches wins, 0 where none does."""
    if not isinstance(ratio, Mapping):
        return ratio
    return next((value for pattern, value in ratio.items() if matches(group, pattern)), 0.0)
