"""Programs that load a pruned checkpoint and are none of the usual tools, and one that trains it
for other classes."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import paddle
import pytest
import yaml
from tool_processes import RunTool
from training import Tools, output

from demo.configs import write_config
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.hooks.adapters.networks import Networks
from ppocr_prune_plugin.hooks.adapters.sub_models import sub_models_of
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.network import make_plan
from ppocr_prune_plugin.plan import load_plan, plan_path


def prune(
    tree: Path, config: dict[str, Any], weights: Path, out: Path, width: Callable[[Any], int]
) -> Path:
    """Pruned weights and their plan, as training leaves them: the path without ``.pdparams``."""
    use_tree(tree)
    from ppocr.modeling.architectures import build_model

    with paddle.utils.unique_name.guard():
        model = build_model(config["Architecture"])
    model.set_state_dict(paddle.load(f"{weights}.pdparams"))
    network = Networks().of(sub_models_of(config, model)[0])
    widths = {group.name: width(group) for group in network.graph.groups}
    plan = make_plan(network, widths, Ranker("l1"))
    surgery.prune(model, network.graph, plan)
    paddle.save(model.state_dict(), f"{out}.pdparams")
    plan.save(plan_path(out))
    return out


def _config(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text(encoding="utf-8")))


@pytest.fixture(scope="module")
def classifier(
    tree: Path, cls_config: Path, cls_weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The angle classifier with two thirds of its channels."""
    out = tmp_path_factory.mktemp("pruned_cls") / "latest"
    return prune(tree, _config(cls_config), cls_weights, out, lambda g: max(1, 2 * g.size // 3))


def test_centres_of_the_classes_of_a_pruned_recogniser(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, tmp_path: Path
) -> None:
    """tools/export_center.py: its file has a centre for each character that was read, and is empty
    where the weights were not loaded."""
    config = _config(ctc_config)
    config["Architecture"]["Head"]["out_channels"] = 6625
    pruned = prune(
        tree, config, ctc_weights, tmp_path / "latest", lambda g: g.size - (g.size > 200)
    )
    assert load_plan(plan_path(pruned)).groups
    weights = f"Global.pretrained_model={pruned}"
    command = [tree / "tools" / "export_center.py", "-c", ctc_config, "-o", "Global.use_gpu=false"]
    done = run_tool([*command, weights], tmp_path)
    assert done.returncode == 0, output(done)
    assert "rebuilt the pruned network" in output(done) and "not matched" not in output(done)
    file = tmp_path / "train_center.pkl"
    assert file.stat().st_size > 2000
    centres = pickle.loads(file.read_bytes())
    assert len(centres) > 4 and {centre.shape for centre in centres.values()} == {(120,)}


OWN = """\
import os, sys
sys.path.insert(0, {tree!r})
import yaml
from ppocr.modeling.architectures import build_model
from ppocr.utils.save_load import load_model
config = yaml.safe_load(open(sys.argv[1]))
config["Global"]["pretrained_model"] = sys.argv[2]
model = build_model(config["Architecture"])
load_model(config, model)
print(sum(parameter.size for parameter in model.parameters() if parameter.trainable))
"""


@pytest.mark.parametrize("how", ["a script elsewhere", "no script"])
def test_a_program_of_ones_own(
    run_tool: RunTool, tree: Path, cls_config: Path, classifier: Path, tmp_path: Path, how: str
) -> None:
    """It knows nothing of this package, and imports from a tree that it lies nowhere near."""
    script = tmp_path / "count.py"
    script.write_text(OWN.format(tree=str(tree)))
    program = [script] if how == "a script elsewhere" else ["-c", script.read_text()]
    done = run_tool([*program, cls_config, classifier], tmp_path)
    assert done.returncode == 0, output(done)
    plan = load_plan(plan_path(classifier))
    assert int(done.stdout.split()[-1]) == plan.params.after < plan.params.before
    assert "not matched" not in output(done)


def test_a_pruned_classifier_is_trained_for_more_classes(
    run_tool: RunTool, tree: Path, cls_config: Path, classifier: Path, tmp_path: Path
) -> None:
    config = _config(cls_config)
    config["Global"]["label_list"] = ["0", "180", "90", "270"]
    config["Architecture"]["Head"]["class_dim"] = 4
    path = write_config(config, tmp_path / "four.yml")
    tools = Tools(run_tool, tree, path, classifier)
    log = tools.train(tmp_path / "four", f"Global.pretrained_model={classifier}")
    assert "rebuilt the pruned network" in log and "global_step: 2" in log
    warned = [line for line in log.splitlines() if "WARNING: prune:" in line]
    assert len(warned) == 1 and "head.fc.weight" in warned[0] and "head.fc.bias" in warned[0]
    plan, before = (load_plan(plan_path(p)) for p in (tmp_path / "four" / "latest", classifier))
    assert plan == before
    # The next tool finds a checkpoint that fits.
    option = f"Global.checkpoints={tmp_path / 'four' / 'latest'}"
    done = tools("eval", option, "Prune.allow_untrained=true")
    assert done.returncode == 0, output(done)
    assert "rebuilt the pruned network" in output(done) and "not matched" not in output(done)
    assert "WARNING: prune:" not in output(done)
