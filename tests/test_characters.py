"""Recognisers that keep some of their characters, through PaddleOCR's own tools."""

from __future__ import annotations

import copy
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml
from fixtures_lines import rec_config
from training import Tools, output, right_after

from demo.configs import write_config
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.cut_dictionary import KEY, carried_by
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.report.data import load_report

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


def labels(lines: Path) -> set[str]:
    found: set[str] = set()
    for part in ("train", "val"):
        for line in (lines / f"rec_{part}.txt").read_text(encoding="utf-8").splitlines():
            found |= set(line.split("\t")[1])
    return found


def rows(weights: Path, name: str) -> int:
    return read_shapes(weights)[name][-1]


def test_a_recogniser_keeps_the_characters_of_its_labels(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, lines: Path, tmp_path: Path
) -> None:
    """Without training; then every tool reads the weights with the old dictionary in the YAML, and
    what they are exported to is read with the new one."""
    tools = Tools(run_tool, tree, ctc_config, ctc_weights)
    whole = tools.metric("acc", f"Global.pretrained_model={ctc_weights}")
    log = tools.train(
        tmp_path, f"Global.pretrained_model={ctc_weights}", "Prune.characters=auto",
        "Prune.dry_run=true",
    )  # fmt: skip
    assert "epoch: [1/" not in log
    assert right_after(log)["before"] == pytest.approx(whole, abs=1e-4)
    folder = tmp_path / "prune"
    known = (tree / "ppocr" / "utils" / "ppocr_keys_v1.txt").read_text(encoding="utf-8").split("\n")
    kept = [line for line in known if line in labels(lines)]
    assert (folder / "dict.txt").read_text(encoding="utf-8").splitlines() == kept
    plan = load_plan(folder / "untrained.prune.json")
    assert plan.groups == () and plan.params.pruned > 0.2
    dictionary = carried_by(folder / "untrained.pdparams")
    assert dictionary is not None and list(dictionary.lines) == kept
    assert dictionary == plan.dictionary
    # A blank, the characters, the space of use_space_char.
    before, after = (
        rows(path, "head.fc.weight")
        for path in (Path(f"{ctc_weights}.pdparams"), folder / "untrained.pdparams")
    )
    assert (before, after) == (6625, len(kept) + 2)
    shown = run_tool(
        ["-m", "ppocr_prune_plugin.cli", "groups", "-c", ctc_config, "-o", "Prune.characters=auto"]
    )
    assert f"with Prune.characters {len(kept)} of 6623 characters stay" in shown.stdout
    assert "params 2.689M -> 1.891M" in shown.stdout and "1.891M parameters" in shown.stdout
    found = load_report(folder / "report.json").alphabet
    assert found is not None and (found.kept, found.whole) == (len(kept), 6623)
    assert found.before == pytest.approx(whole, abs=1e-6) and found.after is not None
    assert dict(found.counts)["e"] and found.scripts["digits"] == 10
    assert "<h2>Alphabet</h2>" in (folder / "report.html").read_text(encoding="utf-8")

    alone = tmp_path / "alone" / "weights"  # without the plan beside it
    alone.parent.mkdir()
    os.link(folder / "untrained.pdparams", f"{alone}.pdparams")
    weights = f"Global.pretrained_model={alone}"
    assert tools.metric("acc", weights) >= whole
    done = tools("infer_rec", weights, f"Global.infer_img={lines / 'rec_val_0.png'}")
    text = (lines / "rec_val.txt").read_text(encoding="utf-8").split("\n")[0].split("\t")[1]
    assert f"reads {len(kept)} of 6623 characters" in output(done)
    assert re.search(rf"result:\s+{text}\t", output(done)), output(done)[-500:]
    done = tools("export_model", weights, f"Global.save_inference_dir={tmp_path / 'inference'}")
    assert done.returncode == 0, output(done)
    exported = yaml.safe_load((tmp_path / "inference" / "inference.yml").read_text("utf-8"))
    assert exported["PostProcess"]["character_dict"] == kept
    # As an ONNX file: on Paddle 3.2 this tool runs no model of Paddle's, whole ones neither.
    pytest.importorskip("paddle2onnx")
    file = tmp_path / "inference.onnx"
    done = run_tool(["-m", "ppocr_prune_plugin.cli", "onnx", tmp_path / "inference", "-o", file])
    assert done.returncode == 0, output(done)
    done = run_tool(
        [tree / "tools" / "infer" / "predict_rec.py", "--use_gpu=false", "--use_onnx=true",
         f"--image_dir={lines / 'rec_val_0.png'}", f"--rec_model_dir={file}",
         f"--rec_char_dict_path={folder / 'dict.txt'}"],
    )  # fmt: skip
    assert f"('{text}', " in output(done), output(done)[-800:]


