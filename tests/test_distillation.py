"""Distillation: students pruned beside their teacher, from training to export."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml
from training import Tools, output, right_after

from demo.configs import write_config
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.networks import Networks
from ppocr_prune_plugin.hooks.adapters.sub_models import check_models, families, sub_models_of
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.section import PruneSection, parse_section

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="module")
def student2(det_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The detector once more, with weights that rank their filters otherwise."""
    state = paddle.load(f"{det_weights}.pdparams")
    paddle.seed(0)
    for name, tensor in state.items():
        if name.endswith("conv.weight"):
            scale = 1 + 0.02 * paddle.randn([tensor.shape[0], 1, 1, 1])
            state[name] = tensor * scale
    path = tmp_path_factory.mktemp("student2") / "student2"
    paddle.save(state, f"{path}.pdparams")
    return path


@pytest.fixture(scope="module")
def config(
    det_config: Path, det_weights: Path, student2: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """Two students that learn from each other and from a frozen teacher, as PP-OCRv3's CML."""
    config = yaml.safe_load(det_config.read_text(encoding="utf-8"))
    one = config["Architecture"]
    config["Global"].pop("model_name", None)  # PaddleOCR would name the post-process so
    config["Architecture"] = {
        "name": "DistillationModel",
        "algorithm": "Distillation",
        "model_type": "det",
        "Models": {
            "Teacher": {**one, "pretrained": str(det_weights), "freeze_params": True},
            "Student": {**one, "pretrained": str(det_weights)},
            "Student2": {**one, "pretrained": str(student2)},
        },
    }
    students = ["Student", "Student2"]
    db = {key: value for key, value in config["Loss"].items() if key != "name"}
    pairs = [[name, "Teacher"] for name in students]
    config["Loss"] = {
        "name": "CombinedLoss",
        "loss_config_list": [
            {
                "DistillationDilaDBLoss": {
                    "weight": 1.0,
                    **db,
                    "model_name_pairs": pairs,
                    "key": "maps",
                }
            },
            {
                "DistillationDMLLoss": {
                    "weight": 1.0,
                    "model_name_pairs": [students],
                    "maps_name": "thrink_maps",
                    "key": "maps",
                }
            },
            {"DistillationDBLoss": {"weight": 1.0, **db, "model_name_list": students}},
        ],
    }
    config["PostProcess"] |= {
        "name": "DistillationDBPostProcess",
        "model_name": ["Student", "Student2", "Teacher"],
        "key": "head_out",
    }
    config["Metric"] = {
        "name": "DistillationMetric",
        "base_metric_name": "DetMetric",
        "main_indicator": "hmean",
        "key": "Student",
    }
    return json.loads(json.dumps(config))


@pytest.fixture(scope="module")
def tools(
    run_tool: RunTool, tree: Path, config: dict[str, Any], det_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Tools:  # fmt: skip
    path = tmp_path_factory.mktemp("config") / "distillation.yml"
    return Tools(run_tool, tree, write_config(config, path), det_weights)


@pytest.fixture(scope="module")
def trained(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """Both students pruned by sensitivity, and trained for an epoch."""
    folder = tmp_path_factory.mktemp("distillation")
    log = tools.train(
        folder,
        "Prune.pruned_flops=0.2",
        "Prune.sensitivity.ratios=[0.7]",
        "Prune.sensitivity.samples=2",
        'Prune.skip=["backbone.*"]',
        "Train.dataset.ratio_list=[0.5]",
        "Global.eval_batch_step=[0,2]",
    )
    return folder, log


def test_students_get_the_same_widths_and_the_teacher_stays(
    trained: tuple[Path, str], det_weights: Path
) -> None:
    folder, log = trained
    whole = read_shapes(det_weights.with_name("det.pdparams"))
    found = read_shapes(folder / "latest.pdparams")

    def of(name: str) -> dict[str, tuple[int, ...]]:
        prefix = name + "."
        return {n.removeprefix(prefix): s for n, s in found.items() if n.startswith(prefix)}

    assert of("Teacher") == whole
    assert of("Student") == of("Student2") != whole
    plan = load_plan(folder / "latest.prune.json")
    assert 0.19 < plan.flops.pruned < 0.21
    kept = {group.name: group.kept for group in plan.groups}
    mine = {name for name in kept if name.startswith("Student.")}
    assert {name.replace("Student.", "Student2.") for name in mine} == set(kept) - mine
    # Each by its own ranking.
    assert any(kept[n] != kept[n.replace("Student.", "Student2.")] for n in mine)
    assert "prune: frozen: Teacher" not in log
    assert right_after(log)["before"] > 0.8


def test_only_the_main_student_is_analysed(trained: tuple[Path, str]) -> None:
    folder, log = trained
    assert (folder / "prune/Student/sensitivity.json").is_file()
    assert not (folder / "prune/Student2/sensitivity.json").exists()
    for name in ("Student", "Student2"):
        assert (folder / "prune" / name / "report.html").is_file()
    assert (folder / "prune/plan.prune.json").is_file()
    assert "Student2: the same widths" in log


def test_every_tool_rebuilds_the_students(
    tools: Tools, trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, log = trained
    # A copied .pdparams alone: the structure of each student is worked out from its shapes.
    shutil.copy(folder / "best_accuracy.pdparams", tmp_path)
    best = float(re.findall(r"best metric, .*?\bhmean: ([\d.]+)", log)[-1])
    assert best > 0.5
    assert tools.metric("hmean", f"Global.checkpoints={tmp_path / 'best_accuracy'}") == (
        pytest.approx(best, abs=1e-6)
    )
    done = tools(
        "export_model",
        f"Global.pretrained_model={folder / 'best_accuracy'}",
        f"Global.save_inference_dir={tmp_path / 'inference'}",
    )
    assert done.returncode == 0, output(done)
    assert output(done).count("the exported model agrees with the trained one") == 3
    sizes = {
        name: (tmp_path / "inference" / name / "inference.pdiparams").stat().st_size
        for name in ("Student", "Student2", "Teacher")
    }
    assert sizes["Student"] == sizes["Student2"] < 0.95 * sizes["Teacher"]


def test_training_resumes_and_further_distils_a_pruned_student(
    tools: Tools, trained: tuple[Path, str], tmp_path: Path
) -> None:
    folder, _ = trained
    options = ("Global.epoch_num=2", "Train.dataset.ratio_list=[0.25]", "Prune.pruned_flops=0.2")
    log = tools.train(tmp_path / "resumed", f"Global.checkpoints={folder / 'latest'}", *options)
    assert "it is not pruned again" in log and "epoch: [2/2]" in log
    assert "not matched" not in log and "is not loaded" not in log
    assert load_plan(tmp_path / "resumed/latest.prune.json") == load_plan(
        folder / "latest.prune.json"
    )
    # A student that was pruned and saved by itself goes on as a student.
    state = paddle.load(str(folder / "latest.pdparams"))
    student = {n.removeprefix("Student."): v for n, v in state.items() if n.startswith("Student.")}
    paddle.save(student, str(tmp_path / "student.pdparams"))
    shutil.copy(folder / "latest.prune.json", tmp_path / "student.prune.json")
    pretrained = (
        f"Architecture.Models.Student.pretrained={tmp_path / 'student'}",
        "Train.dataset.ratio_list=[0.25]",
        "Global.eval_batch_step=[0,1000]",
    )
    log = tools.train(tmp_path / "distilled", *pretrained)
    assert "rebuilt the pruned network" in log and "not matched" not in log
    found = read_shapes(tmp_path / "distilled/latest.pdparams")
    assert {
        n.removeprefix("Student."): s for n, s in found.items() if n.startswith("Student.")
    } == {name: tuple(tensor.shape) for name, tensor in student.items()}
    plan = load_plan(tmp_path / "distilled/latest.prune.json")
    assert {group.name.partition(".")[0] for group in plan.groups} == {"Student"}
    refused = tools("train", *pretrained, f"Global.save_model_dir={tmp_path}", "Prune.ratio=0.01")
    assert refused.returncode == 2
    assert "Prune.ratio is 0.01, which counts from the unpruned network, and of Student" in (
        output(refused)
    )


def test_each_student_is_taught_by_what_it_was(
    tools: Tools, det_weights: Path, student2: Path, tmp_path: Path
) -> None:
    """Beside the frozen teacher of the config, which teaches as it does without."""
    options = (
        "Prune.ratio=0.3",
        "Prune.recovery.distill=true",
        "Train.dataset.ratio_list=[0.25]",
        "Global.eval_batch_step=[0,1000]",
    )
    log = tools.train(tmp_path / "first", *options)
    assert ", Student.backbone[0], Student.neck[0], " in log and "Student2.backbone[" in log
    assert len(re.findall(r"\bloss_distill: [\d.]+", log)) == 1
    files = load_plan(tmp_path / "first/latest.prune.json").unpruned
    assert {name: file.path for name, file in files.items()} == {
        "Student": f"{det_weights}.pdparams",
        "Student2": f"{student2}.pdparams",
    }
    resumed = tools.train(
        tmp_path / "second",
        f"Global.checkpoints={tmp_path / 'first/latest'}",
        "Global.epoch_num=2",
        *options,
    )
    assert "it is not pruned again" in resumed and "taught by the unpruned network" in resumed
    assert re.search(r"\bloss_distill: [\d.]+", resumed)


@pytest.mark.parametrize(
    ("models", "message"),
    [
        (["Studnet"], 'Prune.models names "Studnet" (did you mean "Student"?)'),
        (["Teacher"], "it would be pruned and never trained afterwards"),
        ([], "Prune.models is empty"),
        (["Student", "Student"], "names a sub-model twice"),
        ("Student", "must be a list of sub-models"),
    ],
)
def test_models_that_cannot_be_pruned(config: dict[str, Any], models: Any, message: str) -> None:
    with pytest.raises(PruneError, match=re.escape(message)):
        check_models(parse_section({"ratio": 0.5, "models": models}, "x.yml"), config, "x.yml")


def test_models_of_another_config_and_frozen_ones(config: dict[str, Any]) -> None:
    section = parse_section({"ratio": 0.5, "models": ["Student"]}, "x.yml")
    single = {"Architecture": config["Architecture"]["Models"]["Student"]}
    with pytest.raises(PruneError, match="no distillation config"):
        check_models(section, single, "x.yml")
    frozen = copy.deepcopy(config)
    for part in frozen["Architecture"]["Models"].values():
        part["freeze_params"] = True
    with pytest.raises(PruneError, match="every sub-model .* has freeze_params"):
        check_models(PruneSection(ratio=0.5), frozen, "x.yml")


def test_bad_models_stop_the_tool_before_any_work(tools: Tools, tmp_path: Path) -> None:
    done = tools(
        "train", f"Global.save_model_dir={tmp_path}", "Prune.ratio=0.5", "Prune.models=[Studnet]"
    )
    assert done.returncode == 2 and 'did you mean "Student"' in output(done)
    untrained = tools(
        "train",
        f"Global.save_model_dir={tmp_path}",
        "Prune.ratio=0.5",
        "Architecture.Models.Student2.pretrained=null",
    )
    assert untrained.returncode == 2
    assert "the weights of Student2 are random" in output(untrained)


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"ratio": 0.5}, [["Student", "Student2"]]),
        ({"ratio": 0.5, "models": ["Student2"]}, [["Student2"]]),
        ({"ratio": {"Student.*": 0.3, "*": 0.5}}, [["Student"], ["Student2"]]),
        ({"ratio": 0.5, "skip": ["Student2.head.*"]}, [["Student"], ["Student2"]]),
        ({"ratio": 0.5, "skip": ["head.*"]}, [["Student", "Student2"]]),
    ],
)
def test_students_are_pruned_alike_unless_a_pattern_names_one(
    config: dict[str, Any], section: dict[str, Any], expected: list[list[str]]
) -> None:
    model = paddle.nn.Layer()
    for name in config["Architecture"]["Models"]:
        model.add_sublayer(name, paddle.nn.Linear(1, 1))
    found = families(config, model, parse_section(section, "x.yml"), "x.yml")
    assert [[part.name for part in family.members] for family in found] == expected
    for family in found:
        for pattern in (
            *family.section.skip,
            *(family.section.ratio if isinstance(family.section.ratio, dict) else ()),
        ):
            assert "Student" not in pattern


