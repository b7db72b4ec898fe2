"""Widths that hardware likes."""

from __future__ import annotations


def widths(size: int, round_to: int) -> list[int]:
    """Widths that a group may have, falling: its own, then the multiples of ``round_to`` below.

    A group of fewer than ``round_to`` channels may have any width.
    """
    step = _step(size, round_to)
    return [size, *range((size - 1) // step * step, 0, -step)]


def _step(size: int, round_to: int) -> int:
    """What the widths of a group are multiples of; its own width is allowed, too."""
    return round_to if size >= round_to else 1


def width_for_ratio(size: int, ratio: float, round_to: int) -> int:
    """The allowed width nearest to removing ``ratio`` of the channels; the wider of two equals."""
    wanted = size * (1 - ratio)
    step = _step(size, round_to)
    below = int(wanted // step) * step
    near = [width for width in (below, below + step) if step <= width < size]
    return min([size, *near], key=lambda width: (round(abs(width - wanted), 6), -width))


def narrowest(size: int, ratio: float, round_to: int) -> int:
    """The narrowest allowed width that removes ``ratio`` of the channels or, rounded, about it."""
    inside = [width for width in widths(size, round_to) if 1 - width / size <= ratio + 1e-9]
    return min([*inside, width_for_ratio(size, ratio, round_to)])
