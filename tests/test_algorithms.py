"""What is read from PaddleOCR's source, what is kept in the table, and the sizes of images."""

from __future__ import annotations

import inspect
import textwrap
from pathlib import Path
from typing import Any

import pytest

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.algorithms import (
    ALGORITHMS,
    require_prunable,
    unknown_algorithms,
)
from ppocr_prune_plugin.hooks.adapters.calls import call_arguments
from ppocr_prune_plugin.hooks.adapters.decisions import (
    evaluation_type,
    exported_size,
    named_algorithms,
    training_items,
)
from ppocr_prune_plugin.hooks.adapters.inputs import example_inputs, image_shape, training_inputs
from ppocr_prune_plugin.hooks.adapters.labels import training_labels
from ppocr_prune_plugin.hooks.adapters.tree import use_tree

_KINDS = {
    "det": ("DB", "DB++", "EAST", "SAST", "PSE", "FCE", "CT", "DRRG"),
    "e2e": ("PGNet",),
    "cls": ("CLS",),
    "table": ("TableAttn", "TableMaster", "SLANet", "SLANeXt"),
    "sr": ("Telescope", "Gestalt"),
    "kie": ("SDMGR", "LayoutLM", "LayoutLMv2", "LayoutXLM"),
}
_CROP = {"Train": {"dataset": {"transforms": [{"EastRandomCropData": {"size": [960, 544]}}]}}}
_RESIZE = {"Eval": {"dataset": {"transforms": [{"RecResizeImg": {"image_shape": [3, 32, 100]}}]}}}


def kind_of(algorithm: str) -> str:
    return next((kind for kind, names in _KINDS.items() if algorithm in names), "rec")


def config(algorithm: str, stated: Any = None, kind: str | None = None, **parts: Any) -> Any:
    architecture = {"model_type": kind or kind_of(algorithm), "algorithm": algorithm}
    settings = {} if stated is None else {"d2s_train_image_shape": stated}
    return {"Global": settings, "Architecture": architecture, **parts}


class Called(Exception):
    """What a model was given."""


def test_the_model_is_given_what_the_trees_own_train_gives_it(tree: Path, tmp_path: Path) -> None:
    """PaddleOCR's ``train`` is run, up to the first call of the model, for every algorithm."""
    use_tree(tree)
    import paddle
    from tools import program

    class Model(paddle.nn.Layer):
        def forward(self, *given: Any, **named: Any) -> None:
            raise Called([*given, *named.values()])

    class Loader(list[Any]):
        dataset = type("Dataset", (), {"need_reset": False})

    class Indicator:
        main_indicator = "acc"

    settings = {
        "log_smooth_window": 1, "epoch_num": 1, "print_batch_step": 1, "save_epoch_step": 1,
        "eval_batch_step": 1, "save_model_dir": str(tmp_path),
    }  # fmt: skip
    model, batch = Model(), [f"item {number}" for number in range(9)]
    optimizer = paddle.optimizer.Adam(parameters=paddle.nn.Linear(1, 1).parameters())
    arguments = {
        "train_dataloader": Loader([batch]), "valid_dataloader": [], "device": None,
        "model": model, "loss_class": None, "optimizer": optimizer, "lr_scheduler": None,
        "post_process_class": None, "eval_class": Indicator(), "pre_best_model_dict": {},
        "logger": None, "step_pre_epoch": 1,
    }  # fmt: skip
    known = inspect.signature(program.train).parameters
    given = {name: value for name, value in arguments.items() if name in known}
    cases = [config(name, profiler_options=None) for name in ALGORITHMS if name != "Distillation"]
    for parts in (["SVTR", "CRNN"], ["CRNN", "CRNN"]):
        models = {str(number): {"algorithm": name} for number, name in enumerate(parts)}
        cases.append(config("Distillation", profiler_options=None))
        cases[-1]["Architecture"]["Models"] = models
    different = set()
    for case in cases:
        with pytest.raises(Called) as called:
            program.train({**case, "Global": settings}, **given)
        (expected,) = called.value.args
        assert call_arguments(batch, case) == expected, case["Architecture"]
        different.add(str(expected))
    assert len(different) >= 3  # images alone, with labels, the whole batch


def test_the_evaluation_calls_models_as_the_tree_does(tree: Path) -> None:
    own = {
        "CAN": "can", "LaTeXOCR": "latexocr", "UniMERNet": "unimernet",
        **{name: "pp_formulanet" for name in ALGORITHMS if name.startswith("PP-FormulaNet")},
    }  # fmt: skip
    named = named_algorithms(tree)
    for algorithm in ALGORITHMS:
        kind = kind_of(algorithm)
        expected = own.get(algorithm, kind) if algorithm in named else kind
        assert evaluation_type(tree, config(algorithm)["Architecture"]) == expected, algorithm


