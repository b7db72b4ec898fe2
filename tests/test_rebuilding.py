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
from ppocr_prune_plugin.graph.trace import _RECORDERS as RECORDERS
from ppocr_prune_plugin.graph.trace import trace
from ppocr_prune_plugin.network import inspect, make_plan, run_once
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.rebuilding import placed, rebuild, structure_fits
from ppocr_prune_plugin.structure import PrunedStructure

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


def _shapes(model: nn.Layer) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def _pruned(tmp_path: Path) -> tuple[Net, PrunedStructure]:
    paddle.seed(0)
    model = Net()
    network = inspect(model, INPUTS)
    plan = make_plan(network, {"first": 10}, Ranker("l1"))
    surgery.prune(model, network.graph, plan)
    plan.save(tmp_path / "plan.json")
    again = load_plan(tmp_path / "plan.json")
    assert again == plan
    return model, again.structures[""]


def test_a_structure_from_a_file_rebuilds_the_network(tmp_path: Path) -> None:
    model, structure = _pruned(tmp_path)
    assert [(item.name, item.place) for item in structure.attributes] == [("sizes", 0)]
    assert structure.axes["first.weight"] == {0: (16, 10)}
    other = Net()
    for _ in range(2):  # rebuilt twice is as once
        assert rebuild(other, structure, _shapes(model)) == {}
        assert other.sizes == [10, 4] and other.depthwise._groups == 10
    other.set_state_dict(model.state_dict())
    np.testing.assert_array_equal(run_once(other, INPUTS)[0], run_once(model, INPUTS)[0])


def test_unpruned_weights_change_nothing(tmp_path: Path) -> None:
    _, structure = _pruned(tmp_path)
    other = Net()
    assert rebuild(other, structure, _shapes(Net())) is None
    assert _shapes(other) == _shapes(Net()) and other.sizes == [16, 4]


def test_what_the_weights_lack_keeps_its_first_values(tmp_path: Path) -> None:
    model, structure = _pruned(tmp_path)
    found = _shapes(model)
    del found["depthwise.weight"], found["norm._variance"]
    found["last.bias"] = (7,)
    other = Net()
    weight, variance = other.depthwise.weight.numpy(), other.norm._variance.numpy()
    assert rebuild(other, structure, found) == {"last.bias": ((4,), (7,))}
    np.testing.assert_array_equal(other.depthwise.weight.numpy(), weight[:10])
    np.testing.assert_array_equal(other.norm._variance.numpy(), variance[:10])


def _other_sizes(model: Net) -> None:
    model.sizes = [8, 4]


def _no_list(model: Net) -> None:
    del model.sizes


@pytest.mark.parametrize("change", [_other_sizes, _no_list])
def test_code_that_keeps_other_sizes_is_refused(tmp_path: Path, change: Any) -> None:
    model, structure = _pruned(tmp_path)
    other = Net()
    change(other)
    with pytest.raises(PruneError, match=r"has no sizes\[0\] of 16 here"):
        rebuild(other, structure, _shapes(model))
    assert other.first.weight.shape == [16, 3, 1, 1]


@pytest.mark.parametrize("name", ["first.weight", "norm.bias"])
def test_weights_of_another_structure_are_refused(tmp_path: Path, name: str) -> None:
    model, structure = _pruned(tmp_path)
    found = _shapes(model)
    found[name] = (found[name][0] - 1, *found[name][1:])
    other = Net()
    with pytest.raises(
        PruneError, match=f"does not fit the weights beside it: {name} has .* 10 in"
    ):
        rebuild(other, structure, found)
    assert other.first.weight.shape == [16, 3, 1, 1]


def test_another_architecture_is_refused(tmp_path: Path) -> None:
    model, structure = _pruned(tmp_path)
    with pytest.raises(PruneError, match=r"first.weight has the shape \[24, 3, 1, 1\] here"):
        rebuild(Net(24), structure, _shapes(model))
    elsewhere = dataclasses.replace(structure, axes={"elsewhere.weight": {0: (4, 3)}})
    with pytest.raises(PruneError, match="have none of the parameters"):
        rebuild(Net(), elsewhere, _shapes(model))
    with pytest.raises(PruneError, match="it prunes elsewhere.weight, which this model has not"):
        rebuild(Net(), elsewhere, {"elsewhere.weight": (3, 2)})


def test_a_plan_that_prunes_nothing_fits(tmp_path: Path) -> None:
    """A run that prunes nothing, where somebody insists on one, resumes as any other."""
    model, structure = _pruned(tmp_path)
    nothing = dataclasses.replace(structure, axes={}, multipliers={}, attributes=())
    assert rebuild(Net(), nothing, _shapes(Net())) == {}
    assert structure_fits(nothing, _shapes(model)) and structure_fits(nothing, {})


