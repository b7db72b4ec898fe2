"""A target that prunes nothing is refused with the nearest that does."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from plain_search import cost_of
from test_budget import CURVES, SIZES, cost
from training import Tools, output, right_after

from ppocr_prune_plugin.plan import load_plan, plan_path
from ppocr_prune_plugin.ratios.budget import widths_by_budget, widths_by_max_loss
from ppocr_prune_plugin.ratios.nearest import Value, prunes_nothing
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.ratios.search import Search

HURTS = dict.fromkeys(SIZES, CURVES["b"])  # every layer loses as soon as it is cut


def by_ratio(value: Value, round_to: int) -> Mapping[str, int]:
    of = value if isinstance(value, Mapping) else dict.fromkeys(SIZES, value)
    return {name: width_for_ratio(SIZES[name], of.get(name, 0), round_to) for name in SIZES}


def by_loss(value: Value, round_to: int) -> Mapping[str, int]:
    assert isinstance(value, float)
    return widths_by_max_loss(HURTS, SIZES, value, round_to)


def by_flops(value: Value, round_to: int) -> Mapping[str, int]:
    assert isinstance(value, float)
    search = Search(CURVES, SIZES, cost_of(cost, SIZES), round_to)
    return widths_by_budget(search, value, "pruned_flops")


@pytest.mark.parametrize(
    ("key", "value", "widths"),
    [
        ("ratio", 0.0, by_ratio),
        ("ratio", 0.02, by_ratio),
        ("max_loss", 0.0, by_loss),
        ("max_loss", 0.01, by_loss),
        ("pruned_flops", 1e-4, by_flops),
    ],
)
def test_what_is_named_prunes_and_less_does_not(
    key: str, value: float, widths: Callable[[Value, int], Mapping[str, int]]
) -> None:
    assert widths(value, 8) == SIZES
    message = str(prunes_nothing(widths, SIZES, key, value, 8))
    assert f"Prune.{key} is {value:g}, which prunes nothing" in message
    named = re.search(rf"Prune\.{key}=([\d.e-]+?)[,.] ", message)
    assert named, message
    nearest = float(named[1])
    assert widths(nearest, 8) != SIZES
    assert widths(0.98 * nearest, 8) == SIZES
    rounding = re.search(r"Prune\.round_to=(\d)", message)
    finer = [r for r in range(1, 8) if widths(value, r) != SIZES]
    assert (int(rounding[1]) if rounding else None) == (max(finer) if finer else None)


def test_of_several_patterns_the_nearest_is_named() -> None:
    message = str(prunes_nothing(by_ratio, SIZES, "ratio", {"a": 0.01, "c": 0.02}, 8))
    named = re.search(r'Prune\.ratio\["a"\]=([\d.]+)[,.] ', message)
    assert named and by_ratio({"a": float(named[1])}, 8)["a"] == 56


def test_where_nothing_can_be_pruned() -> None:
    message = str(prunes_nothing(lambda *_: SIZES, SIZES, "max_loss", 0.1, 8))
    assert "Ask for more" in message and "Prune.enable=false" in message


def test_train_refuses_what_would_prune_nothing(cls_tools: Tools, tmp_path: Path) -> None:
    options = [
        f"Global.pretrained_model={cls_tools.weights}",
        f"Global.save_model_dir={tmp_path}",
        "Prune.max_loss=0.001",
        "Prune.criterion=l1",
        "Prune.recovery.compensate=false",
        "Prune.sensitivity.ratios=[0.9]",
        'Prune.skip=["backbone.blocks.*"]',
    ]
    done = cls_tools("train", *options)
    assert done.returncode == 2, output(done)
    (message,) = [li for li in done.stderr.splitlines() if li.startswith("ppocr-prune: error:")]
    assert "Prune.max_loss is 0.001, which prunes nothing. The nearest that does" in message
    nearest = re.search(r"Prune\.max_loss=([\d.]+)[,.] ", message)
    assert nearest, message
    assert not list(tmp_path.rglob("*.prune.json")) and not list(tmp_path.glob("*.pdparams"))

    # The analysis is kept, and what is named prunes.
    done = cls_tools("train", *options, f"Prune.max_loss={nearest[1]}", "Prune.dry_run=true")
    assert done.returncode == 0, output(done)
    assert "FLOPs" in output(done) and "(-0.0%)" not in output(done)
    assert "evaluate the unpruned model" not in output(done)


def test_a_dry_run_says_so_and_goes_on(cls_tools: Tools, tmp_path: Path) -> None:
    done = cls_tools(
        "train",
        f"Global.pretrained_model={cls_tools.weights}",
        f"Global.save_model_dir={tmp_path}",
        "Prune.ratio=0.001",
        "Prune.dry_run=true",
    )
    assert done.returncode == 0, output(done)
    assert "Prune.ratio is 0.001, which prunes nothing" in output(done)
    assert (tmp_path / "prune" / "report.html").is_file()


def test_a_dry_run_leaves_weights_that_tools_load(cls_tools: Tools, tmp_path: Path) -> None:
    """What it says of the pruned network is what eval.py measures of them."""
    done = cls_tools(
        "train",
        f"Global.pretrained_model={cls_tools.weights}",
        f"Global.save_model_dir={tmp_path}",
        "Prune.ratio=0.3",
        "Prune.dry_run=true",
    )
    assert done.returncode == 0, output(done)
    said = right_after(output(done))["after"]
    weights = tmp_path / "prune" / "untrained"
    assert f"the pruned weights without any training in {weights}" in output(done)
    assert load_plan(plan_path(weights)).flops.pruned > 0.1
    found = cls_tools.metric("acc", f"Global.pretrained_model={weights}")
    assert found == pytest.approx(said, abs=1e-4)
