"""What was exported is the network that it was made from, or one message says how it differs."""

from __future__ import annotations

import importlib.util
import logging
import shutil
import struct
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.static import InputSpec

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.export.check import (
    TOLERANCE,
    Agreement,
    Differs,
    Reference,
    weights_of,
)
from ppocr_prune_plugin.export.exported import CannotRun, ExportedModel
from ppocr_prune_plugin.export.inputs import candidates
from ppocr_prune_plugin.graph.inference_mode import in_inference_mode
from ppocr_prune_plugin.graph.trace import trace
from ppocr_prune_plugin.hooks.adapters.state import set_plan
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.hooks.patches import export as patch
from ppocr_prune_plugin.network import inspect, make_plan, run_once
from ppocr_prune_plugin.plan import Change, PruningPlan
from ppocr_prune_plugin.ratios.rounding import width_for_ratio

SIZE = [1, 3, 8, 8]


def saved(layer: nn.Layer, folder: Path, *specs: Any) -> ExportedModel:
    layer.eval()
    static = paddle.jit.to_static(layer, input_spec=list(specs), full_graph=True)
    paddle.jit.save(static, str(folder / "inference"))
    return ExportedModel(folder / "inference")


class WithParameter(nn.Layer):
    """Paddle 3.0 cannot export a layer that has none."""

    def __init__(self) -> None:
        super().__init__()
        self.zero = self.create_parameter([1], default_initializer=nn.initializer.Constant(0.0))


class Difference(WithParameter):
    """Takes an image and two more tensors."""

    def forward(self, image: Any, others: Any) -> Any:
        return image - 2 * others[1] + 3 * others[0] + self.zero


def test_several_inputs_come_in_their_order(tmp_path: Path) -> None:
    others = [np.full(SIZE, value, "float32") for value in (14, 7)]
    specs = [InputSpec([None, *item.shape[1:]], "float32") for item in others]
    exported = saved(Difference(), tmp_path, InputSpec([None, *SIZE[1:]], "float32"), specs)
    inputs = candidates([(SIZE, "float32"), others])
    assert len({arrays[0].tobytes() for arrays in inputs}) == len(inputs) > 2
    for arrays, (out,) in zip(inputs, exported.run(inputs), strict=True):
        np.testing.assert_allclose(out, arrays[0] + 42 - 14, atol=1e-5)


class FixedSize(WithParameter):
    def forward(self, image: Any) -> Any:
        return image.reshape([1, 192]) + self.zero


def test_an_export_that_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    exported = saved(FixedSize(), tmp_path, InputSpec([1, 3, -1, -1], "float32"))
    assert exported.run([[np.zeros(SIZE, "float32")]])[0][0].shape == (1, 192)
    with pytest.raises(CannotRun, match=r"Paddle Inference cannot run it \(.*Reshape.*\)") as info:
        exported.run([[np.zeros([1, 3, 16, 8], "float32")]])
    assert "\n" not in str(info.value)
    with pytest.raises(PruneError, match="wrote no model there"):
        ExportedModel(tmp_path / "other")


@dataclass
class Detector:
    """A detector as it was trained, and its export, of one that calls ``rep()``."""

    reference: Reference
    exported: ExportedModel
    weights: dict[str, tuple[str, np.ndarray]]
    used: list[str]  # convolutions of the exported program, gates apart, in order
    largest: float  # of its answers

    def compare(self) -> Agreement:
        return self.reference.compare(self.exported, self.weights)


