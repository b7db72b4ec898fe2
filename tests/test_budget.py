"""From curves to widths: max_loss, budgets, and how they compare with one threshold for all."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.ratios.budget import Curve, _Search, widths_by_budget, widths_by_max_loss
from ppocr_prune_plugin.sensitivity.analysis import planned_ratios

SIZES = {"a": 64, "b": 64, "c": 32, "d": 6}
CURVES = {
    "a": Curve((0.25, 0.5, 0.75), (0.001, 0.004, 0.02)),
    "b": Curve((0.25, 0.5, 0.75), (0.05, 0.2, 0.6)),
    "c": Curve((0.25, 0.5, 0.75), (-0.01, 0.0, 0.01)),
    "d": Curve((0.5,), (0.3,)),
}


def cost(widths: Mapping[str, int]) -> int:
    """A chain: what a layer costs depends on its neighbours too."""
    w = {**SIZES, **widths}
    return 3 * w["a"] + w["a"] * w["b"] + w["b"] * w["c"] + w["c"] * w["d"] + w["d"]


def test_a_curve_is_made_monotone_and_starts_at_nothing() -> None:
    curve = Curve((0.2, 0.4, 0.6), (0.03, 0.01, 0.05))
    assert curve.loss(0.0) == 0 and curve.loss(0.4) == pytest.approx(0.03)
    assert curve.loss(0.5) == pytest.approx(0.04)
    assert curve.largest_ratio(0.03) == pytest.approx(0.4)
    assert curve.largest_ratio(0.015) == pytest.approx(0.1)
    assert curve.largest_ratio(1.0) == 0.6  # no further than it was measured


def test_max_loss_takes_exactly_the_width_that_was_measured() -> None:
    """Ratios in files have six digits; the width behind one must not slip to the next."""
    for size in (6, 18, 24, 42, 96, 360, 384, 2048):
        ratios = planned_ratios(_Group(size), (0.1, 0.3, 0.5, 0.7, 0.9), 8)  # type: ignore[arg-type]
        for deepest, width in ratios.items():
            losses = tuple(0.0 if ratio <= deepest else 1.0 for ratio in ratios)
            curve = Curve(tuple(ratios), losses)
            assert widths_by_max_loss({"g": curve}, {"g": size}, 0.0, 8) == {"g": width}


class _Group:
    def __init__(self, size: int) -> None:
        self.size = size


def test_max_loss_is_kept_after_rounding() -> None:
    chosen = widths_by_max_loss(CURVES, SIZES, 0.01, 8)
    for name, width in chosen.items():
        assert CURVES[name].loss(1 - width / SIZES[name]) <= 0.01 + 1e-6
    assert chosen["a"] < 64 and chosen["b"] == 64 and chosen["c"] == 8


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_a_budget_is_met_and_costs_no_more_than_one_threshold(share: float) -> None:
    chosen = widths_by_budget(CURVES, SIZES, cost, share, 1, "pruned_flops")
    removed = 1 - cost(chosen) / cost(SIZES)
    assert abs(removed - share) <= 0.01
    search = _Search(CURVES, SIZES, cost, 1)
    threshold = search.threshold(cost(SIZES) * (1 - share))
    if abs(1 - cost(threshold) / cost(SIZES) - share) <= 0.01:  # one threshold may overshoot
        assert search.loss(chosen) <= search.loss(threshold) + 1e-9


def stairs(widths: Mapping[str, int]) -> float:
    """Milliseconds: blocks of 16 channels count, and what is no multiple of 4 runs slower."""
    w = {**SIZES, **widths}
    slow = sum(0.7 for width in w.values() if width % 4)
    blocks = {name: -(-width // 16) for name, width in w.items()}
    return 1.5 + slow + blocks["a"] * blocks["b"] + blocks["b"] * blocks["c"] + w["d"] * 0.01


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6])
def test_no_width_is_narrower_and_no_faster(share: float) -> None:
    chosen = widths_by_budget(CURVES, SIZES, stairs, share, 1, "pruned_latency")
    spent = stairs(chosen)
    assert spent < stairs(SIZES)
    for name, width in chosen.items():
        for wider in range(width + 1, SIZES[name] + 1):
            assert stairs({**chosen, name: wider}) > spent, (name, width, wider)


def test_a_budget_out_of_reach_names_the_most() -> None:
    narrow = {"a": 16, "b": 16, "c": 8, "d": 3}
    most = 1 - cost(narrow) / cost(SIZES)
    with pytest.raises(PruneError, match=rf"pruned_flops is 0.99, .* hold only {most:.3f}"):
        widths_by_budget(CURVES, SIZES, cost, 0.99, 1, "pruned_flops")


def test_a_large_step_is_not_taken_where_smaller_ones_land_on_the_target() -> None:
    """``x`` is cheap to cut, but goes by 30% of the whole; ``y`` goes in steps of 0.7%."""
    sizes = {"x": 2, "y": 100}
    curves = {"x": Curve((0.5,), (0.0,)), "y": Curve((0.5, 0.9), (0.05, 0.1))}

    def whole(widths: Mapping[str, int]) -> float:
        return 30 * widths["x"] / 2 + 0.7 * widths["y"]

    chosen = widths_by_budget(curves, sizes, whole, 0.08, 1, "pruned_flops")
    assert chosen["x"] == 2 and abs(1 - whole(chosen) / whole(sizes) - 0.08) <= 0.01