def test_sizes_are_read_from_the_exporter(tree: Path) -> None:
    def size(algorithm: str, kind: str = "rec", **parts: Any) -> Any:
        return exported_size(tree, {**config(algorithm, kind=kind)["Architecture"], **parts})

    assert size("DB", "det") == [3, None, None]
    assert size("CRNN") == size("Rosetta") == [3, 32, None]
    assert size("CRNN", Transform={"name": "TPS"}) == [3, 32, 100]
    assert size("VisionLAN") == [3, 64, 256]
    assert size("NRTR") == [1, 32, 100]
    assert size("SRN", Head={"max_text_length": 25}) == [1, 64, 256]
    assert size("TableMaster", "table") == [3, 480, 480]
    assert size("SLANet", "table") == [3, None, None]
    if "PP-FormulaNet-L" in named_algorithms(tree):
        assert size("PP-FormulaNet-L") == [1, 768, 768]
        assert size("LaTeXOCR") == [1, None, None]


def test_every_algorithm_of_the_tree_is_known(tree: Path) -> None:
    assert {"SRN", "SVTR", "RFL", "TableMaster", "Distillation"} <= named_algorithms(tree)
    assert unknown_algorithms(tree) == []


def test_a_tree_of_later_years(tmp_path: Path) -> None:
    """Names that nobody knows yet: what the tree says of them counts, and doctor can name them."""
    files = {
        "tools/program.py": """
            def train(config, train_dataloader, model, scaler=None):
                algorithm = config["Architecture"]["algorithm"]
                extra_input_models = ["SRN", "LineNet"]
                extra_input = algorithm in extra_input_models
                for batch in train_dataloader:
                    images = batch[0]
                    if scaler:
                        preds = model(images)
                    elif extra_input:
                        preds = model(images, data=batch[1:])
                    elif algorithm in ["ScoreNet", "CAN"]:
                        preds = model(batch[:2])
                    else:
                        preds = model(images)
            """,
        "tools/eval.py": """
            def main():
                if config["Architecture"]["algorithm"] == "ScoreNet":
                    model_type = "score"
                else:
                    model_type = config["Architecture"]["model_type"]
            """,
        "ppocr/utils/export_model.py": """
            def dynamic_to_static(model, arch_config, logger, input_shape=None):
                if arch_config["algorithm"] in ["ScoreNet"]:
                    sizes = [1, 128, -1]
                    sizes[-1] = 512
                    model = to_static(model, input_spec=[InputSpec(shape=[None] + sizes)])
                else:
                    model = to_static(model, input_spec=[InputSpec(shape=[None, 3] + input_shape)])
            """,
        "configs/rec/lines.yml": "Architecture:\n  algorithm: &name 'PageNet'  # new\n",
        "configs/rec/known.yaml": "Architecture:\n  algorithm: CRNN\n  other: *algorithm\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(textwrap.dedent(text))
    assert unknown_algorithms(tmp_path) == ["LineNet", "PageNet", "ScoreNet"]
    score, line = ({"model_type": "rec", "algorithm": name} for name in ("ScoreNet", "LineNet"))
    assert training_items(tmp_path, score) == [[0, 1]]
    assert training_items(tmp_path, line)[0] == 0
    assert training_items(tmp_path, line)[1][:3] == [1, 2, 3]
    assert evaluation_type(tmp_path, score) == "score"
    assert evaluation_type(tmp_path, line) == "rec"
    assert exported_size(tmp_path, score) == [1, 128, 512]
    assert exported_size(tmp_path, line) is None

    with pytest.raises(PruneError, match=r"nowhere/tools/program\.py: cannot be read"):
        training_items(tmp_path / "nowhere", score)
    changed = tmp_path / "changed" / "tools" / "program.py"
    changed.parent.mkdir(parents=True)
    changed.write_text("def train(config, network, batch):\n    return network(batch)\n")
    with pytest.raises(PruneError, match=r"tools/program\.py: looked for model"):
        training_items(tmp_path / "changed", score)


@pytest.mark.parametrize(
    ("case", "expected"),
    [
        (config("DB", [3, -1, -1], **_CROP), [3, 544, 960]),
        (config("DB", [3, -1, None]), [3, 640, 640]),
        (config("DB", [3, 736, -1], **_CROP), [3, 736, 960]),
        (config("CRNN", [3, 48, -1], **_RESIZE), [3, 48, 100]),
        (config("CRNN", [-1, -1, -1], **_RESIZE), [3, 32, 100]),
        (config("CRNN", [3, 48, -1]), [3, 48, 320]),
        (config("CRNN"), [3, 32, 320]),  # the height that the exporter takes
        (config("SLANet", [3, -1, -1]), [3, 488, 488]),
        (config("VisionLAN", [3, -1, -1]), [3, 64, 256]),
        (config("CAN", [1, -1, 320]), [1, 64, 320]),
    ],
    ids=str,
)
def test_a_free_size_is_taken_from_the_transforms_or_the_export(
    tree: Path, case: Any, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDLEOCR_ROOT", str(tree))
    assert image_shape(case) == expected
    (shape, _), *_ = example_inputs(case) if case["Architecture"]["algorithm"] != "CAN" else [
        example_inputs(case)[0][0]
    ]  # fmt: skip
    assert shape == [1, *expected]


def test_a_transform_may_leave_a_size_free(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLEOCR_ROOT", str(tree))
    free = {"dataset": {"transforms": [{"SVTRRecResizeImg": {"image_shape": [3, 40, -1]}}]}}
    assert image_shape(config("CRNN", Eval=free, **_CROP)) == [3, 40, 960]
    gray = {"dataset": {"transforms": [{"GrayRecResizeImg": {"image_shape": [100, 32]}}]}}
    assert image_shape(config("NRTR", Eval=gray)) == [1, 32, 100]
    formula = {"dataset": {"transforms": [{"UniMERNetImgDecode": {"input_size": [96, 288]}}]}}
    assert image_shape(config("FormulaNet-of-tomorrow", Eval=formula)) == [1, 96, 288]


@pytest.mark.parametrize(
    "stated", [[3, 0, 640], [3, -2, 640], [640, 640], "3,640,640", [3, 640, "wide"], [3, 6.5, 640],
               [3, True, 640], [3, float("inf"), 640], []],
    ids=str,
)  # fmt: skip
def test_what_is_no_size_is_refused(stated: Any) -> None:
    with pytest.raises(PruneError) as refused:
        image_shape(config("DB", stated), "det.yml")
    said = str(refused.value)
    assert said.startswith("det.yml: Global.d2s_train_image_shape is ")
    assert "[channels, height, width]" in said and "-1" in said and "\n" not in said


def test_a_transform_that_states_no_size_is_named() -> None:
    bad = {"dataset": {"transforms": [{"RecResizeImg": {"image_shape": "3, 32, 320"}}]}}
    with pytest.raises(PruneError, match=r"Train\.dataset\.transforms\.RecResizeImg\.image_shape"):
        image_shape(config("CRNN", Train=bad))


def test_sizes_that_are_single_numbers(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PADDLEOCR_ROOT", str(tree))

    def of(**options: Any) -> Any:
        return config("Telescope", Eval={"dataset": {"transforms": [{"SRResize": options}]}})

    assert image_shape(of(imgH=32, imgW=128, down_sample_scale=4)) == [3, 8, 32]
    assert image_shape(of(imgH=48, imgW=-1)) == [3, 24, 64]
    with pytest.raises(PruneError, match=r"SRResize\.imgW is 0, .* Allowed: width, "):
        image_shape(of(imgH=48, imgW=0))
    gray = config("CRNN")
    gray["Architecture"]["in_channels"] = 1
    assert image_shape(gray) == [1, 32, 320]
    gray["Architecture"]["in_channels"] = "one"
    with pytest.raises(PruneError, match=r"Architecture\.in_channels is 'one'"):
        image_shape(gray)
    # A text of no stated length has the usual one.
    for length in (-1, None, 0):
        case = config("NRTR")
        case["Global"]["max_text_length"] = length
        assert training_labels(case, (1, 32, 100), 2)["label"].shape == (2, 27)


def test_labels_of_an_algorithm_that_is_not_in_the_table() -> None:
    def of(keys: list[str], loader: Any = None) -> Any:
        transforms = [{"KeepKeys": {"keep_keys": ["image", *keys]}}]
        return config("LineNet", Train={"dataset": {"transforms": transforms}, "loader": loader})

    labels = training_labels(of(["label", "length"]), (3, 32, 100), 2)
    assert [(name, array.shape) for name, array in labels.items()] == [
        ("label", (2, 27)),
        ("length", (2,)),
    ]
    # A collator gives other labels than KeepKeys names.
    collated = training_labels(of([], {"collate_fn": "UniMERNetCollator"}), (1, 32, 100), 2)
    assert [(name, array.shape) for name, array in collated.items()] == [
        ("label", (2, 4)),
        ("attention_mask", (2, 4)),
    ]
    with pytest.raises(PruneError, match=r"KeepKeys: mood: .*LineNet"):
        training_labels(of(["label", "mood"]), (3, 32, 100), 2)


def test_formula_networks_of_later_releases_are_like_the_first(
    tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PADDLEOCR_ROOT", str(tree))
    for suffix in ("S", "M", "L"):
        name = f"PP-FormulaNet_plus-{suffix}"
        labels = training_labels(config(name), (1, 384, 384), 2)
        assert list(labels) == ["label", "attention_mask"]
        if name not in named_algorithms(tree):
            continue
        side = 768 if suffix == "L" else 384
        assert example_inputs(config(name)) == [([1, 1, side, side], "float32")]
        ((image, label, mask),) = training_inputs(config(name))
        assert image == ([2, 1, side, side], "float32")
        assert label.shape == mask.shape == (2, 4)


def test_language_models_are_refused_before_they_are_built() -> None:
    student = config("Distillation", kind="kie")
    student["Architecture"]["Models"] = {"Student": {"algorithm": "LayoutXLM"}}
    for case in (config("LayoutLMv2"), student):
        with pytest.raises(PruneError, match=r"^kie\.yml: Architecture\.algorithm: Layout\w+ is"):
            require_prunable(case, "kie.yml")
    require_prunable(config("SDMGR"), "kie.yml")
