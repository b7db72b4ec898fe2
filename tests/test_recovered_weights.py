"""Recovered weights compute what the published inference models compute, and can be trained."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from demo.architectures import Kind, Release
from demo.mapping import MappingError, assign, fuse
from demo.published import SOURCES, published_model, read_parameters, run_model
from demo.statistics import calibrate
from demo.weights import build, network_input, recovered_model
from ppocr_prune_plugin.errors import PruneError


def needs(release: Release) -> None:
    """Skip where the package that has a release's models, or what reads them, is not installed."""
    pytest.importorskip(SOURCES[release, "det"].module, reason=f"the {release} models are in it")
    if release != "v4":
        pytest.importorskip("onnx", reason=f"it reads the {release} models")


def recovered(
    kind: Kind,
    images: list[Path],
    conv_kxk_num: int = 1,
    calibrated: bool = True,
    release: Release = "v4",
) -> Any:
    """The recovered model; skips where the PaddleOCR tree has no networks for it."""
    needs(release)
    if release != "v6":
        return recovered_model(kind, images, conv_kxk_num, calibrated, release)
    try:
        build(kind, conv_kxk_num, release)
    except PruneError as error:
        pytest.skip(str(error))
    return recovered_model(kind, images, conv_kxk_num, calibrated, release)


def outputs(model: Any, x: np.ndarray) -> np.ndarray:
    result = model(paddle.to_tensor(x))
    return (result["maps"] if isinstance(result, dict) else result).numpy()


@pytest.fixture(scope="module")
def images(rendered: Path) -> list[Path]:
    return sorted((rendered / "train").glob("*.jpg"))


@pytest.fixture(scope="module")
def text(rendered: Path) -> np.ndarray:
    """A page of text as the detector's input, a part of its upper half."""
    return network_input("det", rendered / "val" / "0000.jpg")[:, :, :256, :384].copy()


@pytest.fixture(scope="module")
def published(text: np.ndarray) -> np.ndarray:
    needs("v4")
    return run_model(published_model("det"), text)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(("conv_kxk_num", "calibrated"), [(4, False), (1, True)])
def test_detector_equals_the_inference_model_before_and_after_calibration(
    conv_kxk_num: int,
    calibrated: bool,
    images: list[Path],
    text: np.ndarray,
    published: np.ndarray,
) -> None:
    assert published.max() > 0.9, "the image must have text in it"
    model = recovered("det", images[:3], conv_kxk_num, calibrated)
    np.testing.assert_allclose(outputs(model, text), published, atol=1e-4)
    mean = model.state_dict()["backbone.blocks2.0.pw_conv.conv_kxk.0.bn._mean"]
    assert mean.numpy().any() == calibrated


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(("release", "conv_kxk_num"), [("v5", 4), ("v6", 1)])
def test_later_detectors_equal_their_onnx_models_on_a_page_of_text(
    release: Release, conv_kxk_num: int, images: list[Path], text: np.ndarray
) -> None:
    model = recovered("det", images[:2], conv_kxk_num, release=release)
    expected = run_model(published_model("det", release), text)
    assert expected.max() > 0.9, "the image must have text in it"
    np.testing.assert_allclose(outputs(model, text), expected, atol=1e-4)


@pytest.mark.usefixtures("tree")
@pytest.mark.parametrize(
    ("release", "kind", "conv_kxk_num"),
    [("v4", "rec", 4), ("v4", "cls", 1), ("v5", "rec", 1), ("v6", "rec", 1)],
)
def test_recognisers_and_classifier_equal_their_inference_models(
    release: Release, kind: Kind, conv_kxk_num: int, lines: Path
) -> None:
    words = sorted(lines.glob("rec_train_*.png"))
    x = network_input(kind, words[0])[:, :, :, :192]
    model = recovered(kind, words[:3], conv_kxk_num, release=release)
    expected = run_model(published_model(kind, release), x)
    assert expected.max() > 0.9, "the line must be legible"
    np.testing.assert_allclose(outputs(model, x), expected, atol=1e-4)


