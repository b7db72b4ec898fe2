"""PaddleOCR's tools from training to resuming, a stage each, on one tree.

The tree is today's tools over the networks of 2.10 or, with PADDLEOCR_ROOT, the one it names: so
`make test-tree` makes a row of docs/compatibility.md. A stage that fails is run unpruned as well,
with the plugin switched off, and the message says whether that fails too.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import yaml
from architectures import DETECTORS, RECOGNISERS
from fixtures_lines import rec_config
from small_configs import newest, small
from tool_chain import STAGES, Chain, Model
from tool_processes import RunTool
from training import Tools

from demo.configs import write_config

# Begins the message of a stage that PaddleOCR cannot run without this package either.
UNPRUNED_TOO = "unpruned as well: "

_NAMED = bool(os.environ.get("PADDLEOCR_ROOT"))
_EMA = "Global.use_ema=true"
_HALF = ("Train.dataset.ratio_list=[0.5]", "Global.eval_batch_step=[0,2]")


@pytest.fixture(scope="module")
def the_tree(request: pytest.FixtureRequest) -> Path:
    return Path(request.getfixturevalue("tree" if _NAMED else "today_tree"))


def _det(get: Callable[[str], Path], tree: Path, folder: Path) -> tuple[Path, Path, Model]:
    """PP-OCRv4's detector with real weights or, where the tree lacks it, one with random ones."""
    model = Model("hmean", "infer_det", get("rendered") / "val" / "0000.jpg", _HALF)
    if _has(tree, "rec_lcnetv3"):
        return get("det_config"), get("det_weights"), model
    config = yaml.safe_load(get("det_config").read_text(encoding="utf-8"))
    config["Architecture"] = DETECTORS["mv3_rsefpn"]
    return write_config(config, folder / "det.yml"), folder / "none", model


def _rec(get: Callable[[str], Path], tree: Path, folder: Path) -> tuple[Path, Path, Model]:
    """PP-OCRv4's recogniser with a CTC head, or a CRNN with random weights."""
    model = Model("acc", "infer_rec", get("lines") / "rec_val_0.png")
    if _has(tree, "rec_lcnetv3"):
        return get("ctc_config"), get("ctc_weights"), model
    config = rec_config(tree, get("lines"), folder)
    config["Architecture"] = RECOGNISERS["crnn_mv3"][0]
    return write_config(config, folder / "rec.yml"), folder / "none", model


def _cls(
    get: Callable[[str], Path], tree: Path, folder: Path, *options: str
) -> tuple[Path, Path, Model]:
    image = get("lines") / "cls_val_0.png"
    return get("cls_config"), get("cls_weights"), Model("acc", "infer_cls", image, options)


def _ema(get: Callable[[str], Path], tree: Path, folder: Path) -> tuple[Path, Path, Model]:
    """A classifier with the moving average of its weights."""
    if not _has_ema(tree):
        pytest.skip("this tree has no moving average of weights")
    return _cls(get, tree, folder, _EMA)


def _distillation(get: Callable[[str], Path], tree: Path, folder: Path) -> tuple[Path, Path, Model]:
    """A detector that learns from labels and from a frozen teacher, averaged where trees do it."""
    path, weights, model = _det(get, tree, folder)
    config = yaml.safe_load(path.read_text(encoding="utf-8"))
    one = {**config["Architecture"], "pretrained": str(weights)}
    if not weights.with_name(weights.name + ".pdparams").exists():
        one["pretrained"] = None
    # Older trees give PostProcess all of Global's keys, and these networks have a model_name there.
    config["Global"].pop("model_name", None)
    db = {key: value for key, value in config["Loss"].items() if key != "name"}
    config |= {
        "Architecture": {
            "name": "DistillationModel",
            "algorithm": "Distillation",
            "model_type": "det",
            "Models": {"Teacher": {**one, "freeze_params": True}, "Student": one},
        },
        "Loss": {
            "name": "CombinedLoss",
            "loss_config_list": [
                {
                    "DistillationDilaDBLoss": {
                        "weight": 1.0,
                        **db,
                        "model_name_pairs": [["Student", "Teacher"]],
                        "key": "maps",
                    }
                },
                {"DistillationDBLoss": {"weight": 1.0, **db, "model_name_list": ["Student"]}},
            ],
        },
        "PostProcess": {
            **config["PostProcess"],
            "name": "DistillationDBPostProcess",
            "model_name": ["Student", "Teacher"],
            "key": "head_out",
        },
        "Metric": {
            "name": "DistillationMetric",
            "base_metric_name": "DetMetric",
            "main_indicator": "hmean",
            "key": "Student",
        },
    }
    config = json.loads(json.dumps(config))  # no aliases in the YAML
    if _has_ema(tree):
        model = replace(model, options=(*model.options, _EMA))
    return write_config(config, folder / "distillation.yml"), folder / "none", model


def _newest(
    kind: str, get: Callable[[str], Path], tree: Path, folder: Path
) -> tuple[Path, Path, Model]:
    """The newest stock config of the tree, with random weights."""
    path = newest(tree, kind)
    if path is None:
        pytest.skip("this tree has no stock configs")
    if kind == "det":
        data, labels, image = get("rendered"), "{}.txt", get("rendered") / "val" / "0000.jpg"
    else:
        data, labels, image = get("lines"), "rec_{}.txt", get("lines") / "rec_val_0.png"
    config = small(path, tree, data, labels, folder)
    model = Model("hmean" if kind == "det" else "acc", f"infer_{kind}", image)
    return write_config(config, folder / path.name), folder / "none", model


def _has_ema(tree: Path) -> bool:
    return (tree / "ppocr" / "utils" / "ema.py").is_file()


def _has(tree: Path, backbone: str) -> bool:
    return (tree / "ppocr" / "modeling" / "backbones" / f"{backbone}.py").is_file()


MODELS = {
    "det": _det,
    "rec": _rec,
    "cls": _cls,
    "ema": _ema,
    "distillation": _distillation,
    "newest-det": partial(_newest, "det"),
    "newest-rec": partial(_newest, "rec"),
}
_OF_TODAY = ("distillation", "ema")


@pytest.fixture(scope="module", params=MODELS if _NAMED else _OF_TODAY)
def chains(
    request: pytest.FixtureRequest,
    run_tool: RunTool,
    the_tree: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Chain, Chain]:
    """A model's chain of tools, pruned, and unpruned with the plugin switched off."""
    folder = tmp_path_factory.mktemp(request.param)
    # Some trees compile an operation of theirs, and look for its source from where they are run;
    # today's tools are not imported here, where weights are recovered with the networks of 2.10.
    with contextlib.chdir(the_tree) if _NAMED else contextlib.nullcontext():
        config, weights, model = MODELS[request.param](request.getfixturevalue, the_tree, folder)
    tools = Tools(run_tool, the_tree, config, weights, the_tree)
    return (
        Chain(tools, model, folder / "pruned"),
        Chain(tools, model, folder / "unpruned", pruned=False),
    )


@pytest.mark.parametrize("stage", STAGES)
def test_stage(
    chains: tuple[Chain, Chain], stage: str, record_property: Callable[[str, str], None]
) -> None:
    pruned, unpruned = chains
    record_property("config", pruned.tools.config.stem)
    if pruned.fault(stage) is None:
        return
    fault = unpruned.fault(stage)
    message = pruned.fault(stage) if fault is None else UNPRUNED_TOO + fault
    pytest.fail(str(message), pytrace=False)
