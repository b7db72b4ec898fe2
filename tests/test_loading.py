"""Pruned weights and the networks that they are loaded into, by PaddleOCR's own ``save_load``.

Another dictionary, another number of classes, wrapped layers, one student; with and without the
plan beside the weights; and weights that are not pruned at all.
"""

from __future__ import annotations

import copy
import importlib.util
import inspect
import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import numpy as np
import paddle
import pytest
from architectures import RECOGNISERS
from fixtures_networks import arrays_of

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.hooks.adapters import loading
from ppocr_prune_plugin.hooks.adapters.networks import Networks
from ppocr_prune_plugin.hooks.adapters.state import plan_of
from ppocr_prune_plugin.hooks.adapters.sub_models import combined, sub_models_of
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.hooks.patches import config as config_hook
from ppocr_prune_plugin.hooks.patches import weights
from ppocr_prune_plugin.network import make_plan, run_once
from ppocr_prune_plugin.plan import PruningPlan, load_plan, plan_path

Config = dict[str, Any]

pytestmark = pytest.mark.filterwarnings("ignore:Skip loading for")


def _config(architecture: Config) -> Config:
    return {"Global": {}, "Architecture": architecture}


def _multi(classes: int) -> Config:
    neck = {"name": "svtr", "dims": 16, "depth": 1, "hidden_dims": 16, "use_guide": True}
    ctc = {"Neck": {**neck, "kernel_size": [1, 3]}, "Head": {"fc_decay": 0.00001}}
    nrtr = {"nrtr_dim": 32, "max_text_length": 4, "num_decoder_layers": 1}
    return {
        "model_type": "rec",
        "algorithm": "SVTR_LCNet",
        "Transform": None,
        "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
        "Head": {
            "name": "MultiHead",
            "head_list": [{"CTCHead": ctc}, {"NRTRHead": nrtr}],
            "out_channels_list": {"CTCLabelDecode": classes, "NRTRLabelDecode": classes + 3},
        },
    }


def _ctc(classes: int) -> Config:
    architecture, _ = RECOGNISERS["crnn_mv3"]
    head = {**architecture["Head"], "out_channels": classes}
    return {**copy.deepcopy(architecture), "Head": head}


def _student(classes: int) -> Config:
    return {
        "model_type": "rec",
        "algorithm": "CRNN",
        "Transform": None,
        "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
        "Neck": {"name": "SequenceEncoder", "encoder_type": "reshape"},
        "Head": {"name": "CTCHead", "out_channels": classes},
    }


def _cls(classes: int) -> Config:
    architecture, _ = RECOGNISERS["cls_mv3"]
    return {**copy.deepcopy(architecture), "Head": {"name": "ClsHead", "class_dim": classes}}


ARCHITECTURES = {"cls": _cls, "ctc": _ctc, "nrtr": _multi}
SIZES = {"cls": [3, 48, 64], "ctc": [3, 32, 48], "nrtr": [3, 32, 48]}
CLASSES = 12
FIRST = "backbone.conv1.conv.weight"  # of the classifier


@dataclass(frozen=True)
class Pruned:
    """A checkpoint without ``.pdparams``; its arrays by name, and its plan."""

    prefix: Path
    arrays: dict[str, np.ndarray]
    plan: PruningPlan

    def without_plan(self, folder: Path) -> Path:
        """The weights alone, somewhere else."""
        paddle.save({n: paddle.to_tensor(a) for n, a in self.arrays.items()},
                    f"{folder / 'alone'}.pdparams")  # fmt: skip
        return folder / "alone"


def build(architecture: Config) -> Any:
    """A model as PaddleOCR builds it, with names that may be taken already."""
    from ppocr.modeling.architectures import build_model

    with paddle.utils.unique_name.guard():
        return build_model(copy.deepcopy(architecture))