def test_two_heads_lose_characters_and_channels_and_training_goes_on(
    two_heads_tools: Tools, lines: Path, tmp_path: Path
) -> None:
    """CTC and NRTR; the dictionary counts as pruned, the optimizer's state is cut along, and a
    checkpoint that lost characters can lose more."""
    tools, folder = two_heads_tools, tmp_path / "output"
    whole = tmp_path / "whole"
    unjudged = "Global.eval_batch_step=[0,1000]"
    tools.train(whole, f"Global.pretrained_model={tools.weights}", unjudged)
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("\n".join("abcdefghijklmnopqrstuvwxyz0123456789中"), encoding="utf-8")
    log = tools.train(
        folder, f"Global.checkpoints={whole / 'latest'}", "Global.epoch_num=2",
        f"Prune.characters={wanted}", 'Prune.ratio={"head.ctc_encoder.*": 0.1}',
    )  # fmt: skip
    assert "epoch: [2/2]" in log and "37 of 6623 characters stay: 26 Latin, 10 digits, 1 CJK" in log
    assert "not matched" not in log and right_after(log)["after"] > 0.5
    best = folder / "best_accuracy"
    plan = load_plan(Path(f"{best}.prune.json"))
    assert plan.groups and plan.params.pruned > 0.2 and plan.dictionary is not None
    shapes = read_shapes(Path(f"{best}.pdparams"))
    assert shapes["head.ctc_head.fc.weight"][1] == 1 + 37 + 1
    assert shapes["head.gtc_head.embedding.embedding.weight"][0] == 4 + 37 + 1 + 1
    before, after = (
        paddle.load(f"{place}/latest.pdopt", return_numpy=True) for place in (whole, folder)
    )
    sizes = [sum(a.size for k, a in item.items() if "moment" in k) for item in (before, after)]
    assert sizes[1] < 0.9 * sizes[0]
    accuracy = tools.metric("acc", f"Global.checkpoints={best}")
    trained = float(re.findall(r"best metric, .*?\bacc: ([\d.]+)", log)[-1])
    assert accuracy == pytest.approx(trained, abs=1e-6)

    log = tools.train(
        tmp_path / "resumed", f"Global.checkpoints={folder / 'latest'}", "Global.epoch_num=3",
        f"Prune.characters={wanted}", "Prune.ratio=0.1", unjudged,
    )  # fmt: skip
    assert "it is not pruned again" in log and "not matched" not in log
    assert carried_by(tmp_path / "resumed" / "latest.pdparams") == plan.dictionary
    log = tools.train(
        tmp_path / "further", f"Global.pretrained_model={best}", "Prune.characters=auto",
        "Prune.dry_run=true",
    )  # fmt: skip
    further = load_plan(tmp_path / "further" / "prune" / "untrained.prune.json")
    assert {group.name for group in further.groups} == {group.name for group in plan.groups}
    assert further.dictionary is not None and further.dictionary.whole == 6623
    assert set(further.dictionary.lines) == labels(lines)
    assert further.params.before == plan.params.before and further.params.after < plan.params.after

    # The unpruned checkpoint, exported by the plan.
    inference = tmp_path / "inference"
    done = tools(
        "export_model", f"Global.pretrained_model={whole / 'latest'}",
        f"Global.save_inference_dir={inference}", before=("--prune-plan", f"{best}.prune.json"),
    )  # fmt: skip
    assert done.returncode == 0, output(done)
    exported = yaml.safe_load((inference / "inference.yml").read_text("utf-8"))
    assert len(exported["PostProcess"]["character_dict"]) == 37


