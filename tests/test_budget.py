"""From curves to widths: max_loss, budgets, and how they compare with one threshold for all."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
from fixtures_networks import INPUTS, Detector, build
from plain_search import Count, PlainSearch, cost_of

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.cost import CostModel, cost_model
from ppocr_prune_plugin.graph.groups import ChannelGraph
from ppocr_prune_plugin.ratios.budget import OutOfReach, widths_by_budget, widths_by_max_loss
from ppocr_prune_plugin.ratios.costs import Cost, Part, Size, flops_of, params_of
from ppocr_prune_plugin.ratios.curves import Curve
from ppocr_prune_plugin.ratios.feasibility import SHARES, feasibility
from ppocr_prune_plugin.ratios.rounding import width_for_ratio, widths
from ppocr_prune_plugin.ratios.search import NEAR, Search
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


def search(count: Count, round_to: int = 1) -> Search:
    return Search(CURVES, SIZES, cost_of(count, SIZES), round_to)


def stairs(widths: Mapping[str, int]) -> int:
    """Microseconds: blocks of 16 channels count, and what is no multiple of 4 runs slower."""
    w = {**SIZES, **widths}
    slow = sum(700 for width in w.values() if width % 4)
    blocks = {name: -(-width // 16) for name, width in w.items()}
    products = blocks["a"] * blocks["b"] + blocks["b"] * blocks["c"]
    return 1500 + slow + 1000 * products + 10 * w["d"]


@pytest.mark.parametrize("share", [0.1, 0.2, 0.3, 0.4, 0.5])
def test_a_budget_is_met_and_costs_no_more_than_one_threshold(share: float) -> None:
    chosen = widths_by_budget(search(cost), share, "pruned_flops")
    assert abs(1 - cost(chosen) / cost(SIZES) - share) <= NEAR
    plain = PlainSearch(CURVES, SIZES, cost, 1)
    one = plain.threshold(cost(SIZES) * (1 - share))
    if abs(1 - cost(one) / cost(SIZES) - share) <= NEAR:  # one threshold may overshoot
        assert plain.loss(chosen) <= plain.loss(one) + 1e-9
    assert chosen == plain.spend(share)


@pytest.mark.parametrize("share", [0.1, 0.25, 0.4, 0.6])
def test_no_width_is_narrower_and_no_faster(share: float) -> None:
    chosen = widths_by_budget(search(stairs), share, "pruned_latency")
    assert chosen == PlainSearch(CURVES, SIZES, stairs, 1).spend(share)
    spent = stairs(chosen)
    assert spent < stairs(SIZES)
    for name, width in chosen.items():
        for wider in range(width + 1, SIZES[name] + 1):
            assert stairs({**chosen, name: wider}) > spent, (name, width, wider)


def test_a_budget_out_of_reach_names_the_most() -> None:
    narrow = {"a": 16, "b": 16, "c": 8, "d": 3}
    most = 1 - cost(narrow) / cost(SIZES)
    with pytest.raises(OutOfReach, match=rf"pruned_flops is 0.99, .* hold only {most:.3f}"):
        widths_by_budget(search(cost), 0.99, "pruned_flops")


def test_a_large_step_is_not_taken_where_smaller_ones_land_on_the_target() -> None:
    """``x`` is cheap to cut, but goes by 30% of the whole; ``y`` goes in steps of 0.7%."""
    sizes = {"x": 2, "y": 100}
    curves = {"x": Curve((0.5,), (0.0,)), "y": Curve((0.5, 0.9), (0.05, 0.1))}

    def whole(widths: Mapping[str, int]) -> int:
        return 150 * widths["x"] + 7 * widths["y"]

    found = Search(curves, sizes, cost_of(whole, sizes), 1)
    chosen = widths_by_budget(found, 0.08, "pruned_flops")
    assert chosen == PlainSearch(curves, sizes, whole, 1).spend(0.08)
    assert chosen["x"] == 2 and abs(1 - whole(chosen) / whole(sizes) - 0.08) <= 0.01


def random_curves(sizes: Mapping[str, int], seed: int) -> dict[str, Curve]:
    """Some flat, some steep, some that fall in between, and two that are the same."""
    random = np.random.default_rng(seed)
    curves = {}
    for name in sizes:
        ratios = tuple(np.linspace(0.2, 0.8, 4).round(6).tolist())
        losses = random.normal(0.0, 0.02) + np.cumsum(random.exponential(0.03, 4)) ** 2
        curves[name] = Curve(ratios, tuple(losses.round(6).tolist()))
    first, second, *_ = curves
    curves[second] = curves[first]
    return curves


def chain(sizes: Mapping[str, int]) -> Cost:
    """Layers one after another; the last also reads the first, twice, beside channels that stay."""
    names = list(sizes)
    parts = [
        Part((Size(3, ((before, 1),)), Size(0, ((after, 1),))), lambda w: 9 * w[0] * w[1])
        for before, after in itertools.pairwise(names)
    ]
    last = Size(5, ((names[0], 2), (names[-1], 1)))
    return Cost(1000, (*parts, Part((last,), lambda w: 40 * w[0])))


@pytest.mark.parametrize("seed", range(6))
def test_the_search_chooses_what_the_plain_way_chooses(seed: int) -> None:
    random = np.random.default_rng(seed)
    sizes = {f"layer{k}": int(random.choice([6, 24, 40, 64])) for k in random.permutation(6)}
    curves, cost = random_curves(sizes, seed), chain(sizes)
    del curves["layer3"]  # of a group that may not be pruned, as the first and last of others
    search = Search(curves, sizes, cost, 8)
    for share in SHARES:  # one after another: nothing of one may be left for the next
        if share > search.most:
            continue
        plain = PlainSearch(curves, sizes, cost.total, 8)
        assert search.spend(share) == plain.spend(share), share


def test_a_step_prices_only_what_it_touches() -> None:
    """The plain way prices the whole network for every trial."""
    sizes = {f"layer{k}": 64 for k in range(24)}
    priced = 0

    def counted(price: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def count(sizes: tuple[Any, ...]) -> Any:
            nonlocal priced
            priced += 1
            return price(sizes)

        return count

    cost = chain(sizes)
    parts = tuple(Part(part.sizes, counted(part.price)) for part in cost.parts)
    curves = random_curves(sizes, 0)
    found = Search(curves, sizes, Cost(cost.constant, parts), 8).spend(0.5)
    mine, priced = priced, 0
    plain = PlainSearch(curves, sizes, Cost(cost.constant, parts).total, 8)
    assert plain.spend(0.5) == found
    assert 0 < mine < priced / 20, (mine, priced)


@pytest.fixture(scope="module")
def networks(
    detector: Callable[[str], Detector],
) -> dict[str, tuple[ChannelGraph, CostModel]]:
    found = {}
    for name in ("mv3_se_dbfpn", "lcnetv3_4_branches_rsefpn"):
        built = detector(name)
        found[name] = built.graph, cost_model(build(name), INPUTS, built.graph)
    return found


def test_sums_of_parts_are_the_whole_cost(
    networks: dict[str, tuple[ChannelGraph, CostModel]],
) -> None:
    """FLOPs and parameters, for any widths: dense, depthwise, shared and concatenated channels."""
    random = np.random.default_rng(0)
    for graph, costs in networks.values():
        flops, params = flops_of(graph, costs), params_of(graph, costs)
        assert len(flops.parts) > 20 and len(params.parts) > 20
        for _ in range(5):
            widths = {g.name: int(random.integers(1, g.size + 1)) for g in graph.groups}
            shapes = surgery.shapes_after(graph, widths)
            assert flops(widths) == costs.flops(shapes)
            assert params(widths) == costs.params(shapes)


def test_the_search_chooses_the_same_in_a_detector(
    networks: dict[str, tuple[ChannelGraph, CostModel]],
) -> None:
    graph, costs = networks["mv3_se_dbfpn"]
    sizes = {group.name: group.size for group in graph.groups}
    cost = params_of(graph, costs)
    counted = {name for part in cost.parts for name in part.groups}  # not those of training alone
    curves = random_curves({name: sizes[name] for name in sizes if name in counted}, 0)
    search = Search(curves, sizes, cost, 16)
    rows = feasibility(search)
    plain = PlainSearch(curves, sizes, cost.total, 16).spend(SHARES[1])
    assert search.spend(SHARES[1]) == plain
    losses = (float(curves[name].loss(1 - width / sizes[name])) for name, width in plain.items())
    assert rows[1] == (SHARES[1], pytest.approx(sum(losses)))


def test_the_nearest_width_is_the_nearest_of_all() -> None:
    for size, round_to in itertools.product((1, 5, 8, 12, 16, 27, 96, 360), (1, 4, 8, 16)):
        for ratio in np.linspace(0, 0.999, 50).tolist():
            nearest = width_for_ratio(size, ratio, round_to)
            off = {w: round(abs(w - size * (1 - ratio)), 6) for w in widths(size, round_to)}
            assert off[nearest] == min(off.values())
            assert nearest == max(w for w in off if off[w] == off[nearest])
