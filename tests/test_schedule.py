"""Pruning in steps, and further: one plan against the original network."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from architectures import DETECTORS, RECOGNISERS
from fixtures_networks import build, calibrate
from training import Tools, output

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.further import goal, section_for, together, widths_by_ratio
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.network import inspect, make_plan, run_once
from ppocr_prune_plugin.plan import PruningPlan, load_plan
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.rebuilding import rebuild
from ppocr_prune_plugin.section import PruneSection

DETECTOR, RECOGNISER = "lcnetv3_rsefpn", "svtr"
LONGER = ("Global.epoch_num=3", "Global.save_epoch_step=1", "Global.eval_batch_step=[0,1000]")
STEPS = "Prune.schedule={steps: 2, epochs: 1}"


def chain() -> tuple[paddle.nn.Layer, list[Any]]:
    paddle.seed(0)
    widths = (3, 48, 24, 40, 4)
    convolutions = [paddle.nn.Conv2D(*pair, 3) for pair in zip(widths, widths[1:], strict=False)]
    return paddle.nn.Sequential(*convolutions), [([1, 3, 16, 16], "float32")]


def network_of(tree: Path, name: str) -> tuple[paddle.nn.Layer, list[Any]]:
    use_tree(tree)
    paddle.seed(0)
    if name in DETECTORS:
        return build(name), [([1, 3, 64, 64], "float32")]
    from ppocr.modeling.architectures import build_model

    architecture, shape = RECOGNISERS[name]
    return build_model(architecture), [([1, *shape], "float32")]


@pytest.mark.parametrize("name", [DETECTOR, RECOGNISER])
def test_two_cuts_are_one_plan_against_the_original_network(
    tree: Path, tmp_path: Path, name: str
) -> None:
    model, inputs = network_of(tree, name)
    calibrate(model, *map(paddle.rand, [inputs[0][0]]))
    plan: PruningPlan | None = None
    costs = []
    for share in (0.25, 0.3):
        network = inspect(model, inputs)
        costs.append(network.costs.flops(network.graph.shapes))
        # Other groups in each cut, and some in both.
        chosen = network.graph.groups[len(costs) - 1 :: 2] + network.graph.groups[:3]
        widths = {g.name: width_for_ratio(g.size, share, 1) for g in chosen}
        cut = make_plan(network, widths, Ranker("l1"))
        surgery.prune(model, network.graph, cut)
        plan = together(plan, cut)
    assert plan is not None
    plan.save(tmp_path / "plan.json")
    assert load_plan(tmp_path / "plan.json") == plan
    assert (plan.flops.before, plan.flops.after) == (costs[0], cut.flops.after)
    state = model.state_dict()
    again, _ = network_of(tree, name)
    before = {n: t.numpy() for n, t in again.state_dict().items()}
    shapes = {n: tuple(t.shape) for n, t in state.items()}
    assert rebuild(again, plan.structures[""], shapes) == {}
    again.set_state_dict(state)
    for one, other in zip(run_once(again, inputs), run_once(model, inputs), strict=True):
        np.testing.assert_array_equal(one, other)
    # The kept channels are those of the original network.
    graph = inspect(network_of(tree, name)[0], inputs).graph
    masks = surgery.kept_masks(graph, plan.groups)
    weights = [n for n in masks if n.endswith("weight") and len(before[n].shape) == 4]
    assert weights
    for parameter in weights:
        found = surgery.cut(before[parameter], masks[parameter])
        np.testing.assert_array_equal(found, state[parameter].numpy())


def test_a_cut_of_another_network_does_not_go_on_top() -> None:
    model, inputs = chain()
    network = inspect(model, inputs)
    group = network.graph.groups[0]
    cut = make_plan(network, {group.name: group.size - 2}, Ranker("l1"))
    with pytest.raises(PruneError, match=f"{group.name} has {group.size} channels, and"):
        together(cut, cut)
    unknown = replace(cut, groups=(replace(cut.groups[0], kept=None),))
    surgery.prune(model, network.graph, cut)
    second = make_plan(inspect(model, inputs), {group.name: group.size - 3}, Ranker("l1"))
    with pytest.raises(PruneError, match="does not say which channels .* still has"):
        together(unknown, second)


def test_targets_count_from_the_original_network() -> None:
    assert [goal(0.75, step, 2) for step in (1, 2)] == [0.5, 0.75]
    model, inputs = chain()
    network = inspect(model, inputs)
    groups = network.graph.groups
    section = PruneSection(ratio=0.5)
    first = widths_by_ratio(section, groups, None, 1, 3)
    cut = make_plan(network, first, Ranker("l1"))
    surgery.prune(model, network.graph, cut)
    rest = inspect(model, inputs)
    last = widths_by_ratio(section, rest.graph.groups, cut, 3, 3)
    assert last == {g.name: width_for_ratio(g.size, 0.5, 8) for g in groups}
    removed = cut.flops.pruned
    flops = section_for(PruneSection(pruned_flops=removed + 0.2), cut)
    assert flops is not None and flops.pruned_flops is not None
    assert (1 - removed) * (1 - flops.pruned_flops) == pytest.approx(0.8 - removed)
    assert section_for(PruneSection(pruned_flops=removed), cut) is None
    assert section_for(PruneSection(pruned_params=cut.params.pruned - 0.1), cut) is None
    latency = section_for(PruneSection(pruned_latency=0.75), cut, 2, 2)
    assert latency is not None and latency.pruned_latency == 0.5


@pytest.fixture(scope="module")
def scheduled(cls_tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A classifier pruned in two steps, taught by the unpruned one: the folder and the log."""
    folder = tmp_path_factory.mktemp("scheduled")
    start = f"Global.pretrained_model={cls_tools.weights}"
    log = cls_tools.train(
        folder, start, *LONGER, "Prune.ratio=0.5", STEPS, "Prune.recovery.distill=true"
    )
    return folder, log