def detector_of(weights: Path, ratio: float, folder: Path) -> Detector:
    from demo.weights import build

    model = build("det")
    model.set_state_dict(paddle.load(f"{weights}.pdparams"))
    inputs = [([1, 3, 96, 96], "float32")]
    if ratio:
        network = inspect(model, inputs)
        groups = network.graph.groups
        widths = {group.name: width_for_ratio(group.size, ratio, 8) for group in groups}
        surgery.prune(model, network.graph, make_plan(network, widths, Ranker("l1")))
    reference = Reference(lambda arrays: run_once(model, arrays), inputs)
    largest = max(float(run_once(model, arrays)[0].max()) for arrays in reference.inputs)
    twin = in_inference_mode(model)
    program = trace(twin, inputs, training=False)
    used = [
        op.inputs[1].parameter
        for op in program.ops
        if op.name in ("conv2d", "depthwise_conv2d", "conv2d_transpose")
        and op.inputs[1] is not None
        and op.inputs[1].parameter is not None
        and ".se" not in op.inputs[1].parameter  # a shut gate stays shut
    ]
    exported = saved(twin, folder, InputSpec([None, 3, -1, -1], "float32"))
    return Detector(reference, exported, weights_of(twin), used, largest)


@pytest.fixture(scope="module", params=[0.0, 0.5], ids=["healthy", "hard-cut"])
def detector(
    request: pytest.FixtureRequest,
    det_weights: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> Detector:
    return detector_of(det_weights, request.param, tmp_path_factory.mktemp("exported"))


def places(exported: ExportedModel) -> dict[str, int]:
    """Where each tensor's numbers begin in the file of weights: they are stored one after the
    other, each behind a version, levels of detail, a version and a description."""
    data, at, found = exported.prefix.with_suffix(".pdiparams").read_bytes(), 0, {}
    for name, array in exported.weights().items():
        assert data[at : at + 16] == bytes(16), "other versions, or levels of detail"
        (length,) = struct.unpack_from("<i", data, at + 16)
        found[name] = at + 20 + length
        at = found[name] + array.nbytes
        assert data[found[name] : at] == array.tobytes()
    assert at == len(data)
    return found


def damaged(detector: Detector, names: list[str]) -> Iterator[str]:
    """The exported model with one weight of one parameter wrong: its largest, with another sign;
    one parameter after the other."""
    file = detector.exported.prefix.with_suffix(".pdiparams")
    whole, at = file.read_bytes(), places(detector.exported)
    try:
        for own, (name, array) in detector.weights.items():
            if name in names:
                wrong = array.reshape(-1).copy()
                largest = np.abs(wrong).argmax()
                wrong[largest] = -wrong[largest] if wrong[largest] else 1
                data = wrong.tobytes()
                file.write_bytes(whole[: at[own]] + data + whole[at[own] + len(data) :])
                yield name
    finally:
        file.write_bytes(whole)


@dataclass
class Answered:
    """An exported model that was run."""

    answers: list[list[np.ndarray]]

    def run(self, inputs: object) -> list[list[np.ndarray]]:
        return self.answers

    def weights(self) -> dict[str, np.ndarray]:
        return {}


def spread_over(items: list[str], count: int) -> list[str]:
    return [items[round(k * (len(items) - 1) / (count - 1))] for k in range(count)]


def test_a_good_export_agrees(detector: Detector) -> None:
    agreement = detector.compare()
    assert agreement.difference is not None and 0 < agreement.difference < TOLERANCE / 5
    assert agreement.weights > len(detector.used) and agreement.inputs >= 3


def test_one_damaged_weight_is_caught(detector: Detector) -> None:
    """Of 17 convolutions, and of 17 parameters of any kind: gates, norms, what only trains."""
    any_kind = sorted(detector.weights[own][0] for own in places(detector.exported))
    for names in (spread_over(detector.used, 17), spread_over(any_kind, 17)):
        caught = []
        for name in damaged(detector, names):
            with pytest.raises(Differs, match=rf"1 of \d+ weights .* the first is {name}$"):
                detector.compare()
            caught.append(name)
        assert len(caught) == 17
    assert detector.compare().difference is not None


def test_one_damaged_weight_shows_in_the_answers(detector: Detector) -> None:
    """Where they are near zero as well: by what they vary, not by how large they might be. (A
    filter may answer nothing to anything; that one of its weights is wrong shows elsewhere.)"""
    caught, visible, absolute = [], [], []
    before = detector.exported.run(detector.reference.inputs)
    for name in damaged(detector, spread_over(detector.used, 17)):
        after = detector.exported.run(detector.reference.inputs)
        change = max(float(np.abs(a[0] - b[0]).max()) for a, b in zip(after, before, strict=True))
        visible += [name] if change else []
        absolute += [name] if change > TOLERANCE else []
        try:
            detector.reference.compare(Answered(after), {})
        except Differs as error:
            assert "output 0 differs by" in str(error) and "of what it varies by" in str(error)
            caught.append(name)
    assert caught == visible and len(visible) >= 15
    # What a tolerance sees that is not of what the answers vary by.
    assert bool(absolute) == (detector.largest > 0.5)


class Says(nn.Layer):
    """A layer, with what it makes of its answer."""

    def __init__(self, answer: Callable[[Any], Any]) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 3, padding=1)
        self.answer = answer

    def forward(self, x: Any) -> Any:
        return self.answer(self.conv(x))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (lambda y: nn.functional.relu(-paddle.abs(y)), "the same to every input"),
        (lambda y: 1000 + 1e-6 * y, "the same to every input"),
        (lambda y: nn.functional.dropout(y, 0.5), "off by no more than a rounding"),
        (lambda y: nn.functional.sigmoid(-87.2 + 0.1 * paddle.tanh(y)), "the same to every input"),
    ],
    ids=["dead", "constant", "drops out", "at the end of float32"],
)
def test_answers_that_prove_nothing_are_said_to(
    tmp_path: Path, answer: Callable[[Any], Any], why: str
) -> None:
    layer, spec = Says(answer), InputSpec([1, 3, 8, 8], "float32")
    reference = Reference(lambda arrays: run_once(layer, arrays), [(SIZE, "float32")])
    agreement = reference.compare(saved(layer, tmp_path, spec), weights_of(layer))
    assert agreement.difference is None and why in agreement.why
    assert agreement.weights == 2
    other = Says(answer)
    with pytest.raises(Differs, match="of 2 weights have other values, the first is conv"):
        # By names: those of another layer are others, so that they are given those of the first.
        reference.compare(
            saved(other, tmp_path, spec),
            {
                theirs.name: (name, mine.numpy())
                for (name, theirs), mine in zip(
                    other.named_parameters(), layer.parameters(), strict=True
                )
            },
        )


