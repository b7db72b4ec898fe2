"""Several processes share an analysis, prune alike and train data-parallel (two ranks, gloo)."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable
from pathlib import Path

from training import on_two_ranks

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.plan import load_plan


def test_two_ranks_measure_what_one_would(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    cls_config: Path,
    cls_weights: Path,
    tmp_path: Path,
) -> None:
    options = [
        "-c", cls_config, "-o", "Global.use_gpu=false", f"Global.pretrained_model={cls_weights}",
        "Prune.max_loss=0.3", "Prune.sensitivity.ratios=[0.2,0.4,0.6,0.8]", "Prune.round_to=1",
        'Prune.skip=["backbone.blocks.0*"]', "Global.eval_batch_step=[0,1000]",
        "Global.find_unused_parameters=true", "Prune.recovery.distill=true",
    ]  # fmt: skip
    launch = ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo"]
    logs = tmp_path / "logs"
    two = tmp_path / "two"
    done = run_tool(
        [*launch, "--log_dir", logs, tree / "tools/train.py", *options,
         f"Global.save_model_dir={two}"],
        timeout=300,
    )  # fmt: skip
    written = "\n".join(p.read_text(errors="replace")[-3000:] for p in logs.glob("workerlog.*"))
    assert done.returncode == 0, written
    # Dynamic: each group was claimed once, by whichever rank came first, and both measured.
    (own,) = (two / "prune" / "ranks").glob("rank1-*.json")
    (messages,) = (two / "prune" / "ranks").glob("run-*")
    second = json.loads(own.read_text())["groups"]
    whole = json.loads((two / "prune" / "sensitivity.json").read_text())
    claims = {path.name.removeprefix("claim-job-0-"): path for path in messages.glob("claim-*")}
    assert claims.keys() == whole["groups"].keys()
    theirs = [name for name, path in claims.items() if path.read_text() == "1"]
    assert 0 < len(theirs) < len(whole["groups"]), "one of them did all of the work"
    for name in theirs:
        assert second[name]["points"] == whole["groups"][name]["points"], "measured twice"
    assert (messages / "finished").exists()
    plan = load_plan(two / "latest.prune.json")
    assert plan.flops.pruned > 0
    said = [path.read_text(errors="replace") for path in logs.glob("workerlog.*")]
    assert any("epoch: [1/1]" in log and "loss_distill: " in log for log in said)

    # One process, with the same calibration batches, measures the same and decides the same.
    one = tmp_path / "one"
    (one / "prune").mkdir(parents=True)
    for batches in (two / "prune").glob("calibration-*.npz"):
        (one / "prune" / batches.name).write_bytes(batches.read_bytes())
    alone = run_tool(
        [tree / "tools/train.py", *options, f"Global.save_model_dir={one}", "Prune.dry_run=true"]
    )
    assert alone.returncode == 0, alone.stderr[-2000:]
    single = json.loads((one / "prune" / "sensitivity.json").read_text())
    assert single["groups"].keys() == whole["groups"].keys()
    for name, group in single["groups"].items():
        assert group["points"] == whole["groups"][name]["points"], name
    assert load_plan(one / "prune" / "plan.prune.json").groups == plan.groups
    # What rank 0 saved is the network of the plan.
    shapes = read_shapes(two / "latest.pdparams")
    structure = plan.structures[""]
    for name, axes in structure.axes.items():
        assert [shapes[name][axis] for axis in axes] == [after for _, after in axes.values()], name

    # What was measured serves a run that prunes fewer layers.
    train = [tree / "tools/train.py", *options, f"Global.save_model_dir={one}"]
    fewer = 'Prune.skip=["backbone.blocks.[01]*"]'
    again = run_tool([*train, fewer, "Prune.dry_run=true"])
    assert again.returncode == 0, again.stderr[-2000:]
    kept = json.loads((one / "prune" / "sensitivity.json").read_text())["groups"]
    assert kept == single["groups"]
    assert len(load_plan(one / "prune" / "plan.prune.json").groups) < len(plan.groups)


REDUCED = """
import numpy as np
import paddle
import paddle.distributed as dist
from paddle import nn
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.holders import renew_reducer
from ppocr_prune_plugin.plan import GroupPlan

class Net(nn.Layer):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2D(3, 8, 3)
        self.sides = nn.LayerList([nn.Conv2D(8, 6, 1), nn.Conv2D(8, 6, 1)])
        self.used = (0, 1)

    def forward(self, x):
        x = nn.functional.relu(self.stem(x))
        return sum(side(x) for n, side in enumerate(self.sides) if n in self.used)

dist.init_parallel_env()
rank = dist.get_rank()
for unused in (False, True):
    paddle.seed(0)
    net = Net()
    parallel = paddle.DataParallel(net, find_unused_parameters=unused)
    graph = build_graph(net, [([1, 3, 8, 8], "float32")])
    group = next(group for group in graph.groups if group.size == 8)
    surgery.prune(net, graph, [GroupPlan(group.name, 8, (1, 4, 6), 3)])
    renew_reducer(parallel)
    used = [(0,), (1,)] if unused else [(0, 1), (0, 1)]

    def gradients(model, of_rank, step):
        net.used = used[of_rank]
        random = np.random.default_rng(2 * step + of_rank)
        images = paddle.to_tensor(random.random([2, 3, 8, 8], "float32"))
        model(images).square().mean().backward()
        found = {n: p.grad.numpy() for n, p in net.named_parameters() if p.grad is not None}
        for parameter in net.parameters():
            parameter.clear_grad()
        return found

    for step in range(2):
        alone = [gradients(net, of_rank, step) for of_rank in (0, 1)]
        for name, array in gradients(parallel, rank, step).items():
            mean = sum(own.get(name, 0) for own in alone) / 2
            np.testing.assert_allclose(array, mean, rtol=1e-4, atol=1e-6, err_msg=name)
print("reduced alike")
"""


def test_gradients_of_a_pruned_network_are_reduced(
    run_tool: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """``DataParallel`` was built over the unpruned parameters. With ``find_unused_parameters`` it
    makes up gradients for what one rank leaves out."""
    logs = on_two_ranks(run_tool, REDUCED, tmp_path)
    assert sum("reduced alike" in log for log in logs) == 2
