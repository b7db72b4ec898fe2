"""Folding changes no output: small networks with everything that stands around convolutions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn
from paddle.nn import functional

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.export.fold import fold
from ppocr_prune_plugin.export.program_file import load_program
from ppocr_prune_plugin.latency.write import export

TOLERANCE = 1e-5  # of the span of each output


class Affine(nn.Layer):
    """A learnable scale and shift: of all channels alike, or of each."""

    def __init__(self, channels: int = 1, scale: float | None = None) -> None:
        super().__init__()
        shape = [1] if channels == 1 else [channels, 1, 1]
        random = np.random.default_rng(channels)
        drawn = random.uniform(0.5, 1.5, shape) if scale is None else np.full(shape, scale)
        self.scale = self.create_parameter(shape)
        self.scale.set_value(paddle.to_tensor(drawn.astype("float32")))
        self.shift = self.create_parameter(shape)
        self.shift.set_value(paddle.to_tensor(random.uniform(-1, 1, shape).astype("float32")))

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.scale * x + self.shift


class Net(nn.Layer):
    """A function of named layers."""

    def __init__(self, run: Callable[..., Any], **layers: nn.Layer) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_sublayer(name, layer)
        self.run = run

    def forward(self, x: paddle.Tensor) -> Any:
        return self.run(self, x)


def conv(inputs: int, outputs: int, kernel: int = 1, **options: Any) -> nn.Layer:
    return nn.Conv2D(inputs, outputs, kernel, **options)


def chain(*layers: nn.Layer) -> Net:
    def run(self: Any, x: paddle.Tensor) -> paddle.Tensor:
        for name, _ in self.named_children():
            x = getattr(self, name)(x)
        return x

    return Net(run, **{f"layer{k}": layer for k, layer in enumerate(layers)})


def excite(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    """An affine whose result is pooled for a gate and multiplied by it."""
    x = self.affine(functional.hardswish(self.first(x)))
    gate = functional.hardsigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1)))
    return self.last(x * gate)


def two_readers(self: Any, x: paddle.Tensor) -> Any:
    """One of them pads, so that the shift stays; the scale goes into both."""
    x = self.affine(functional.hardswish(self.first(x)))
    return self.plain(x), self.padded(x)


def kept_by_residual(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    y = functional.hardswish(self.first(x))
    return self.last(self.affine(y) + y)


def pooled_and_joined(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    y = functional.hardswish(self.first(x))
    a = self.affine(functional.interpolate(functional.max_pool2d(y, 2), scale_factor=2))
    return self.last(paddle.concat([self.other(a), functional.relu(y), a], axis=1))


def shared(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    """One convolution applied to what is scaled and to what is not."""
    y = functional.hardswish(self.first(x))
    return self.twice(self.affine(y)) + self.twice(y)


def scaled_twice(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    y = self.affine(functional.hardswish(self.first(x)))
    return self.last(y * functional.adaptive_avg_pool2d(y, 1))


def gated_and_kept(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    """What is gated is added to itself, once from either side, once with a gate of its size."""
    x = functional.hardswish(self.first(x))
    x = x * functional.sigmoid(self.gate(functional.adaptive_avg_pool2d(x, 1))) + x
    x = x + functional.sigmoid(self.other(functional.adaptive_avg_pool2d(x, 1))) * x
    return x + x * functional.sigmoid(x)


def rows(self: Any, x: paddle.Tensor) -> paddle.Tensor:
    y = self.first(x).flatten(2).transpose([0, 2, 1])
    y = functional.gelu(self.norm(self.fc1(y).transpose([0, 2, 1])).transpose([0, 2, 1]))
    return self.fc2(y * 0.5 + 0.25)


def norm(channels: int) -> nn.Layer:
    layer = nn.BatchNorm2D(channels)
    random = np.random.default_rng(channels)
    for tensor in (layer.weight, layer.bias, layer._mean, layer._variance):
        tensor.set_value(paddle.to_tensor(random.uniform(0.5, 1.5, [channels]).astype("float32")))
    return layer


def _with(run: Callable[..., Any], **layers: nn.Layer) -> Callable[[], Net]:
    return lambda: Net(run, **layers)


# Each with the multiplications, additions and batch norms that are left.
NETWORKS: dict[str, tuple[Callable[[], nn.Layer], dict[str, int]]] = {
    "norm_behind": (lambda: chain(conv(3, 6, 3, padding=1), norm(6)), {"add": 1}),
    "norm_behind_without_bias": (
        lambda: chain(conv(3, 6, 3, padding=1, bias_attr=False), norm(6), nn.ReLU()),
        {"add": 1},
    ),
    "affine_behind": (lambda: chain(conv(3, 6, 3, padding=1), Affine(), norm(6)), {"add": 1}),
    "affine_behind_each": (
        lambda: chain(conv(3, 6, 3, groups=3), Affine(6), nn.Hardswish()),
        {"add": 1},
    ),
    "affine_behind_depthwise": (
        lambda: chain(conv(3, 6, 3, groups=3, padding=1), Affine(), nn.Hardswish()),
        {"add": 1},
    ),
    "affine_behind_transposed": (
        lambda: chain(nn.Conv2DTranspose(3, 6, 2, 2), norm(6), nn.ReLU(), Affine(), conv(6, 4)),
        {"add": 2},
    ),
    "affine_before": (
        lambda: chain(conv(3, 6), nn.Hardswish(), Affine(), conv(6, 4, 3, bias_attr=False)),
        {"add": 2},
    ),
    "affine_before_grouped": (
        lambda: chain(conv(3, 6), nn.Hardswish(), Affine(6), conv(6, 8, 3, groups=2)),
        {"add": 2},
    ),
    "affine_before_padded": (
        lambda: chain(conv(3, 6), nn.Hardswish(), Affine(6), conv(6, 6, 3, padding=1, groups=6)),
        {"add": 3},
    ),
    "affine_before_transposed": (
        lambda: chain(conv(3, 6), nn.Hardswish(), Affine(), nn.Conv2DTranspose(6, 4, 2, 2)),
        {"add": 3},
    ),
    "negative_before_relu": (
        lambda: chain(conv(3, 6), nn.Hardswish(), Affine(scale=-1.5), nn.ReLU(), conv(6, 4)),
        {"multiply": 1, "add": 3},
    ),
    "excite": (
        _with(excite, first=conv(3, 6), affine=Affine(), gate=conv(6, 6), last=conv(6, 4)),
        {"multiply": 1, "add": 4},  # the gate's product, and the shift that it would multiply
    ),
    "two_readers": (
        _with(
            two_readers, first=conv(3, 6), affine=Affine(), plain=conv(6, 4),
            padded=conv(6, 4, 3, padding=1),
        ),
        {"add": 4},
    ),
    "residual": (
        _with(kept_by_residual, first=conv(3, 6), affine=Affine(), last=conv(6, 4)),
        {"multiply": 1, "add": 3},  # the shift goes through the sum, the scale does not
    ),
    "pooled_and_joined": (
        _with(
            pooled_and_joined, first=conv(3, 6), affine=Affine(), other=conv(6, 2),
            last=conv(14, 4),
        ),
        {"add": 2},
    ),
    "shared": (
        _with(shared, first=conv(3, 6), affine=Affine(), twice=conv(6, 4)),
        {"add": 4},
    ),
    "scaled_twice": (
        _with(scaled_twice, first=conv(3, 6), affine=Affine(), last=conv(6, 4)),
        {"multiply": 2, "add": 3},
    ),
    "gated_and_kept": (
        _with(gated_and_kept, first=conv(3, 6), gate=conv(6, 6), other=conv(6, 6)),
        {"multiply": 3, "add": 6},  # three biases, two gates' ones, and the sum that stays
    ),
    "rows": (
        _with(rows, first=conv(3, 6, 4, stride=4), fc1=nn.Linear(6, 8), norm=nn.BatchNorm1D(8),
              fc2=nn.Linear(8, 5)),
        {"add": 3, "batch_norm_": 1},  # between transpositions
    ),
}  # fmt: skip


def run(prefix: Path, x: np.ndarray) -> list[np.ndarray]:
    config = paddle.inference.Config(f"{prefix}.json", f"{prefix}.pdiparams")
    config.disable_gpu()
    config.disable_mkldnn()
    config.disable_glog_info()
    predictor = paddle.inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x)
    predictor.run()
    return [predictor.get_output_handle(n).copy_to_cpu() for n in predictor.get_output_names()]


@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_stay_and_operations_go(name: str, tmp_path: Path) -> None:
    paddle.seed(3)
    make, expected = NETWORKS[name]
    model = make()
    model.eval()
    export(model, [([1, 3, 16, 24], "float32")], tmp_path / "whole")
    folded = fold(tmp_path / "whole", tmp_path / "folded")
    x = np.random.default_rng(0).standard_normal((1, 3, 16, 24)).astype("float32")
    whole, small = run(tmp_path / "whole", x), run(tmp_path / "folded", x)
    assert len(whole) == len(small)
    for before, after in zip(whole, small, strict=True):
        assert before.shape == after.shape and np.ptp(before) > 0.1
        assert np.abs(before - after).max() <= TOLERANCE * np.ptp(before)
    kinds = ("multiply", "add", "batch_norm_", "scale")
    left = {kind: folded.after[kind] for kind in kinds if kind in folded.after}
    assert left == expected


def test_a_file_is_written_back_as_it_was(tmp_path: Path) -> None:
    model = NETWORKS["excite"][0]()
    model.eval()
    export(model, [([1, 3, -1, -1], "float32")], tmp_path / "whole")
    load_program(tmp_path / "whole").save(tmp_path / "again")
    for suffix in ("json", "pdiparams"):
        whole = (tmp_path / f"whole.{suffix}").read_bytes()
        again = (tmp_path / f"again.{suffix}").read_bytes()
        assert again == whole or suffix == "json"
    fold(tmp_path / "whole", tmp_path / "once")
    second = fold(tmp_path / "once", tmp_path / "twice")
    assert second.before == second.after  # nothing is left to fold


@pytest.mark.parametrize("damage", ["cut", "swapped", "not_json", "missing"])
def test_a_damaged_export_is_refused(damage: str, tmp_path: Path) -> None:
    model = NETWORKS["norm_behind"][0]()
    model.eval()
    export(model, [([1, 3, 8, 8], "float32")], tmp_path / "m")
    program, parameters = tmp_path / "m.json", tmp_path / "m.pdiparams"
    if damage == "cut":
        parameters.write_bytes(parameters.read_bytes()[:-7])
    elif damage == "swapped":
        parameters.write_bytes(parameters.read_bytes()[::-1])
    elif damage == "not_json":
        program.write_text("{" + program.read_text())
    else:
        parameters.unlink()
    with pytest.raises(PruneError, match=r"m\.(json|pdiparams)"):
        fold(tmp_path / "m", tmp_path / "folded")
    assert not (tmp_path / "folded.json").exists()