def test_a_constant_answer_may_still_be_wrong(tmp_path: Path) -> None:
    spec = InputSpec([1, 3, 8, 8], "float32")
    layer = Says(lambda y: 0 * y + 0.5)
    reference = Reference(lambda arrays: run_once(layer, arrays), [(SIZE, "float32")])
    with pytest.raises(Differs, match="of its largest value"):
        reference.compare(saved(Says(lambda y: 0 * y + 0.7), tmp_path, spec), {})
    with pytest.raises(Differs, match="has the shapes"):
        reference.compare(saved(Says(lambda y: y[:, 1:]), tmp_path, spec), {})
    with pytest.raises(Differs, match="has 2 outputs instead of 1"):
        reference.compare(saved(Says(lambda y: (y, y + 1)), tmp_path, spec), {})
    with pytest.raises(Differs, match="differs by inf of its largest value"):
        reference.compare(saved(Says(lambda y: (y - y) / (y - y)), tmp_path, spec), {})


def test_answers_that_are_unsteady_on_some_inputs_are_compared_on_the_others(
    tmp_path: Path,
) -> None:
    """Where a decision is near, as in a decoder, one rounding turns it."""

    def answer(y: Any) -> Any:
        mean = y.mean()
        # A light page is unsteady: the last place of its mean decides.
        turned = paddle.logical_and(mean > 0.5, (2.0**23 * mean) % 2 > 0.5)
        return y + 100 * paddle.cast(turned, "float32")

    spec, layer = InputSpec([1, 3, 8, 8], "float32"), Says(answer)
    layer.conv.weight.set_value(np.full([4, 3, 3, 3], 1 / 27, "float32"))
    layer.conv.bias.set_value(np.zeros(4, "float32"))
    reference = Reference(lambda arrays: run_once(layer, arrays), [(SIZE, "float32")])
    exported = saved(layer, tmp_path, spec)
    assert reference.compare(exported, {}).difference is not None
    layer.conv.weight.set_value(layer.conv.weight * 1.01)
    with pytest.raises(Differs, match=r"what it varies by .* on some of [123] inputs"):
        reference.compare(saved(layer, tmp_path, spec), {})


