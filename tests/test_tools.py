"""PaddleOCR's own tools, run as processes on a real detector: prune, resume, evaluate, export."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import paddle
import pytest
from training import Tools, output

from demo.weights import build
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.hooks.adapters.boxes import HMEAN, OVERLAP
from ppocr_prune_plugin.network import inspect
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.ratios.costs import flops_of
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.report.data import load_report

SHARE = 0.4
# FLOPs that uniform pruning may remove less of, so that its task is no harder.
EASIER = 0.03
ANALYSIS = (
    f"Prune.pruned_flops={SHARE}",
    "Prune.sensitivity.ratios=[0.5]",
    "Prune.sensitivity.samples=3",
)
# Two epochs of two steps, and an evaluation after them.
FEW_STEPS = ("Global.epoch_num=2", "Train.dataset.ratio_list=[0.5]", "Global.eval_batch_step=[0,4]")


@pytest.fixture(scope="module")
def tools(det_tools: Tools) -> Tools:
    return det_tools


@dataclass(frozen=True)
class Run:
    folder: Path
    log: str

    @property
    def right_after(self) -> float:
        found = re.search(r"hmean [\d.]+ -> ([\d.]+) right after pruning", self.log)
        assert found, self.log[-3000:]
        return float(found.group(1))

    @property
    def best(self) -> float:
        return float(re.findall(r"best metric, .*?hmean: ([\d.]+)", self.log)[-1])


@pytest.fixture(scope="module")
def pruned(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """40% of the FLOPs removed by sensitivity, then fine-tuned for a few steps, by a tool that was
    started from nothing."""
    folder = tmp_path_factory.mktemp("pruned")
    return Run(
        folder,
        tools.train(
            folder,
            f"Global.pretrained_model={tools.weights}",
            *ANALYSIS,
            "Global.save_epoch_step=1",
            *FEW_STEPS,
            fresh=True,
        ),
    )


def uniform_ratio(flops: float) -> float:
    """The largest ratio of all layers, in steps of a hundredth, that removes no more than that
    share of the detector's FLOPs."""
    model = build("det")
    network = inspect(model, [([1, 3, 160, 160], "float32")])
    groups, cost = network.graph.groups, flops_of(network.graph, network.costs)

    def removed(ratio: float) -> float:
        widths = {group.name: width_for_ratio(group.size, ratio, 1) for group in groups}
        return 1 - cost(widths) / cost({group.name: group.size for group in groups})

    return max(step / 100 for step in range(100) if removed(step / 100) <= flops)