def epochs(log: str) -> list[tuple[int, int]]:
    """(epoch, global step) of every line of training."""
    found = re.findall(r"epoch: \[(\d+)/\d+\], global_step: (\d+)", log)
    return sorted({(int(epoch), int(step)) for epoch, step in found})


def test_a_target_is_reached_in_steps(cls_tools: Tools, scheduled: tuple[Path, str]) -> None:
    folder, log = scheduled
    half, whole = (load_plan(folder / f"{n}.prune.json") for n in ("iter_epoch_1", "latest"))
    assert half.progress is not None and whole.progress is not None
    assert (half.progress.step, whole.progress.step, whole.progress.steps) == (1, 2, 2)
    assert 0.1 < half.flops.pruned < whole.flops.pruned
    assert half.flops.before == whole.flops.before
    assert load_plan(folder / "prune" / "plan.prune.json") == whole
    # As one cut would have been.
    assert whole.kept_channels() == {
        g.name: width_for_ratio(g.channels, 0.5, 8) for g in whole.groups
    }
    assert [epoch for epoch, _ in epochs(log)] == sorted(epoch for epoch, _ in epochs(log))
    assert {epoch for epoch, _ in epochs(log)} == {1, 2, 3}
    steps = [step for _, step in epochs(log)]
    assert len(set(steps)) == len(steps) == max(steps)  # counted on, none twice
    assert log.count("taught by the unpruned network") == 2 and "loss_distill" in log
    assert log.index("epoch: [1/1]") < log.rindex("right after pruning") < log.index("epoch: [2/3]")
    done = cls_tools("eval", f"Global.checkpoints={folder / 'latest'}")
    assert done.returncode == 0 and "rebuilt the pruned network" in output(done)


def test_a_run_that_ends_between_two_steps_goes_on_with_the_next(
    cls_tools: Tools, scheduled: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = scheduled
    goes_on = (f"Global.checkpoints={folder / 'iter_epoch_1'}", *LONGER, "Prune.ratio=0.5")
    other = cls_tools("train", *goes_on, f"Global.save_model_dir={tmp_path}")
    assert other.returncode == 2
    assert "has done step 1 of {steps: 2, epochs: 1}, and the key is not there" in output(other)
    log = cls_tools.train(tmp_path, *goes_on, STEPS, "Prune.recovery.distill=true")
    assert {epoch for epoch, _ in epochs(log)} == {2, 3} and "loss_distill" in log
    found, expected = (load_plan(f / "latest.prune.json") for f in (tmp_path, folder))
    assert found.kept_channels() == expected.kept_channels()
    assert found.flops == expected.flops and found.progress == expected.progress
    log = cls_tools.train(
        tmp_path / "more", f"Global.checkpoints={tmp_path / 'latest'}", "Global.epoch_num=4",
        "Prune.ratio=0.5", STEPS,
    )  # fmt: skip
    assert "it is not pruned again" in log and {epoch for epoch, _ in epochs(log)} == {4}


def test_a_pruned_checkpoint_is_pruned_further_by_a_later_run(
    cls_tools: Tools, scheduled: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = scheduled
    first = load_plan(folder / "iter_epoch_1.prune.json")
    start = f"Global.pretrained_model={folder / 'iter_epoch_1'}"
    same = cls_tools("train", start, f"Global.save_model_dir={tmp_path}", "Prune.ratio=0.25")
    assert same.returncode == 2 and not (tmp_path / "latest.pdparams").exists()
    assert "Prune.ratio is 0.25, which counts from the unpruned network" in output(same)
    log = cls_tools.train(tmp_path, start, "Prune.ratio=0.5", "Prune.recovery.distill=true")
    assert "loss_distill" in log
    plan = load_plan(tmp_path / "latest.prune.json")
    assert plan.progress is None and plan.flops.before == first.flops.before
    assert plan.unpruned == first.unpruned and plan.flops.pruned > first.flops.pruned
    assert plan.kept_channels() == {
        g.name: width_for_ratio(g.channels, 0.5, 8) for g in plan.groups
    }


def test_a_schedule_that_is_longer_than_the_training(cls_tools: Tools, tmp_path: Path) -> None:
    start = f"Global.pretrained_model={cls_tools.weights}"
    folder = f"Global.save_model_dir={tmp_path}"
    done = cls_tools("train", start, folder, "Prune.ratio=0.5", STEPS)
    assert done.returncode == 2
    assert "the last time before epoch 2, and Global.epoch_num is 1" in output(done)
