"""Latency as a sum over a network's layers, fitted to whole networks.

What a convolution or matrix product takes is taken to be proportional to its FLOPs, and what goes
element by element to the channels of a group; how long each of them takes is found by timing a few
networks that are pruned in different ways. There are more unknowns than networks, so that all stay
near what FLOPs and sizes of activations alone would say:

    latency = rest + sum over layers (t * share of its FLOPs kept)
                   + sum over groups (u * share of its channels kept)

with all of them 0 or more. Engines work on blocks of channels, so that FLOPs are counted with
widths rounded up to a block; how large that is, the networks say as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ..ratios.costs import Cost, Part, Size, Widths

Array = npt.NDArray[np.float64]

# Milliseconds: predictions are added up in whole picoseconds.
_UNIT = 1e-9
# How strongly terms are held to what FLOPs say, from loosely to tightly: the best on networks that
# were left out is taken.
_TIES = (0.003, 0.01, 0.03, 0.1)
# Channels that an engine may work on at once.
_BLOCKS = (1, 8, 16)
# All is measured from the unpruned network: its time counts like that of so many others.
_WHOLE = 3.0
# So many steps the least squares take at most, the first of them with all coefficients at once.
_PIVOTS, _BLOCK_PIVOTS = 300, 30


class Terms:
    """The terms of one network's latency, which widths give their sizes.

    Args:
        flops: what widths cost, a part for each layer or more.
        sizes: widths of the unpruned network, of all groups.
        changing: the groups whose widths may change.
        block: so many channels cost as much as one more than the next smaller multiple.
    """

    def __init__(self, flops: Cost, sizes: Widths, changing: list[str], block: int) -> None:
        self._sizes, self._block = sizes, block
        self._parts = [p for p in flops.parts if p.groups.intersection(changing)]
        self._groups = list(changing)
        self._whole = np.array([max(float(self._in_blocks(p, sizes)), 1.0) for p in self._parts])
        # Depthwise convolutions, and what reads or gives fixed channels, depend on one size.
        self._single = np.array([len(part.sizes) == 1 for part in self._parts], bool)
        self._activations = np.array([self._positions(name) for name in self._groups])

    def _positions(self, group: str) -> float:
        """About how many numbers a group's channels are, over all layers that have them."""
        total = 0.0
        for part, whole in zip(self._parts, self._whole, strict=True):
            if group in part.groups:
                total += whole * self._sizes[group] / np.prod([s(self._sizes) for s in part.sizes])
        return total

    def _in_blocks(self, part: Part, widths: Widths) -> Any:
        return part.price(tuple(_rounded_up(size(widths), self._block) for size in part.sizes))

    def row(self, widths: Widths) -> Array:
        """What each term is multiplied by: 1 for the rest, shares kept for the others."""
        layers = [
            self._in_blocks(part, widths) / whole
            for part, whole in zip(self._parts, self._whole, strict=True)
        ]
        groups = [widths[name] / self._sizes[name] for name in self._groups]
        return np.array([1.0, *layers, *groups])

    def expected(self, rows: Array, times: Array) -> Array:
        """The terms that FLOPs and activations alone would give, scaled to what was measured."""
        layers, count = rows[:, 1 : 1 + len(self._whole)] * self._whole, len(self._whole)
        few = np.stack(
            [
                np.ones(len(rows)),
                layers[:, self._single].sum(axis=1),
                layers[:, ~self._single].sum(axis=1),
                rows[:, 1 + count :] @ self._activations,
            ],
            axis=1,
        )
        span = np.maximum(few.max(axis=0), 1e-12)
        rest, single, double, each = _solve(few / span, times, _weights(times)) / span
        own = np.where(self._single, single, double) * self._whole
        return np.array([rest, *own, *(each * self._activations)])

    def cost(self, terms: Array, before: float, saved: float = 1.0) -> Cost:
        """Milliseconds of any widths.

        Args:
            terms: milliseconds of each.
            before: those of the unpruned network.
            saved: the share of what the terms say that pruning saves that is saved.
        """
        layers, groups = terms[1 : 1 + len(self._parts)], terms[1 + len(self._parts) :]
        parts = [
            Part(part.sizes, _Proportional(part, float(saved * time / whole), self._block))
            for part, time, whole in zip(self._parts, layers, self._whole, strict=True)
        ]
        parts += [
            Part((Size(0, ((name, 1),)),), _Linear(float(saved * time / self._sizes[name])))
            for name, time in zip(self._groups, groups, strict=True)
        ]
        rest = round(before / _UNIT) - sum(part(self._sizes) for part in parts)
        return Cost(rest, tuple(parts), _UNIT)