@pytest.mark.usefixtures("tree")
def test_only_calibrated_weights_start_training_from_the_function(
    images: list[Path], rendered: Path
) -> None:
    """Train mode normalises by the batch: after calibration it still finds the same text."""
    x = np.concatenate(
        [network_input("det", rendered / "val" / f"{i:04d}.jpg")[:, :, :320, :448] for i in (0, 2)]
    )
    overlap = {}
    for calibrated in (False, True):
        model = recovered("det", images[:4], calibrated=calibrated)
        expected = outputs(model, x)[:, 0] > 0.3
        model.train()
        found = outputs(model, x)[:, 0] > 0.3
        overlap[calibrated] = (found & expected).sum() / (found | expected).sum()
    # What is missing of a perfect match becomes less than half by the calibration.
    assert 1 - overlap[True] < (1 - overlap[False]) / 2, overlap


@pytest.mark.usefixtures("tree")
def test_dead_branches_hold_nothing(images: list[Path]) -> None:
    model = recovered("det", images[:1], conv_kxk_num=4)
    layers = [layer for layer in model.sublayers() if hasattr(layer, "conv_kxk")]
    assert layers
    for layer in layers:
        dead = [*list(layer.conv_kxk)[1:], *([layer.conv_1x1] if layer.conv_1x1 else [])]
        for branch in dead:
            for tensor in (branch.conv.weight, branch.bn.weight, branch.bn.bias):
                assert not tensor.numpy().any()
        assert layer.conv_kxk[0].conv.weight.numpy().any()


@pytest.mark.usefixtures("tree")
def test_saved_weights_are_the_models_state(
    det_weights: Path, text: np.ndarray, published: np.ndarray
) -> None:
    """What PaddleOCR loads is complete and gives the published model's output."""
    state = paddle.load(f"{det_weights}.pdparams")
    model = build("det")
    assert {name: list(value.shape) for name, value in state.items()} == {
        name: list(value.shape) for name, value in model.state_dict().items()
    }
    model.set_state_dict(state)
    np.testing.assert_allclose(outputs(model, text), published, atol=1e-4)


@pytest.mark.usefixtures("tree")
def test_program_of_another_model_is_refused() -> None:
    needs("v4")
    arrays = read_parameters(published_model("cls"))
    x = np.zeros((1, 3, 64, 64), np.float32)
    with pytest.raises(MappingError, match="layers, the model"):
        assign(build("det"), lambda: build("det"), arrays, x)


def norm(channels: int) -> nn.BatchNorm2D:
    """A batch norm whose statistics, scale and shift all say something."""
    layer = nn.BatchNorm2D(channels)
    for tensor in (layer.weight, layer.bias, layer._mean):
        tensor.set_value(np.random.uniform(0.5, 1.5, channels).astype(np.float32))
    layer._variance.set_value(np.random.uniform(0.5, 2.0, channels).astype(np.float32))
    return layer


def folded(conv: Any, bn: Any, axis: int = 0) -> tuple[np.ndarray, np.ndarray]:
    scale = (bn.weight / (bn._variance + bn._epsilon).sqrt()).numpy()
    shape = [1] * 4
    shape[axis] = -1
    shift = 0 if conv.bias is None else conv.bias.numpy()
    return conv.weight.numpy() * scale.reshape(shape), (
        bn.bias.numpy() + (shift - bn._mean.numpy()) * scale
    )


def replacing(conv: Any, kernel: np.ndarray, bias: np.ndarray) -> Any:
    layer = type(conv)(
        conv._in_channels,
        conv._out_channels,
        conv._kernel_size,
        stride=conv._stride,
        padding=conv._padding,
        groups=conv._groups,
    )
    layer.weight.set_value(kernel.astype(np.float32))
    layer.bias.set_value(bias.astype(np.float32))
    return layer