def test_a_bias_of_as_many_classes_as_there_were_channels_stays(tmp_path: Path) -> None:
    """Only what was put around a layer follows it."""
    model, structure = _pruned(tmp_path)
    axes = {"last.weight": {1: (16, 10)}, "first.weight": {0: (16, 10)}}
    other = nn.LayerDict({"first": nn.Conv2D(3, 16, 1), "last": nn.Conv2D(16, 16, 1)})
    found = {"first.weight": (10, 3, 1, 1), "last.weight": (16, 10, 1, 1)}
    bare = dataclasses.replace(structure, axes=axes, multipliers={}, attributes=())
    assert rebuild(other, bare, found) == {}
    assert other["last"].bias.shape == [16] and other["last"].weight.shape == [16, 10, 1, 1]


def test_names_below_layers_that_were_put_around_others() -> None:
    names = ["a.conv.weight", "a.norm.bias", "b.weight"]
    present = [
        *("a.conv._layer.weight", "a.conv._layer._scale.weight", "a.conv._layer.alpha"),
        *("a.norm.bias", "a.norm._layer.bias", "outer.b.weight", "outer.a.conv.weight"),
    ]
    assert placed(names, present) == {
        "a.conv.weight": "a.conv._layer.weight",
        "a.norm.bias": "a.norm.bias",
    }
    assert placed(["weight"], ["weight", "b.weight"]) == {"weight": "weight"}


class Asks(nn.Layer):
    """Cannot be traced: the number depends on the image."""

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
    """Its code has to be translated: what it does depends on the image."""

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


class Nested(nn.Layer):
    """A layer four lists deep."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Sequential(nn.Sequential(Convolution()))))
        self.scale = self.create_parameter([1])

    def forward(self, x: Any) -> Any:
        return self.layers(x) * self.scale


class Convolution(nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Sequential(nn.Sequential(nn.Conv2D(3, 4, 1))))

    def forward(self, x: Any) -> Any:
        return self.layers(x)


def test_operations_know_the_line_of_the_model_that_makes_them() -> None:
    """Also where Paddle's own layers lie between; how much Python shows of errors is as before."""
    program = trace(Nested(), INPUTS, training=True, sites=True)
    assert program.plain
    sites = {op.name: op.site for op in program.ops}
    for name, kind in (("conv2d", Convolution), ("multiply", Nested)):
        line = kind.forward.__code__.co_firstlineno + 1
        assert f'{Path(__file__).name}", line {line}, in forward' in sites[name]
    assert not hasattr(sys, "tracebacklimit")


class Steps(nn.Layer):
    """A decoder that calls its cell once a step."""

    def __init__(self, steps: int) -> None:
        super().__init__()
        self.stem, self.cell, self.steps = nn.Conv2D(3, 3, 1), Chooses(), steps

    def forward(self, x: Any) -> Any:
        x = self.stem(x)
        for _ in range(self.steps):
            x = self.cell.conv(x)
        return x


def test_operations_know_the_layers_that_make_them() -> None:
    """By their classes, whatever has run before, and also in code that Paddle has translated."""
    for model in (Nested(), Nested()):
        made = {op.name: op.layer for op in trace(model, INPUTS, training=True).ops}
        lists = "/".join(["Sequential"] * 4)
        assert made["conv2d"] == f"{lists}/Convolution/{'/'.join(['Sequential'] * 3)}/Conv2D"
        assert made["multiply"] == made["builtin.parameter"] == ""
    made = {op.name: op.layer for op in trace(nn.Sequential(Chooses()), INPUTS, True).ops}
    assert made["if"] == "Chooses"


def test_a_trace_does_not_list_the_program_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """As Paddle does to name layers: the time of a trace would grow with the square of the
    operations."""
    original, asked = paddle.static.default_main_program, []
    monkeypatch.setattr(
        paddle.static, "default_main_program", lambda: asked.append(None) or original()
    )
    counts = []
    for steps in (2, 20):
        asked.clear()
        program = trace(Steps(steps), INPUTS, training=True)
        assert [op.name for op in program.ops].count("conv2d") == steps + 1
        counts.append(len(asked))
    assert counts[0] == counts[1]
    assert paddle.nn.layer.layers.name_struct.__module__ == "paddle.base.framework"
    assert paddle.base.core.pir.get_op_role() == -1


class Masked(nn.Layer):
    """A mask as NRTR's head has it in trees before 2.9, and others have it today."""

    def forward(self, x: Any) -> Any:
        return x + paddle.triu(paddle.full([8, 8], "-inf", dtype="float32"), diagonal=1)


def test_numbers_written_as_words_are_traced() -> None:
    original = paddle.tensor.creation.fill_constant
    program = trace(Masked(), INPUTS, training=True)
    assert program.plain
    assert [op.name for op in program.ops].count("triu") == 1
    assert paddle.tensor.creation.fill_constant is original