def prune(config: Config, model: Any) -> PruningPlan:
    """A third of every group of every network in a model."""
    plans = {}
    for part in sub_models_of(config, model):
        network = Networks().of(part)
        widths = {group.name: max(1, 2 * group.size // 3) for group in network.graph.groups}
        plans[part.name] = make_plan(network, widths, Ranker("l1"))
        surgery.prune(part.model, network.graph, plans[part.name])
    whole = combined(plans)
    assert whole is not None
    return whole


@pytest.fixture(scope="module")
def pruned(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Pruned]:
    """``pruned(name)``: one of ``ARCHITECTURES``, with ``CLASSES`` classes, on disk."""
    use_tree(tree)
    made: dict[str, Pruned] = {}

    def get(name: str) -> Pruned:
        if name not in made:
            paddle.seed(0)
            config = _config(ARCHITECTURES[name](CLASSES))
            config["Global"]["d2s_train_image_shape"] = SIZES[name]
            model = build(config["Architecture"])
            plan = prune(config, model)
            prefix = tmp_path_factory.mktemp(name) / "latest"
            paddle.save(model.state_dict(), f"{prefix}.pdparams")
            plan.save(plan_path(prefix))
            state = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
            made[name] = Pruned(prefix, state, plan)
        return made[name]

    return get


@pytest.fixture
def save_load(tree: Path) -> ModuleType:
    """PaddleOCR's module, executed once more and hooked."""
    use_tree(tree)
    import ppocr.utils.save_load as original

    spec = importlib.util.spec_from_file_location("hooked_save_load", original.__file__)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    weights.patch(module)
    return module


@pytest.fixture
def log(tree: Path, caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """What PaddleOCR's logger says, which does not propagate."""
    use_tree(tree)
    from ppocr.utils.logging import get_logger

    logger = get_logger()
    logger.addHandler(caplog.handler)
    with caplog.at_level(logging.INFO, logger.name):
        yield caplog
    logger.removeHandler(caplog.handler)


def said(log: pytest.LogCaptureFixture, level: int = logging.INFO) -> list[str]:
    """Our own lines."""
    lines = [r.getMessage() for r in log.records if r.levelno >= level]
    return [line for line in lines if line.startswith("prune:")]


@contextmanager
def reading(paths: list[str]) -> Iterator[None]:
    """Adds what ``paddle.load`` is called for inside; it is looked at, not replaced."""
    code = inspect.unwrap(paddle.load).__code__

    def note(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and frame.f_code is code:
            paths.append(frame.f_locals[code.co_varnames[0]])

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        yield
    finally:
        sys.setprofile(before)


def no_trace(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("the network was traced")


def load(module: ModuleType, config: Config, model: Any, prefix: Path, **more: Any) -> Any:
    settings = {**config["Global"], more.pop("key", "pretrained_model"): str(prefix)}
    return module.load_model({**config, "Global": settings}, model, **more)


def adam(model: Any) -> Any:
    """An optimizer: PaddleOCR gives it to ``load_model`` where it is going to train."""
    return paddle.optimizer.Adam(1e-3, parameters=model.parameters())


def assert_same_but_for(classes: set[str], model: Any, stored: dict[str, np.ndarray]) -> None:
    """A model has the stored arrays, but for parameters that no other dictionary shares."""
    found = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert found.keys() == stored.keys()
    for name, array in found.items():
        if name in classes:
            assert array.shape != stored[name].shape and np.isfinite(array).all(), name
        else:
            np.testing.assert_array_equal(array, stored[name], err_msg=name)


OF_CLASSES = {
    "cls": {"head.fc.weight", "head.fc.bias"},
    "ctc": {"head.fc.weight", "head.fc.bias"},
    "nrtr": {
        "head.ctc_head.fc.weight",
        "head.ctc_head.fc.bias",
        "head.gtc_head.embedding.embedding.weight",
        "head.gtc_head.tgt_word_prj.weight",
    },
}


@pytest.mark.parametrize("classes", [CLASSES // 2, CLASSES, 3 * CLASSES])
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_other_classes_with_the_plan(
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    log: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    classes: int,
) -> None:
    """Nothing is traced; what has to do with classes is random, and all the rest is loaded."""
    checkpoint = pruned(name)
    monkeypatch.setattr(Networks, "of", no_trace)
    config = _config(ARCHITECTURES[name](classes))
    model = build(config["Architecture"])
    begin = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    load(save_load, config, model, checkpoint.prefix, optimizer=adam(model))
    other = OF_CLASSES[name] if classes != CLASSES else set()
    assert_same_but_for(other, model, checkpoint.arrays)
    for key in other:  # as initialised, as far as it is left
        array = model.state_dict()[key].numpy()
        corner = begin[key][tuple(map(slice, array.shape))]
        np.testing.assert_array_equal(array, corner)
    assert plan_of(model) == checkpoint.plan
    warnings = said(log, logging.WARNING)
    assert len(warnings) == (1 if other else 0)
    assert not other or "another dictionary or other classes: " in warnings[0]
    size = SIZES[name]
    (output,) = run_once(model, [([1, *size], "float32")])[:1]
    assert output.shape[-1] == classes and np.isfinite(output).all()


@pytest.mark.parametrize(
    ("name", "classes", "trains"),
    [("cls", CLASSES // 2, False), ("cls", 3 * CLASSES, True), ("nrtr", 3 * CLASSES, False)],
)
def test_other_classes_without_the_plan(
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    log: pytest.LogCaptureFixture,
    tmp_path: Path,
    name: str,
    classes: int,
    trains: bool,
) -> None:
    """A tool that only reads the model gets it; so does training, where a section says that these
    weights are not to be pruned."""
    checkpoint = pruned(name)
    config = _config(ARCHITECTURES[name](classes))
    config["Global"]["d2s_train_image_shape"] = SIZES[name]
    model = build(config["Architecture"])
    more = {"optimizer": adam(model)} if trains else {}
    section = {"Prune": {"enable": False}} if trains else {}
    load(save_load, {**config, **section}, model, checkpoint.without_plan(tmp_path), **more)
    assert_same_but_for(OF_CLASSES[name], model, checkpoint.arrays)
    plan = plan_of(model)
    assert plan is not None and plan.kept_channels() == checkpoint.plan.kept_channels()
    assert any("structure worked out from alone.pdparams" in s.lower() for s in said(log))
    warnings = said(log, logging.WARNING)
    assert len(warnings) == trains + 1
    assert not trains or "narrower than the config says" in warnings[0]


def test_training_does_not_guess(
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    log: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without a plan: PaddleOCR's own, and one warning; with a section that prunes, an error."""
    monkeypatch.setattr(Networks, "of", no_trace)
    alone = pruned("cls").without_plan(tmp_path)
    config = _config(_cls(CLASSES))
    for key in ("pretrained_model", "checkpoints"):
        log.clear()
        model, stock = build(config["Architecture"]), build(config["Architecture"])
        stock.set_state_dict(model.state_dict())
        load(save_load, config, model, alone, key=key, optimizer=adam(model))
        import ppocr.utils.save_load as original

        load(original, config, stock, alone, key=key, optimizer=adam(stock))
        for name, array in arrays_of(model).items():
            np.testing.assert_array_equal(array, arrays_of(stock)[name])
        assert plan_of(model) is None
        (warning,) = said(log)
        assert "starts with random values" in warning and "copy alone.prune.json" in warning
        section = {**config, "Prune": {"ratio": 0.3}}
        with pytest.raises(SystemExit, match="2"):
            load(save_load, section, model, alone, key=key, optimizer=adam(model))
        error = capsys.readouterr().err
        assert f"ppocr-prune: error: Global.{key}: " in error and "alone.prune.json" in error


def test_a_stock_run_is_what_it_was(
    save_load: ModuleType,
    log: pytest.LogCaptureFixture,
    tree: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Weights that fit, weights with another head, and those of a narrower sibling, trained and
    evaluated: read once, by PaddleOCR, and nothing is traced."""
    monkeypatch.setattr(loading, "infer_kept_channels", no_trace)
    monkeypatch.setattr(loading, "rebuild", no_trace)
    reads: list[str] = []

    def cls(scale: float, classes: int = 2) -> Config:
        config = _cls(classes)
        config["Backbone"]["scale"] = scale
        return config

    cases: list[tuple[Config, bool, bool]] = [
        (cls(0.5), True, False),
        (cls(0.5), False, False),
        (cls(0.5, 4), True, False),
        (cls(0.5, 4), False, False),
        (cls(0.35), True, True),
    ]
    config = _config(cls(0.5))
    for number, (architecture, trains, warns) in enumerate(cases):
        log.clear()
        prefix = tmp_path / str(number)
        paddle.save(build(architecture).state_dict(), f"{prefix}.pdparams")
        model = build(config["Architecture"])
        more = {"optimizer": adam(model)} if trains else {}
        with reading(reads):
            load(save_load, config, model, prefix, **more)
        assert bool(said(log)) == warns, said(log)
        assert plan_of(model) is None
        assert {tuple(p.shape) for p in model.parameters()} == {
            tuple(p.shape) for p in build(config["Architecture"]).parameters()
        }
    assert reads == [f"{tmp_path / str(number)}.pdparams" for number in range(len(cases))]


def test_what_cannot_be_worked_out_is_said(
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    log: pytest.LogCaptureFixture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A fault of ours, and shapes that no pruning gives: the run goes on as PaddleOCR's own."""
    checkpoint, config = pruned("cls"), _config(_cls(CLASSES))
    config["Global"]["d2s_train_image_shape"] = SIZES["cls"]
    odd = {**checkpoint.arrays}
    odd[FIRST] = odd[FIRST][:-1]
    cases = {
        "ValueError: a fault": lambda *args: (_ for _ in ()).throw(ValueError("a fault")),
        "no pruning of this model": loading.infer_kept_channels,
    }
    for reason, infer in cases.items():
        log.clear()
        monkeypatch.setattr(loading, "infer_kept_channels", infer)
        prefix = tmp_path / "odd"
        paddle.save({n: paddle.to_tensor(a) for n, a in odd.items()}, f"{prefix}.pdparams")
        model = build(config["Architecture"])
        load(save_load, config, model, prefix)
        (warning,) = said(log)
        assert reason in warning and "copy odd.prune.json" in warning


def test_a_plan_that_cannot_be_applied_is_an_error(
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    log: pytest.LogCaptureFixture,
) -> None:
    checkpoint, config = pruned("cls"), _config(_cls(CLASSES))
    alone = checkpoint.without_plan(tmp_path)
    beside = plan_path(alone)

    def refused(architecture: Config, plan: bytes, what: str, prefix: Path = alone) -> None:
        beside.write_bytes(plan)
        with pytest.raises(SystemExit, match="2"):
            model = build(architecture)
            load(save_load, _config(architecture), model, prefix, optimizer=adam(model))
        error = capsys.readouterr().err
        assert error.startswith(f"ppocr-prune: error: {beside}: ") and what in error
        assert len(error.splitlines()) == 1

    good = plan_path(checkpoint.prefix).read_bytes()
    refused(_cls(CLASSES), good[:99], "not complete JSON")
    wide = _cls(CLASSES)
    wide["Backbone"]["scale"] = 0.5
    refused(wide, good, "for another architecture: backbone.")
    refused(_ctc(CLASSES), good, "another architecture")
    other = plan_path(pruned("nrtr").prefix).read_bytes()
    refused(_cls(CLASSES), other, "does not fit the weights beside it")
    arrays = {**checkpoint.arrays}
    arrays[FIRST] = arrays[FIRST][1:]
    paddle.save({n: paddle.to_tensor(a) for n, a in arrays.items()}, f"{alone}.pdparams")
    refused(_cls(CLASSES), good, f"does not fit the weights beside it: {FIRST}")
    # Unpruned weights: the plan was left over from another run.
    model = build(config["Architecture"])
    paddle.save(model.state_dict(), f"{alone}.pdparams")
    log.clear()
    load(save_load, config, model, alone)
    (warning,) = said(log)
    assert "is ignored: the weights beside it are not pruned" in warning


def test_whatever_else_a_file_holds(
    pruned: Callable[[str], Pruned], save_load: ModuleType, tmp_path: Path
) -> None:
    """PaddleOCR reads it, so that the plan is applied."""
    checkpoint = pruned("cls")
    prefix = checkpoint.without_plan(tmp_path)
    state = paddle.load(f"{prefix}.pdparams")
    paddle.save({**state, "score": np.float32(0.5), "note": "text"}, f"{prefix}.pdparams")
    checkpoint.plan.save(plan_path(prefix))
    model = build(_cls(CLASSES))
    load(save_load, _config(_cls(CLASSES)), model, prefix, key="checkpoints")
    assert_same_but_for(set(), model, checkpoint.arrays)


def test_a_config_that_says_nothing_of_the_network(
    pruned: Callable[[str], Pruned], save_load: ModuleType
) -> None:
    """A script of one's own builds the network in its own way."""
    checkpoint = pruned("cls")
    model = build(_cls(CLASSES))
    load(save_load, {"Global": {}}, model, checkpoint.prefix)
    assert_same_but_for(set(), model, checkpoint.arrays)


def test_a_tree_that_reads_weights_in_another_way(
    pruned: Callable[[str], Pruned], save_load: ModuleType, capsys: pytest.CaptureFixture[str]
) -> None:
    module = ModuleType("another_tree")
    vars(module).update(
        load_model=lambda config, model, optimizer=None: {},
        save_model=lambda *args: None,
        get_logger=lambda: logging.getLogger("another_tree"),
    )
    weights.patch(module)
    model, config = build(_cls(CLASSES)), _config(_cls(CLASSES))
    with pytest.raises(SystemExit, match="2"):
        load(module, config, model, pruned("cls").prefix)
    assert "does not read its weights through paddle.load" in capsys.readouterr().err
    assert load(module, config, model, Path("unpruned")) == {}


def _distilled(students: list[str], classes: int = CLASSES, **pretrained: str) -> Config:
    models = {
        name: {**_student(classes), "pretrained": pretrained.get(name)}
        if name in pretrained
        else _student(classes)
        for name in students
    }
    return _config(
        {
            "name": "DistillationModel",
            "algorithm": "Distillation",
            "model_type": "rec",
            "Models": models,
        }
    )


@pytest.fixture(scope="module")
def distilled(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Pruned:
    """A teacher and two students, of which two are pruned."""
    use_tree(tree)
    config = _distilled(["Teacher", "Student", "Student2"])
    config["Global"]["d2s_train_image_shape"] = SIZES["ctc"]
    paddle.seed(1)
    model = build(config["Architecture"])
    parts = {part.name: part for part in sub_models_of(config, model)}
    plans = {}
    for name, width in (("Student", 0.5), ("Student2", 0.75)):
        network = Networks().of(parts[name])
        widths = {group.name: max(1, int(width * group.size)) for group in network.graph.groups}
        plans[name] = make_plan(network, widths, Ranker("l1"))
        surgery.prune(parts[name].model, network.graph, plans[name])
    plan = combined(plans)
    assert plan is not None
    prefix = tmp_path_factory.mktemp("distilled") / "latest"
    paddle.save(model.state_dict(), f"{prefix}.pdparams")
    plan.save(plan_path(prefix))
    assert load_plan(plan_path(prefix)) == plan
    return Pruned(prefix, {n: t.numpy() for n, t in model.state_dict().items()}, plan)


@pytest.mark.parametrize("classes", [CLASSES, 5])
def test_every_sub_model_has_a_structure_of_its_own(
    distilled: Pruned, save_load: ModuleType, monkeypatch: pytest.MonkeyPatch, classes: int
) -> None:
    assert set(distilled.plan.structures) == {"Student", "Student2"}
    monkeypatch.setattr(Networks, "of", no_trace)
    config = _distilled(["Teacher", "Student", "Student2"], classes)
    model = build(config["Architecture"])
    load(save_load, config, model, distilled.prefix, optimizer=adam(model))
    other = {name for name in distilled.arrays if ".head.fc." in name} if classes == 5 else set()
    assert_same_but_for(other, model, distilled.arrays)
    assert plan_of(model) == distilled.plan
    for name in ("Student", "Student2"):
        plan = plan_of(getattr(model, name))
        assert plan is not None and plan.structures[""] == distilled.plan.structures[name]
        assert plan.params == distilled.plan.structures[name].params


@pytest.mark.parametrize("classes", [CLASSES, 5])
@pytest.mark.parametrize("name", ["Student", "Student2"])
def test_a_student_that_was_taken_out_of_its_checkpoint(
    distilled: Pruned,
    save_load: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    classes: int,
) -> None:
    """By itself and as a student again, with a copy of the whole plan beside it."""
    prefix = f"{name}."
    own = {n.removeprefix(prefix): a for n, a in distilled.arrays.items() if n.startswith(prefix)}
    paddle.save({n: paddle.to_tensor(a) for n, a in own.items()}, str(tmp_path / "one.pdparams"))
    distilled.plan.save(tmp_path / "one.prune.json")
    monkeypatch.setattr(Networks, "of", no_trace)
    other = {"head.fc.weight", "head.fc.bias"} if classes == 5 else set()
    model = build(_student(classes))
    load(save_load, _config(_student(classes)), model, tmp_path / "one", optimizer=adam(model))
    assert_same_but_for(other, model, own)

    config = _distilled(["Student"], classes, Student=str(tmp_path / "one"))
    monkeypatch.setattr(config_hook._state, "config", config)
    monkeypatch.setattr(config_hook._state, "training", True)
    import ppocr.modeling.architectures.distillation_model as module

    monkeypatch.setattr(module, "load_pretrained_params", save_load.load_pretrained_params)
    model = build(config["Architecture"])
    assert_same_but_for(other, model.Student, own)
    # A checkpoint of the same student goes on from there, one of other widths does not.
    config["Global"] = {"checkpoints": str(tmp_path / "whole")}
    paddle.save(model.state_dict(), str(tmp_path / "whole.pdparams"))
    save_load.load_model(config, model, adam(model))
    plan = plan_of(model)
    assert plan is not None and set(plan.structures) == {"Student"}
    twin = {"Student": "Student2.", "Student2": "Student."}[name]
    others = {n: a for n, a in distilled.arrays.items() if n.startswith(twin)}
    state = {f"Student.{n.removeprefix(twin)}": paddle.to_tensor(a) for n, a in others.items()}
    paddle.save(state, str(tmp_path / "twin.pdparams"))
    with pytest.raises(SystemExit, match="2"):
        load(save_load, config, model, tmp_path / "twin", key="checkpoints", optimizer=adam(model))
    error = capsys.readouterr().err
    assert "Student has other widths there than in Architecture.Models.Student.pretrained" in error


def test_the_plan_of_another_kind_of_model(
    distilled: Pruned,
    pruned: Callable[[str], Pruned],
    save_load: ModuleType,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = _distilled(["Student"])
    with pytest.raises(SystemExit, match="2"):
        load(save_load, config, build(config["Architecture"]), pruned("ctc").prefix)
    assert "is the plan of a single network, but the model that is loaded is Student" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit, match="2"):  # PaddleOCR would load nothing of it
        load(save_load, _config(_student(CLASSES)), build(_student(CLASSES)), distilled.prefix)
    assert "have none of the parameters that it prunes" in capsys.readouterr().err


def test_a_plan_is_there_before_its_weights(
    save_load: ModuleType, pruned: Callable[[str], Pruned], tmp_path: Path
) -> None:
    """However a run ends: pruned weights have their plan beside them."""
    config = _config(_cls(CLASSES))
    model = build(config["Architecture"])
    load(save_load, config, model, pruned("cls").prefix)
    names: list[str] = []

    class Stops(Exception):
        pass

    class Optimizer:
        def state_dict(self) -> Any:
            names.extend(sorted(path.name for path in tmp_path.iterdir()))
            raise Stops

    with pytest.raises(Stops):
        save_load.save_model(model, Optimizer(), str(tmp_path), save_load.get_logger(), config,
                             prefix="best_accuracy")  # fmt: skip
    assert "best_accuracy.prune.json" in names


DETECTOR: Config = {
    "model_type": "det",
    "algorithm": "DB",
    "Transform": None,
    "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small", "disable_se": False},
    "Neck": {"name": "RSEFPN", "out_channels": 24, "shortcut": True},
    "Head": {"name": "DBHead", "k": 50},
}
IMAGE = [([1, 3, 64, 64], "float32")]


class Clip(paddle.nn.Layer):
    """What quantisation-aware training puts before a layer: activations within a learned bound."""

    def __init__(self) -> None:
        super().__init__()
        start = paddle.nn.initializer.Constant(20.0)
        self.bound = self.create_parameter([1], default_initializer=start)

    def forward(self, x: Any) -> Any:
        return paddle.minimum(paddle.maximum(x, -self.bound), self.bound)


def quantise(model: Any, clip: type | None) -> Any:
    """Put PaddleSlim's layers around convolutions, as deploy/slim/quantization does; returns what
    exports the result."""
    if importlib.util.find_spec("paddleslim") is None:
        pytest.skip("PaddleSlim is not installed")
    from ppocr_prune_plugin.criteria import paddleslim

    paddleslim.load()
    from paddleslim.dygraph.quant import QAT

    options = {
        "weight_quantize_type": "channel_wise_abs_max",
        "activation_quantize_type": "moving_average_abs_max",
        "quantizable_layer_type": ["Conv2D", "Linear"],
    }
    quanter = QAT(config=options, act_preprocess=clip)
    quanter.quantize(model)
    return quanter


def train_step(model: Any, optimizer: Any) -> None:
    model.train()
    image = paddle.to_tensor(np.random.default_rng(0).random([2, 3, 64, 64], "float32"))
    model(image)["maps"].square().mean().backward()
    with paddle.utils.unique_name.guard():
        optimizer.step()
    optimizer.clear_grad()
    model.eval()


def pruned_detector(folder: Path) -> tuple[Config, PruningPlan]:
    """Its config and plan; the weights are in ``pruned.pdparams``."""
    config = _config(DETECTOR)
    config["Global"]["d2s_train_image_shape"] = IMAGE[0][0][1:]
    paddle.seed(0)
    model = build(DETECTOR)
    plan = prune(config, model)
    paddle.save(model.state_dict(), str(folder / "pruned.pdparams"))
    plan.save(folder / "pruned.prune.json")
    return config, plan


def test_pruned_then_trained_for_quantisation(
    tree: Path, save_load: ModuleType, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    """In the order of PaddleOCR's quant.py, begun and resumed, and of its export_model.py: wrapped
    layers have other names, and scales as long as what they quantise."""
    config, plan = pruned_detector(tmp_path)
    assert any(name.endswith(".conv.weight") for name in plan.structures[""].axes)
    assert plan.structures[""].multipliers  # depthwise layers

    def begun(prefix: Path, key: str) -> tuple[Any, Any]:
        model = build(DETECTOR)
        load(save_load, config, model, prefix, key=key)
        with paddle.utils.unique_name.guard():  # names are those of another process
            quantise(model, Clip)
        optimizer = adam(model)
        load(save_load, config, model, prefix, key=key, optimizer=optimizer)
        return model, optimizer

    model, optimizer = begun(tmp_path / "pruned", "pretrained_model")
    train_step(model, optimizer)
    save_load.save_model(
        model, optimizer, str(tmp_path), save_load.get_logger(), config, prefix="latest"
    )
    stored = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert any(name.endswith("._layer.weight") for name in stored)
    assert load_plan(tmp_path / "latest.prune.json") == plan
    expected = run_once(model, IMAGE)

    log.clear()
    resumed, optimizer = begun(tmp_path / "latest", "checkpoints")
    exported = build(DETECTOR)
    quantise(exported, None)
    load(save_load, config, exported, tmp_path / "latest", key="checkpoints")
    assert not said(log, logging.WARNING)
    for other in (resumed, exported):
        assert plan_of(other) == plan
        for name, tensor in other.state_dict().items():
            np.testing.assert_array_equal(tensor.numpy(), stored[name], err_msg=name)
    np.testing.assert_array_equal(run_once(resumed, IMAGE)[0], expected[0])
    # Nothing but the learned bounds is left out of what is exported.
    assert all(".bound" in name for name in set(stored) - set(exported.state_dict()))
    assert np.isfinite(run_once(exported, IMAGE)[0]).all()
    train_step(resumed, optimizer)


@pytest.mark.skipif(
    not paddle.__version__.startswith("3.0."),
    reason="PaddleSlim exports quantised models through the old IR, which later Paddles lack",
)
def test_a_pruned_and_quantised_model_is_exported(
    save_load: ModuleType, tmp_path: Path, log: pytest.LogCaptureFixture
) -> None:
    from ppocr.utils import export_model

    from ppocr_prune_plugin.hooks.patches import export

    config, plan = pruned_detector(tmp_path)
    model = build(DETECTOR)
    quanter = quantise(model, None)
    load(save_load, config, model, tmp_path / "pruned")
    model.eval()
    module = ModuleType("hooked_export_model")
    vars(module).update(vars(export_model))
    export.patch(module)
    path = str(tmp_path / "inference")
    module.export_single_model(
        model, DETECTOR, path, save_load.get_logger(), None, config, quanter=quanter
    )
    assert any("the exported model runs; it is quantised" in line for line in said(log))
    (output,) = export.run_inference(path, IMAGE)
    assert output.shape == (1, 1, 64, 64) and np.isfinite(output).all()