def test_pruning_by_sensitivity_beats_uniform_random_pruning(
    tools: Tools, pruned: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = load_plan(pruned.folder / "latest.prune.json")
    random = Run(
        tmp_path,
        tools.train(
            tmp_path,
            f"Global.pretrained_model={tools.weights}",
            f"Prune.ratio={uniform_ratio(ours.flops.pruned)}",
            "Prune.criterion=random",
            "Prune.round_to=1",
            *FEW_STEPS,
        ),
    )
    theirs = load_plan(tmp_path / "latest.prune.json")
    with capsys.disabled():  # to be seen in every run
        print(
            f"\nhmean right after pruning: {pruned.right_after:.4f} "
            f"(random {random.right_after:.4f}); "
            f"after fine-tuning: {pruned.best:.4f} (random {random.best:.4f}); FLOPs removed: "
            f"{ours.flops.pruned:.1%} (random {theirs.flops.pruned:.1%})"
        )
    for run in (pruned, random):  # with an analysis and without one
        beside = load_report(run.folder / "prune" / "report.json").beside
        assert set(beside) == {HMEAN, OVERLAP} and all(0 < v < 1 for v in beside[OVERLAP])
        assert f"{HMEAN} {beside[HMEAN][0]:.4f} -> {beside[HMEAN][1]:.4f}" in run.log
    assert abs(ours.flops.pruned - SHARE) <= 0.01
    assert 0 <= ours.flops.pruned - theirs.flops.pruned <= EASIER
    assert pruned.right_after > random.right_after
    assert pruned.best > random.best


def test_every_checkpoint_carries_the_plan(pruned: Run) -> None:
    written = {p.relative_to(pruned.folder).as_posix() for p in pruned.folder.rglob("*.pdparams")}
    assert {"latest.pdparams", "iter_epoch_1.pdparams", "best_model/model.pdparams"} <= written
    for weights in written:
        content = json.loads(
            (pruned.folder / weights.replace(".pdparams", ".prune.json")).read_text()
        )
        assert {"format", "criterion", "groups", "flops", "params"} <= set(content)
        for group in content["groups"]:
            assert group["channels"] > len(group["kept"]) == group["kept_channels"] > 0
        for key in ("flops", "params"):
            assert set(content[key]) == {"before", "after", "pruned"}
        # Counted are the parameters of inference mode: without the threshold head, and with
        # parallel branches as one.
        shapes = read_shapes(pruned.folder / weights)
        statistics = ("_mean", "_variance")
        trained = [np.prod(s) for name, s in shapes.items() if not name.endswith(statistics)]
        assert 0.7 * sum(trained) < content["params"]["after"] < sum(trained)
        assert not [name for name in shapes if "backup" in name]


def test_the_log_has_a_table_and_a_summary(pruned: Run) -> None:
    assert re.search(r"layer +channels +kept +ratio +predicted loss", pruned.log)
    assert re.search(r"backbone\.\S+ +\d+ +\d+ +0\.\d\d +-?\d\.\d{4}", pruned.log)
    removed = re.search(r"FLOPs \(MACs\) \S+ -> \S+ \(-([\d.]+)%\)", pruned.log)
    assert removed and abs(float(removed[1]) / 100 - SHARE) <= 0.01
    assert (pruned.folder / "prune" / "report.html").is_file()
    assert (pruned.folder / "prune" / "plan.prune.json").is_file()


def test_a_detector_trained_towards_its_own_ratio_is_not_warned_of(pruned: Run) -> None:
    assert "maps shrunk by" not in pruned.log and "from scratch" not in pruned.log


def test_what_was_measured_with_other_settings_is_refused_by_name(
    tools: Tools, pruned: Run, tmp_path: Path
) -> None:
    shutil.copytree(pruned.folder / "prune", tmp_path / "prune")
    file = tmp_path / "prune" / "sensitivity.json"
    before = file.read_bytes()
    done = tools(
        "train",
        f"Global.save_model_dir={tmp_path}",
        f"Global.pretrained_model={tools.weights}",
        *ANALYSIS,
        *FEW_STEPS,
        "PostProcess.box_thresh=0.9",
    )
    assert done.returncode == 2, output(done)
    assert "belongs to another PostProcess.box_thresh ('0.6' there, '0.9' here)" in done.stderr
    assert file.read_bytes() == before


def hmean(done: subprocess.CompletedProcess[str]) -> float:
    assert done.returncode == 0, output(done)
    found = re.findall(r"hmean:([\d.]+)", output(done))
    assert found, output(done)[-2000:]
    return float(found[-1])


def test_eval_rebuilds_from_a_copied_pdparams_alone(
    tools: Tools, pruned: Run, tmp_path: Path
) -> None:
    shutil.copy(pruned.folder / "best_accuracy.pdparams", tmp_path)
    done = tools("eval", f"Global.checkpoints={tmp_path / 'best_accuracy'}")
    assert hmean(done) == pytest.approx(pruned.best, abs=1e-6)
    assert "not matched" not in output(done)
    assert "structure worked out from best_accuracy.pdparams" in output(done)


def test_eval_with_the_plan_and_a_section(tools: Tools, pruned: Run) -> None:
    done = tools(
        "eval", f"Global.checkpoints={pruned.folder / 'best_accuracy'}", "Prune.pruned_flops=0.4"
    )
    assert hmean(done) == pytest.approx(pruned.best, abs=1e-6)


def test_training_resumes_without_pruning_again(tools: Tools, pruned: Run, tmp_path: Path) -> None:
    for name in ("latest.pdparams", "latest.pdopt", "latest.states", "latest.prune.json"):
        shutil.copy(pruned.folder / name, tmp_path)
    log = tools.train(
        tmp_path,
        f"Global.checkpoints={tmp_path / 'latest'}",
        f"Prune.pruned_flops={SHARE}",
        "Global.epoch_num=3",
    )
    assert "it is not pruned again" in log
    assert "epoch: [3/3]" in log and "epoch: [2/3]" not in log
    assert "not matched" not in log and "is not loaded" not in log
    assert read_shapes(tmp_path / "latest.pdparams") == read_shapes(
        pruned.folder / "latest.pdparams"
    )
    old = paddle.load(str(pruned.folder / "latest.pdopt"))
    new = paddle.load(str(tmp_path / "latest.pdopt"))
    powers = [key for key in old if "beta1_pow" in key]
    assert powers
    for key in powers:  # Adam has gone on counting steps, it did not begin anew
        assert float(new[key]) < float(old[key])
    assert load_plan(tmp_path / "latest.prune.json") == load_plan(
        pruned.folder / "latest.prune.json"
    )


def test_export_and_inference(tools: Tools, pruned: Run, rendered: Path, tmp_path: Path) -> None:
    best = f"Global.pretrained_model={pruned.folder / 'best_accuracy'}"
    folder = f"Global.save_inference_dir={tmp_path / 'inference'}"
    done = tools("export_model", best, folder, fresh=True)
    assert done.returncode == 0, output(done)
    assert "the exported model agrees with the trained one" in output(done)
    assert (tmp_path / "inference" / "inference.pdiparams").stat().st_size > 0
    image = next((rendered / "val").glob("*.jpg"))
    done = tools(
        "infer_det", best, f"Global.infer_img={image}", f"Global.save_res_path={tmp_path / 'r.txt'}"
    )
    assert done.returncode == 0, output(done)
    boxes = json.loads((tmp_path / "r.txt").read_text().split("\t")[1])
    assert boxes, "the pruned detector finds nothing"


def test_export_with_a_plan_from_a_dry_run(tools: Tools, pruned: Run, tmp_path: Path) -> None:
    unpruned = f"Global.pretrained_model={tools.weights}"
    plan = str(pruned.folder / "prune" / "plan.prune.json")
    folder = f"Global.save_inference_dir={tmp_path / 'inference'}"
    done = tools("export_model", unpruned, folder, before=("--prune-plan", plan))
    assert done.returncode == 0, output(done)
    assert "agrees with the trained one" in output(done)
    done = tools(
        "export_model",
        f"Global.pretrained_model={pruned.folder / 'latest'}",
        folder,
        before=("--prune-plan", plan),
    )
    assert done.returncode == 2 and "is pruned already" in output(done)


def test_an_unpruned_checkpoint_stays_with_paddleocr(tools: Tools, tmp_path: Path) -> None:
    """Another head: the shapes fit no pruning, and PaddleOCR warns as it always did."""
    state = paddle.load(str(tools.weights) + ".pdparams")
    state["head.binarize.conv3.weight"] = paddle.zeros([24, 5, 2, 2])
    paddle.save(state, str(tmp_path / "other.pdparams"))
    option = f"Global.pretrained_model={tmp_path / 'other'}"
    with_plugin = tools("eval", option)
    without = tools("eval", option, env={"PPOCR_PRUNE": "0"})
    assert with_plugin.returncode == without.returncode == 0
    assert "not matched" in output(with_plugin) and "prune:" not in output(with_plugin)
    assert hmean(with_plugin) == hmean(without)


def test_without_a_section_weights_are_byte_identical(tools: Tools, tmp_path: Path) -> None:
    """Same seed, with the plugin active, in a tool started from nothing, and switched off."""
    options = [
        f"Global.pretrained_model={tools.weights}",
        "Global.eval_batch_step=[0,1000]",
        "Train.dataset.ratio_list=[0.5]",
    ]
    tools.train(tmp_path / "on", *options, fresh=True)
    tools.train(tmp_path / "off", *options, env={"PPOCR_PRUNE": "0"})
    for name in ("latest.pdparams", "latest.pdopt", "latest.states"):
        assert (tmp_path / "on" / name).read_bytes() == (tmp_path / "off" / name).read_bytes()
    assert not list((tmp_path / "on").rglob("*prune*"))


def measured(file: Path) -> int:
    """Points in a sensitivity file, which is whole whenever it is there."""
    if not file.exists():
        return 0
    return sum(len(group["points"]) for group in json.loads(file.read_text())["groups"].values())


def test_a_killed_analysis_goes_on_where_it_was(cls_tools: Tools, tmp_path: Path) -> None:
    tools = cls_tools
    options = [
        f"Global.pretrained_model={tools.weights}",
        "Prune.max_loss=0.3",
        "Prune.sensitivity.ratios=[0.2,0.4,0.6]",
        "Prune.dry_run=true",
    ]
    tools.train(tmp_path / "whole", *options)
    whole = json.loads((tmp_path / "whole/prune/sensitivity.json").read_text())
    points = measured(tmp_path / "whole/prune/sensitivity.json")
    assert points >= 4
    assert not list((tmp_path / "whole").glob("*.pdparams")), "a dry run does not train"

    # The same again, killed without warning once some points are on disk.
    folder = tmp_path / "again/prune"
    command = [
        *(sys.executable, tools.tree / "tools/train.py", "-c", tools.config, "-o"),
        *("Global.use_gpu=false", f"Global.save_model_dir={tmp_path / 'again'}", *options),
    ]
    with open(tmp_path / "log", "wb") as log_file:
        process = subprocess.Popen(command, stdout=log_file, stderr=log_file)
    while process.poll() is None and measured(folder / "sensitivity.json") < 2:
        time.sleep(0.05)
    process.kill()
    process.wait()
    survived = measured(folder / "sensitivity.json")
    assert 2 <= survived < points, "killed too late to show anything"
    log = tools.train(tmp_path / "again", *options)
    again = json.loads((folder / "sensitivity.json").read_text())
    assert again == whole
    assert "evaluate the unpruned model" not in log
    assert re.search(
        rf"prune: {survived} points of an earlier run are reused; at most \d+ are left", log
    )
    assert (folder / "plan.prune.json").read_text() == (
        tmp_path / "whole/prune/plan.prune.json"
    ).read_text()
