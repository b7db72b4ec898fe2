"""Where boxes stand: in rows along the flow, as Sugiyama et al. (1981) lay graphs out.

Each box goes one row below the last of those that lead to it; a long arrow has a place of its own
in every row that it crosses, so that it runs around boxes; rows are put in the order in which
arrows cross least, by their neighbours' mean places; and within the order every box comes as near
to its neighbours as others let it (a least-squares fit, by pooling adjacent violators).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

_SWEEPS = 8
_WIRE = 14.0  # room for an arrow that passes by


@dataclass(frozen=True)
class Layout:
    """``centres`` are the boxes' ``(x, y)``, ``rows`` the ``(top, bottom)`` of the rows that they
    stand in; ``paths`` are the places that each arrow goes through between its two boxes: ``(x,
    top, bottom)`` of every row between."""

    width: float
    height: float
    centres: tuple[tuple[float, float], ...]
    rows: tuple[tuple[float, float], ...]
    paths: tuple[tuple[tuple[float, float, float], ...], ...]


def place(
    sizes: Sequence[tuple[float, float]],
    arrows: Sequence[tuple[int, int]],
    gap: tuple[float, float] = (28.0, 40.0),
) -> Layout:
    """Place boxes.

    Args:
        sizes: ``(width, height)`` of each.
        arrows: pairs of boxes; an arrow leads from a lower number to a higher one.
        gap: between neighbours and between rows.
    """
    row = _rows(len(sizes), arrows)
    widths = [width for width, _ in sizes]
    links: list[tuple[int, int]] = []
    chains: list[list[int]] = []
    level = list(row)
    for start, end in arrows:
        chain = [start]
        for between in range(row[start] + 1, row[end]):
            widths.append(_WIRE)
            level.append(between)
            chain.append(len(widths) - 1)
        chain.append(end)
        links += zip(chain, chain[1:], strict=False)
        chains.append(chain[1:-1])
    rows: list[list[int]] = [[] for _ in range(max(level, default=-1) + 1)]
    for number, own in enumerate(level):
        rows[own].append(number)
    above: list[list[int]] = [[] for _ in widths]
    below: list[list[int]] = [[] for _ in widths]
    for start, end in links:
        below[start].append(end)
        above[end].append(start)
    x = _columns(rows, above, below, widths, gap[0])
    left = min((x[n] - widths[n] / 2 for n in range(len(widths))), default=0.0)
    x = [value - left for value in x]

    y, top = [0.0] * len(widths), 0.0
    bands = []
    for members in rows:
        height = max((sizes[n][1] for n in members if n < len(sizes)), default=0.0)
        for n in members:
            y[n] = top + height / 2
        bands.append((top, top + height))
        top += height + gap[1]
    return Layout(
        max((x[n] + widths[n] / 2 for n in range(len(widths))), default=0.0),
        max(top - gap[1], 0.0),
        tuple((x[n], y[n]) for n in range(len(sizes))),
        tuple(bands[level[n]] for n in range(len(sizes))),
        tuple(tuple((x[n], *bands[level[n]]) for n in chain) for chain in chains),
    )


def _rows(count: int, arrows: Sequence[tuple[int, int]]) -> list[int]:
    """The row of each box; what nothing leads to stands just above what it leads to."""
    row = [0] * count
    for start, end in sorted(arrows, key=lambda arrow: arrow[1]):
        row[end] = max(row[end], row[start] + 1)
    ends = {end for _, end in arrows}
    for number in reversed(range(count)):
        followers = [row[end] for start, end in arrows if start == number]
        if number not in ends and followers:
            row[number] = min(followers) - 1
    return row


def _columns(
    rows: Sequence[list[int]],
    above: Sequence[Sequence[int]],
    below: Sequence[Sequence[int]],
    widths: Sequence[float],
    gap: float,
) -> list[float]:
    """The centre of everything, from left to right."""
    x = [0.0] * len(widths)
    for members in rows:
        for index, number in enumerate(members):
            x[number] = float(index)
    for sweep in range(2 * _SWEEPS):
        down = sweep % 2 == 0
        for members in rows if down else reversed(rows):
            sides = above if down else below
            wanted = {
                n: sum(x[m] for m in sides[n]) / len(sides[n]) if sides[n] else x[n]
                for n in members
            }
            if sweep < _SWEEPS:
                members.sort(key=lambda n: wanted[n])
            _spread(members, wanted, widths, gap, x)
    return x


def _spread(
    members: Sequence[int],
    wanted: dict[int, float],
    widths: Sequence[float],
    gap: float,
    x: list[float],
) -> None:
    """Write places that keep the order and the room, as near to those wanted as can be."""
    offset, offsets = 0.0, []
    for before, number in zip([None, *members[:-1]], members, strict=True):
        if before is not None:
            offset += (widths[before] + widths[number]) / 2 + gap
        offsets.append(offset)
    pools: list[tuple[float, int]] = []  # mean, how many
    for number, shift in zip(members, offsets, strict=True):
        pools.append((wanted[number] - shift, 1))
        while len(pools) > 1 and pools[-2][0] >= pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    means = [mean for mean, count in pools for _ in range(count)]
    for number, mean, shift in zip(members, means, offsets, strict=True):
        x[number] = mean + shift