class InPlace(nn.Layer):
    """PP-OCRv6's detector head: convolutions replaced where they are, norms by an activation."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2D(4, 4, 3, padding=1, bias_attr=False)
        self.bn1 = norm(4)
        self.conv2 = nn.Conv2DTranspose(4, 6, 2, stride=2)
        self.bn2 = norm(6)

    def forward(self, x: Any) -> Any:
        return nn.functional.relu(self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(x))))))

    def rep(self) -> None:
        self.conv1 = replacing(self.conv1, *folded(self.conv1, self.bn1))
        self.conv2 = replacing(self.conv2, *folded(self.conv2, self.bn2, axis=1))
        self.bn1 = self.bn2 = nn.Identity()


class Dilated(nn.Layer):
    """A large depthwise kernel with a small one beside it, merged where the large one is."""

    def __init__(self) -> None:
        super().__init__()
        self.large = nn.Conv2D(6, 6, 5, padding=2, groups=6, bias_attr=False)
        self.large_bn = norm(6)
        self.small = nn.Conv2D(6, 6, 3, padding=2, dilation=2, groups=6, bias_attr=False)
        self.small_bn = norm(6)
        self.repped = False

    def forward(self, x: Any) -> Any:
        y = self.large(x)
        return y if self.repped else self.large_bn(y) + self.small_bn(self.small(x))

    def rep(self) -> None:
        kernel, bias = folded(self.large, self.large_bn)
        small, small_bias = folded(self.small, self.small_bn)
        kernel[:, :, ::2, ::2] += small
        self.large = replacing(self.large, kernel, bias + small_bias)
        del self.large_bn, self.small, self.small_bn
        self.repped = True


class ConvNorm(nn.Sequential):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.add_sublayer(
            "conv", nn.Conv2D(channels, channels, 3, padding=1, groups=channels, bias_attr=False)
        )
        self.add_sublayer("bn", norm(channels))


class WithInput(nn.Layer):
    """PP-OCRv6's depthwise block: a sum that holds its own input, with a norm of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = ConvNorm(6)
        self.point = nn.Conv2D(6, 6, 1, groups=6, bias_attr=False)
        self.bn = norm(6)
        self.merged: Any = None

    def forward(self, x: Any) -> Any:
        if self.merged is not None:
            return self.merged(x)
        return self.bn(self.branch(x) + self.point(x) + x)

    def rep(self) -> None:
        kernel, bias = folded(self.branch.conv, self.branch.bn)
        kernel[:, :, 1:2, 1:2] += self.point.weight.numpy() + 1
        scale = (self.bn.weight / (self.bn._variance + self.bn._epsilon).sqrt()).numpy()
        bias = self.bn.bias.numpy() + (bias - self.bn._mean.numpy()) * scale
        self.merged = replacing(self.branch.conv, kernel * scale.reshape(-1, 1, 1, 1), bias)
        del self.branch, self.point, self.bn


class Whole(nn.Layer):
    """All of them, told to ``rep()`` from the top, between layers that stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 4, 1)
        self.parts = nn.Sequential(InPlace(), Dilated(), WithInput())
        self.head = nn.Sequential(nn.Conv2D(6, 2, 1, bias_attr=False), norm(2))
        self.is_repped = False

    def forward(self, x: Any) -> Any:
        return self.head(self.parts(self.stem(x)))

    def rep(self) -> None:
        for part in self.parts:
            part.rep()
            part.is_repped = True
        self.is_repped = True


def whole() -> Any:
    with paddle.utils.unique_name.guard():
        model = Whole()
    model.eval()
    return model


@pytest.fixture
def deployed() -> tuple[dict[str, np.ndarray], Callable[[np.ndarray], np.ndarray]]:
    """A fused network: its parameters under Paddle's names, and what it computes."""
    np.random.seed(0)
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        model = Whole()
        model.eval()
        fuse(model)
    tensors = [*model.parameters(), *model.buffers()]
    return {tensor.name: tensor.numpy() for tensor in tensors}, lambda x: outputs(model, x)


def test_every_way_of_fusing_is_undone(
    deployed: tuple[dict[str, np.ndarray], Callable[[np.ndarray], np.ndarray]],
) -> None:
    """Nested rep(), kernels replaced in place, dilated branches, a sum that holds its input."""
    arrays, expected = deployed
    x = np.random.default_rng(1).normal(size=(2, 3, 16, 16)).astype(np.float32)
    model = whole()
    norms = assign(model, whole, arrays, x)
    np.testing.assert_allclose(outputs(model, x), expected(x), rtol=1e-4, atol=1e-4)

    in_place, dilated, with_input = model.parts
    for branch in (dilated.small, dilated.small_bn, with_input.point):
        assert not branch.weight.numpy().any()
    fused = [in_place.bn1, in_place.bn2, dilated.large_bn, dilated.small_bn]
    fused += [with_input.branch.bn, with_input.bn]
    assert {id(layer) for layer in norms} == {id(layer) for layer in fused}

    calibrate(model, norms, [x, x + 1])
    np.testing.assert_allclose(outputs(model, x), expected(x), rtol=1e-4, atol=1e-4)
    assert with_input.bn._mean.numpy().any()