def test_groups_shows_each_structure_once(
    tools: Tools, tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["groups", "-c", str(tools.config), "--tree", str(tree)]) == 0
    shown = capsys.readouterr().out
    assert "Student, a BaseModel, at 1 x 3 x 160 x 160" in shown
    assert "Student2: the same, and pruned as wide" in shown
    assert "Teacher" not in shown and "neck.ins_conv.0" in shown


@pytest.mark.parametrize(("key", "kept_whole"), [("backbone_out", True), ("maps", False)])
def test_features_that_a_loss_compares_keep_their_widths(
    config: dict[str, Any], tree: Path, key: str, kept_whole: bool
) -> None:
    use_tree(tree)
    from ppocr.modeling.architectures import build_model

    architecture = {
        **copy.deepcopy(config["Architecture"]["Models"]["Student"]),
        "Backbone": {"name": "ResNet_vd", "layers": 18},
        "return_all_feats": True,
    }
    architecture.pop("pretrained")
    losses = {"loss_config_list": [{"DistillationDistanceLoss": {"key": key}}]}
    whole = {**config, "Architecture": {"Models": {"Student": architecture}}, "Loss": losses}
    model = paddle.nn.Layer()
    model.add_sublayer("Student", build_model(copy.deepcopy(architecture)))
    model.train()
    network = Networks().of(sub_models_of(whole, model)[0])
    assert model.Student.return_all_feats is True
    reasons = [f.reason for f in network.graph.frozen if f.name.startswith("backbone.")]
    assert ("it is an output of the network" in reasons) == kept_whole