def test_students_and_frozen_teachers_agree(
    run_tool: RunTool,
    tree: Path,
    lines: Path,
    ctc_weights: Path,
    tmp_path: Path,
) -> None:
    """The teacher's last layer is cut as well, in memory: its file stays as it is."""
    config = rec_config(tree, lines, tmp_path / "output")
    student: dict[str, Any] = config["Architecture"]
    part = {**student, "pretrained": str(ctc_weights), "return_all_feats": True}
    config["Architecture"] = {
        "name": "DistillationModel",
        "algorithm": "Distillation",
        "model_type": "rec",
        "Models": {
            "Teacher": {**copy.deepcopy(part), "freeze_params": True},
            "Student": {**part, "freeze_params": False},
        },
    }
    config["Loss"] = {
        "name": "CombinedLoss",
        "loss_config_list": [
            {"DistillationCTCLoss": {"weight": 1.0, "model_name_list": ["Student"],
                                     "key": "head_out"}},
            {"DistillationDMLLoss": {"weight": 1.0, "act": "softmax", "use_log": True,
                                     "model_name_pairs": [["Student", "Teacher"]],
                                     "key": "head_out"}},
        ],
    }  # fmt: skip
    names = ["Student", "Teacher"]
    config["PostProcess"] = {
        "name": "DistillationCTCLabelDecode", "model_name": names, "key": "head_out",
    }  # fmt: skip
    config["Metric"] = {
        "name": "DistillationMetric", "base_metric_name": "RecMetric", "main_indicator": "acc",
        "key": "Student",
    }  # fmt: skip
    before = Path(f"{ctc_weights}.pdparams").read_bytes()
    path = write_config(config, tmp_path / "distillation.yml")
    tools = Tools(run_tool, tree, path, ctc_weights)
    log = tools.train(tmp_path, "Prune.characters=auto")
    assert "not matched" not in log
    assert Path(f"{ctc_weights}.pdparams").read_bytes() == before
    shapes = read_shapes(tmp_path / "best_accuracy.pdparams")
    classes = len(labels(lines)) + 2
    assert {shapes[f"{name}.head.fc.weight"][1] for name in names} == {classes}
    plan = load_plan(tmp_path / "best_accuracy.prune.json")
    assert list(plan.structures) == ["Student"] and plan.dictionary is not None
    trained = float(re.findall(r"best metric, .*?\bacc: ([\d.]+)", log)[-1])
    accuracy = tools.metric("acc", f"Global.checkpoints={tmp_path / 'best_accuracy'}")
    assert accuracy == pytest.approx(trained, abs=1e-6)


def test_weights_do_not_fit_their_dictionary(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, tmp_path: Path
) -> None:
    tools = Tools(run_tool, tree, ctc_config, ctc_weights)
    content = paddle.load(f"{ctc_weights}.pdparams")
    for name in ("head.fc.weight", "head.fc.bias"):
        content[name] = content[name][..., :100]
    odd = tmp_path / "odd"
    paddle.save(content, f"{odd}.pdparams")
    done = tools(
        "train", f"Global.pretrained_model={odd}", f"Global.save_model_dir={tmp_path}",
        "Prune.characters=auto",
    )  # fmt: skip
    assert done.returncode == 2
    assert "has 100 classes (head.fc." in done.stderr and "the model has 6625" in done.stderr
    assert not (tmp_path / "prune").exists()

    # Saved by a program that leaves out what it does not know.
    cut = tmp_path / "cut"
    tools.train(
        cut, f"Global.pretrained_model={ctc_weights}", "Prune.characters=auto",
        "Prune.dry_run=true",
    )  # fmt: skip
    weights = cut / "prune" / "untrained"
    content = paddle.load(f"{weights}.pdparams")
    del content[KEY]
    paddle.save(content, f"{weights}.pdparams")
    done = tools("eval", f"Global.pretrained_model={weights}")
    assert done.returncode == 2 and "does not carry them" in done.stderr
    stated = f"Global.character_dict_path={cut / 'prune' / 'dict.txt'}"
    assert tools.metric("acc", f"Global.pretrained_model={weights}", stated) > 0.9