CONFIG = {
    "Global": {"d2s_train_image_shape": [3, 8, 8]},
    "Architecture": {"model_type": "det", "algorithm": "DB", "Backbone": {"name": "none"}},
}


@pytest.fixture
def tree_module(tree: Path) -> types.ModuleType:
    """PaddleOCR's module that exports, wrapped here and nowhere else."""
    use_tree(tree)
    path = tree / "ppocr" / "utils" / "export_model.py"
    spec = importlib.util.spec_from_file_location("export_model_of_a_test", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    patch.wrap(module)
    return module


def pruned_layer(wrong: bool = False) -> Says:
    """One with a plan; where it is ``wrong``, what is compiled of it answers something else."""
    paddle.seed(0)
    compiled = 0.1 if wrong else 0.0
    layer = Says(lambda y: nn.functional.sigmoid(y if paddle.in_dynamic_mode() else y + compiled))
    layer.eval()
    set_plan(layer, PruningPlan("l1", (), Change(2, 1), Change(2, 1)))
    return layer


@pytest.mark.parametrize("tool", ["train.py", "export_model.py"])
def test_a_wrong_export_ends_the_export_and_not_the_training(
    tree_module: types.ModuleType,
    tool: str,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", [f"/somewhere/tools/{tool}"])
    logger = logging.getLogger("test_exporting")

    def export(folder: Path, wrong: bool = False) -> None:
        config = {**CONFIG, "Global": dict(CONFIG["Global"])}
        path, section = str(folder / "inference"), config["Architecture"]
        tree_module.export_single_model(pruned_layer(wrong), section, path, logger, "", config)

    caplog.set_level(logging.INFO)
    export(tmp_path / "good")
    assert (tmp_path / "good" / "inference.pdiparams").exists()
    assert "the exported model agrees with the trained one" in caplog.text
    assert "all of its 2 weights are the same" in caplog.text
    caplog.clear()
    said = "the exported model is not the trained one: "
    if tool == "train.py":
        export(tmp_path / "bad", wrong=True)
        (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
        assert record.levelno == logging.ERROR and said in record.getMessage()
    else:
        with pytest.raises(SystemExit) as ended:
            export(tmp_path / "bad", wrong=True)
        assert ended.value.code == 2
        assert capsys.readouterr().err.count(said) == 1
    assert not (tmp_path / "bad" / "inference.json").exists()
    assert not (tmp_path / "bad" / "inference.pdiparams").exists()
    aside = ExportedModel(tmp_path / "bad" / "wrong_inference")
    assert aside.run([[np.zeros(SIZE, "float32")]])[0][0].shape == (1, 4, 8, 8)
    # What lies beside it is not taken for a part of the next one.
    for suffix in (".json", ".pdiparams"):
        shutil.copy(f"{aside.prefix}{suffix}", tmp_path / "bad" / f"inference.other{suffix}")
    caplog.clear()
    export(tmp_path / "bad")
    assert "all of its 2 weights are the same" in caplog.text


def test_no_trouble_of_the_check_ends_a_training(
    tree_module: types.ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Here the network does not take the image size that the config says."""
    monkeypatch.setattr(sys, "argv", ["train.py"])
    layer = Says(lambda y: y.reshape([1, 256]))
    layer.eval()
    set_plan(layer, PruningPlan("l1", (), Change(2, 1), Change(2, 1)))
    config = {**CONFIG, "Global": {"d2s_train_image_shape": [3, 16, 16]}}
    path = str(tmp_path / "inference")
    tree_module.export_single_model(
        layer, CONFIG["Architecture"], path, logging.getLogger("test_exporting"), "", config
    )
    assert (tmp_path / "inference.json").exists()
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.levelno == logging.ERROR and record.getMessage().startswith("prune: ")
