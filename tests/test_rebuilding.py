"""A pruned network is rebuilt from its plan alone, and a trace that fails leaves nothing behind."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.frame import Frame
from ppocr_prune_plugin.graph.trace import _RECORDERS as RECORDERS
from ppocr_prune_plugin.graph.trace import trace
from ppocr_prune_plugin.network import inspect, make_plan, run_once
from ppocr_prune_plugin.plan import load_plan

INPUTS: list[Any] = [([1, 3, 8, 8], "float32")]
Shapes = dict[str, tuple[int, ...]]


class Net(nn.Layer):
    """A depthwise convolution, and a width that the code keeps in a list."""

    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.sizes = [width, 4]
        self.first = nn.Conv2D(3, width, 1)
        self.depthwise = nn.Conv2D(width, width, 3, padding=1, groups=width)
        self.norm = nn.BatchNorm2D(width)
        self.last = nn.Conv2D(width, 4, 1)

    def forward(self, x: Any) -> Any:
        x = self.norm(self.depthwise(self.first(x)))
        return self.last(x.reshape([-1, self.sizes[0], 8, 8]))


def _pruned(tmp_path: Path) -> tuple[Net, Frame, Shapes]:
    paddle.seed(0)
    model = Net()
    network = inspect(model, INPUTS)
    plan = make_plan(network, {"first": 10}, Ranker("l1"))
    surgery.prune(model, network.graph, plan)
    plan.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan and again.frame is not None
    return model, again.frame, {n: tuple(t.shape) for n, t in model.state_dict().items()}


def test_a_frame_from_a_file_rebuilds_the_network(tmp_path: Path) -> None:
    model, frame, found = _pruned(tmp_path)
    assert [(item.name, item.place) for item in frame.attributes] == [("sizes", 0)]
    other = Net()
    assert surgery.rebuild(other, frame, found)
    assert other.sizes == [10, 4] and other.depthwise._groups == 10
    other.set_state_dict(model.state_dict())
    np.testing.assert_array_equal(run_once(other, INPUTS)[0], run_once(model, INPUTS)[0])


def _other_sizes(model: Net) -> None:
    model.sizes = [8, 4]


def _no_list(model: Net) -> None:
    del model.sizes


@pytest.mark.parametrize("change", [_other_sizes, _no_list])
def test_a_model_whose_code_keeps_other_sizes_is_left_alone(tmp_path: Path, change: Any) -> None:
    _, frame, found = _pruned(tmp_path)
    other = Net()
    change(other)
    assert not surgery.rebuild(other, frame, found)
    assert other.first.weight.shape == [16, 3, 1, 1]


@pytest.mark.parametrize("name", ["first.weight", "last.bias"])
def test_weights_of_other_shapes_are_not_those_of_the_frame(tmp_path: Path, name: str) -> None:
    _, frame, found = _pruned(tmp_path)
    found[name] = (found[name][0] - 1, *found[name][1:])
    other = Net()
    assert not surgery.rebuild(other, frame, found)
    assert other.first.weight.shape == [16, 3, 1, 1]


def test_another_architecture_is_not_that_of_the_frame(tmp_path: Path) -> None:
    _, frame, found = _pruned(tmp_path)
    assert not surgery.rebuild(Net(24), frame, found)
    shapes = {"elsewhere.weight": ((4, 2), (3, 2))}
    assert not surgery.rebuild(Net(), dataclasses.replace(frame, shapes=shapes), found)


class Asks(nn.Layer):
    """Cannot be traced: the number depends on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 4, 1)

    def forward(self, x: Any) -> Any:
        raise ValueError(f"no number in {self.conv(x).sum().shape}")


def test_a_trace_that_fails_leaves_no_values_behind() -> None:
    """Paddle keeps a program's values under its address; a later program there would get them,
    and the process would crash."""
    (recorder,) = (sys.modules[name] for name in RECORDERS if name in sys.modules)
    model = Asks()
    with pytest.raises(PruneError, match="no number"):
        trace(model, INPUTS, training=True)
    tables = vars(recorder._global_parameter_recorder) | vars(recorder._global_inplace_map)
    assert {"params_dict", "tensor2value"} <= tables.keys()
    assert not any(tables.values())


class Chooses(nn.Layer):
    """Its code has to be translated: what it does depends on the picture."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2D(3, 3, 1)

    def forward(self, x: Any) -> Any:
        if x.sum() > 0:
            x = self.conv(x)
        return x


def test_the_code_of_a_class_is_translated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from paddle.jit.dy2static import program_translator

    cache = program_translator._FUNCTION_CACHE
    translated: list[str] = []
    original = type(cache)._convert
    monkeypatch.setattr(
        type(cache),
        "_convert",
        lambda self, function: translated.append(function.__qualname__) or original(self, function),
    )
    model = nn.Sequential(*[Chooses() for _ in range(3)])
    for number in range(2):
        program = trace(model, INPUTS, training=True)
        assert [op.name for op in program.ops].count("if") == 3
        # Paddle 3.0 leaves translated code in a Sequential, so that it runs as it stands then.
        assert not program.plain or number > 0
    assert translated.count("Chooses.forward") == 1
    assert "convert_with_cache" not in vars(cache)