@dataclass(frozen=True)
class _Proportional:
    """Milliseconds of a layer, in whole units."""

    flops: Part
    factor: float
    block: int

    def __call__(self, sizes: tuple[Any, ...]) -> Any:
        blocks = tuple(_rounded_up(size, self.block) for size in sizes)
        return _whole_units(self.flops.price(blocks) * self.factor)


@dataclass(frozen=True)
class _Linear:
    """Milliseconds of what goes element by element, in whole units."""

    factor: float

    def __call__(self, sizes: tuple[Any, ...]) -> Any:
        return _whole_units(sizes[0] * self.factor)


def _rounded_up(size: Any, block: int) -> Any:
    return -(-size // block) * block


def _whole_units(time: Any) -> Any:
    found = np.rint(np.asarray(time) / _UNIT).astype(np.int64)
    return found if found.ndim else int(found)


def fit(
    flops: Cost, sizes: Widths, changing: list[str], networks: Sequence[Widths], times: Array
) -> tuple[Terms, Array]:
    """The terms of a network's latency, and the time of each.

    Args:
        flops: what widths cost.
        sizes: widths of the unpruned network, of all groups.
        changing: the groups whose widths may change.
        networks: widths of what was timed, of all groups; the unpruned network first.
        times: milliseconds of these.
    """
    found = []
    for block in _BLOCKS:
        terms = Terms(flops, sizes, changing, block)
        rows = np.stack([terms.row(widths) for widths in networks])
        expected = terms.expected(rows, times)
        for tie in _TIES:
            error = _error_left_out(rows, times, expected, tie)
            found.append((error, -tie, block, terms, rows, expected))
    _, tie, _, terms, rows, expected = min(found, key=lambda item: item[:3])
    return terms, _held(rows, times, expected, -tie)


def _error_left_out(rows: Array, times: Array, expected: Array, tie: float) -> float:
    """Mean square of the relative error on networks that were left out, a fifth at a time."""
    total, folds = 0.0, min(5, len(times) - 1)
    places = np.arange(1, len(times))
    for fold in range(folds):
        out = places[fold::folds]
        kept = np.setdiff1d(np.arange(len(times)), out)
        found = _held(rows[kept], times[kept], expected, tie)
        total += float(np.square(rows[out] @ found / times[out] - 1).sum())
    return total


def _held(rows: Array, times: Array, expected: Array, tie: float) -> Array:
    """Least squares of relative errors, with every term held to what is expected of it."""
    slack = expected + 0.2 * expected[1:].mean() + 1e-9
    held = np.diag(tie / slack)
    weights = np.concatenate([_weights(times), np.ones(len(expected))])
    return _solve(
        np.concatenate([rows, held]), np.concatenate([times, tie * expected / slack]), weights
    )


def _weights(times: Array) -> Array:
    """Relative errors count, and the unpruned network most."""
    weights = 1 / times
    weights[0] *= _WHOLE
    return weights


def _solve(rows: Array, targets: Array, weights: Array) -> Array:
    """Least squares with coefficients of 0 or more: block principal pivoting (Portugal, Judice and
    Vicente, Math. Comp. 63, 1994), one coefficient at a time where blocks go in circles."""
    rows, targets = rows * weights[:, None], targets * weights
    square, product = rows.T @ rows, rows.T @ targets
    square[np.diag_indices_from(square)] += 1e-12
    free = np.ones(len(product), bool)
    for number in range(_PIVOTS):
        found = np.zeros(len(product))
        found[free] = np.linalg.solve(square[np.ix_(free, free)], product[free])
        wrong = np.flatnonzero(np.where(free, found < 0, square @ found < product - 1e-9))
        if not wrong.size:
            break
        chosen = wrong if number < _BLOCK_PIVOTS else wrong[-1:]
        free[chosen] = ~free[chosen]
    return np.maximum(found, 0.0)
