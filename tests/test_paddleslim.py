"""PaddleSlim as a partner: its pruners rank our groups, ours choose the same filters, and files go
both ways."""

from __future__ import annotations

import copy
import importlib.util
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from architectures import DETECTORS
from paddle import nn
from training import Tools

from demo.architectures import architecture
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.criteria import Arrays, Context, Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import ChannelGraph, build_graph
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.sensitivity.store import Point, load_pickle, open_sensitivity

if importlib.util.find_spec("paddleslim") is None:
    pytest.skip("PaddleSlim is not installed", allow_module_level=True)

from ppocr_prune_plugin.criteria import paddleslim as adapter

adapter.load()
from paddleslim.dygraph.prune import FilterPruner, FPGMFilterPruner, Status  # noqa: E402

_CRNN = {
    "model_type": "rec",
    "algorithm": "CRNN",
    "Transform": None,
    "Backbone": {
        "name": "MobileNetV3", "scale": 0.5, "model_name": "small", "small_stride": [1, 2, 2, 2],
    },
    "Neck": {"name": "SequenceEncoder", "encoder_type": "rnn", "hidden_size": 48},
    "Head": {"name": "CTCHead", "out_channels": 97},
}  # fmt: skip
ARCHITECTURES = {
    "mobilenetv3_db": (DETECTORS["mv3_se_dbfpn"], [1, 3, 64, 64]),
    "resnet18_db": (DETECTORS["resnet18_dbfpn"], [1, 3, 64, 64]),
    "lcnetv3_rsefpn": (DETECTORS["lcnetv3_rsefpn"], [1, 3, 64, 64]),
    "crnn": (_CRNN, [1, 3, 32, 100]),
    "cls": (architecture("cls"), [1, 3, 48, 192]),
}
RATIOS = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]


class Remembering(FPGMFilterPruner):  # type: ignore[misc]
    """PaddleSlim's own distances, each reckoned once and not for every ratio anew; and a note of
    the weights that it was shown."""

    seen: dict[str, np.ndarray] = {}

    def cal_mask(self, pruned_ratio: float, collection: Any, num_head: int = -1) -> np.ndarray:
        self.current = collection.master_name
        self.seen[self.current] = collection.values[self.current]
        return super().cal_mask(pruned_ratio, collection)

    def get_distance_sum(self, value: np.ndarray, out_idx: int) -> float:
        memory = self.__dict__.setdefault("memory", {})
        if (self.current, out_idx) not in memory:
            memory[self.current, out_idx] = super().get_distance_sum(value, out_idx)
        return memory[self.current, out_idx]


class Inverted(FilterPruner):  # type: ignore[misc]
    """A user's own, with an attribute of its own and the signature of older versions."""

    def __init__(self, model: nn.Layer, inputs: Any) -> None:
        super().__init__(model, inputs)
        self.calls = 0

    def cal_mask(self, pruned_ratio: float, collection: Any) -> np.ndarray:
        self.calls += 1
        value = collection.values[collection.master_name]
        assert self.collections.find_collection_by_master(collection.master_name, 0) is not None
        # What PaddleSlim's surgery does to models, and a read of all that it needs for it.
        assert {detail.name for detail in collection.all_pruning_details()} >= {
            collection.master_name
        }
        self.model.register_buffer(f"left_{self.calls}_backup", paddle.zeros([1]))
        order = np.abs(value).sum(axis=(1, 2, 3)).argsort()[::-1]
        mask = np.ones(len(order), "int32")
        mask[order[: round(len(order) * pruned_ratio)]] = 0
        value[:] = 0  # a copy: nobody minds
        return mask


class TooMany(Inverted):
    def cal_mask(self, pruned_ratio: float, collection: Any) -> np.ndarray:
        return np.ones(4, "int32")


class TooLong(Inverted):
    def cal_mask(self, pruned_ratio: float, collection: Any) -> np.ndarray:
        return np.ones(3, "int32")


class Broken(Inverted):
    def cal_mask(self, pruned_ratio: float, collection: Any) -> np.ndarray:
        raise KeyError("no such thing")


def traced(model: nn.Layer, shape: list[int]) -> tuple[ChannelGraph, Arrays, Context]:
    inputs = [(shape, "float32")]
    graph = build_graph(model, inputs)
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    return graph, arrays, Context(model, inputs, graph.groups, lambda: [])


def prepared(name: str, context: Context) -> Ranker:
    ranker = Ranker(name)
    ranker.prepare(context)
    return ranker


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_same_filters_mask_for_mask(name: str, tree: Path) -> None:
    """On every group, at the ratios that PaddleSlim analyses."""
    use_tree(tree)
    from ppocr.modeling.architectures import build_model

    config, shape = ARCHITECTURES[name]
    paddle.seed(0)
    with paddle.utils.unique_name.guard():
        model = build_model(copy.deepcopy(config))
    graph, arrays, context = traced(model, shape)
    assert len(graph.groups) > 20
    state = {key: tensor.numpy().copy() for key, tensor in model.state_dict().items()}
    Remembering.seen = {}
    pairs = {
        "l1": "paddleslim.L1NormFilterPruner",
        "l2": "paddleslim.L2NormFilterPruner",
        "fpgm": f"{__name__}:Remembering",
    }
    for ours, theirs in pairs.items():
        mine, partner = Ranker(ours), prepared(theirs, context)
        for group in graph.groups:
            a, b = mine.rank(group, arrays), partner.rank(group, arrays)
            for width in {max(1, group.size - round(group.size * ratio)) for ratio in RATIOS}:
                assert a.kept(width) == b.kept(width), f"{ours}, {group.name}, {width} channels"
    # PaddleSlim saw the weights themselves, wherever their filters lie along axis 0.
    names = {key: parameter.name for key, parameter in model.named_parameters()}
    plain = [
        group.root.parameter
        for group in graph.groups
        if group.root.axis == 0 and group.size == len(arrays[group.root.parameter])
    ]
    assert len(plain) > 15
    for parameter in plain:
        assert np.array_equal(Remembering.seen[names[parameter]], arrays[parameter])
    # It left nothing behind.
    after = model.state_dict()
    assert list(after) == list(state)
    assert all(np.array_equal(after[key].numpy(), array) for key, array in state.items())


def test_ties_are_broken_alike() -> None:
    model = nn.Sequential(nn.Conv2D(3, 40, 3), nn.Conv2D(40, 2, 1))
    weight = np.repeat(model[0].weight.numpy()[:8], 5, axis=0)
    weight[::7] = 0
    model[0].weight.set_value(weight)
    graph, arrays, context = traced(model, [1, 3, 8, 8])
    (group,) = graph.groups
    for ours, theirs in {"l1": "L1Norm", "l2": "L2Norm", "fpgm": "FPGM"}.items():
        partner = prepared(f"paddleslim.{theirs}FilterPruner", context)
        for width in range(1, 40):
            kept = Ranker(ours).rank(group, arrays).kept(width)
            assert kept == partner.rank(group, arrays).kept(width), (ours, width)


@pytest.fixture(scope="module")
def small() -> tuple[nn.Layer, ChannelGraph, Arrays, Context]:
    """A grouped and a transposed convolution, whose filters lie otherwise."""
    model = nn.Sequential(
        nn.Conv2D(3, 8, 3),
        nn.Conv2D(8, 8, 1, groups=2),
        nn.Conv2DTranspose(8, 6, 2),
        nn.Conv2D(6, 2, 1),
    )
    return (model, *traced(model, [1, 3, 8, 8]))


def test_a_pruner_of_ones_own(small: tuple[nn.Layer, ChannelGraph, Arrays, Context]) -> None:
    model, graph, arrays, context = small
    before = {name: array.copy() for name, array in arrays.items()}
    ranker = prepared(f"{__name__}:Inverted", context)
    assert len(graph.groups) == 3
    for group in graph.groups:
        kept = ranker.rank(group, arrays).kept(group.size - 1)
        root = group.root
        weight = np.moveaxis(np.abs(arrays[root.parameter]), root.axis, 0)[root.indices]
        largest = weight.reshape(group.size, -1).sum(axis=1).argmax()
        assert set(range(group.size)) - set(kept) == {int(largest)}, group.name
    assert not [name for name in model.state_dict() if "backup" in name]
    assert all(np.array_equal(arrays[name], array) for name, array in before.items())
    assert "source" in ranker.identity


@pytest.mark.parametrize(
    ("pruner", "message"),
    [
        ("TooMany", "was to keep 2 of 4 channels and keeps 4"),
        ("TooLong", "a mask for 3 channels instead of 4"),
        ("Broken", "failed with KeyError: 'no such thing'"),
    ],
)
def test_a_pruner_that_is_wrong(
    small: tuple[nn.Layer, ChannelGraph, Arrays, Context], pruner: str, message: str
) -> None:
    _, graph, arrays, context = small
    ranker = prepared(f"{__name__}:{pruner}", context)
    with pytest.raises(PruneError, match=f"{pruner}.*{message}"):
        ranker.rank(graph.groups[0], arrays).kept(2)


def test_numpy_without_product(
    small: tuple[nn.Layer, ChannelGraph, Arrays, Context], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As NumPy 2 is; and so it stays."""
    monkeypatch.delattr(np, "product", raising=False)
    _, graph, arrays, context = small
    partner = prepared("paddleslim.FPGMFilterPruner", context)
    kept = partner.rank(graph.groups[0], arrays).kept(2)
    assert kept == Ranker("fpgm").rank(graph.groups[0], arrays).kept(2)
    assert not hasattr(np, "product")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("paddleslim.FPGMPruner", 'did you mean "FPGMFilterPruner"'),
        ("paddleslim.FilterPruner", "is what they are derived from"),
        ("paddleslim.UnstructuredPruner", "It has FPGMFilterPruner, L1NormFilterPruner, L2"),
    ],
)
def test_pruners_that_are_none(name: str, message: str) -> None:
    with pytest.raises(PruneError, match=message):
        Ranker(name)


def test_our_sensitivities_are_theirs(tmp_path: Path) -> None:
    from paddleslim.prune import get_ratios_by_loss, load_sensitivities, merge_sensitive

    graph, _, names = _model()
    path = tmp_path / "sen.pickle"
    file, _ = open_sensitivity(path, {"model": "m"}, graph.groups, names)
    file.baseline = 0.9
    losses = ({0.25: 0.01, 0.5: 0.03}, {0.5: 0.2})
    for group, points in zip(graph.groups, losses, strict=True):
        file.points[group.name] = {ratio: Point(loss, 0.8, 5) for ratio, loss in points.items()}
    file.save()
    roots = [names[group.root.parameter] for group in graph.groups]
    expected = dict(zip(roots, losses, strict=True))
    assert load_sensitivities(str(path)) == expected
    other = {roots[1]: {0.75: 0.4}}
    assert merge_sensitive([load_sensitivities(str(path)), other])[roots[1]] == {
        0.5: 0.2,
        0.75: 0.4,
    }
    (tmp_path / "other.pickle").write_bytes(pickle.dumps(other))
    merged = merge_sensitive([str(path), str(tmp_path / "other.pickle")])
    assert merged[roots[0]] == losses[0]
    assert get_ratios_by_loss(merged, 0.02) == {roots[0]: pytest.approx(0.375), roots[1]: 0.0}


@pytest.mark.parametrize("kind", ["status", "dictionary", "old dictionary"])
def test_their_sensitivities_are_ours(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With NumPy's scalars in it, as ``FilterPruner.sensitive`` writes, and a layer that is not
    pruned."""
    graph, model, names = _model()
    path = tmp_path / "sen.pickle"
    root = names[graph.groups[0].root.parameter]
    content = {
        root: {round(ratio, 2): np.float64(ratio) / 10 for ratio in np.arange(0.1, 1, step=0.1)},
        names["2.weight"]: {0.5: np.float32(0.25)},
        names["3.weight"]: {0.5: 1.0},
    }
    if kind == "status":
        status = Status()
        status.sensitivies = content
        status.save(str(path))
    else:
        path.write_bytes(pickle.dumps(content, protocol=2 if kind == "old dictionary" else 4))
    monkeypatch.setattr(Status, "__init__", _must_not_run)
    monkeypatch.setattr(Status, "load", _must_not_run)
    assert load_pickle(path)[root][0.3] == pytest.approx(0.03)
    before = path.read_bytes()
    file, _ = open_sensitivity(path, {"model": "m"}, graph.groups, names)
    assert file.points[graph.groups[0].name][0.9].loss == pytest.approx(0.09)
    assert file.points[graph.groups[1].name] == {0.5: Point(0.25)}
    assert len(file.points) == 2
    file.save()
    assert (tmp_path / "sen.pickle.original").read_bytes() == before


def test_their_sensitivities_of_another_model_are_refused(tmp_path: Path) -> None:
    graph, _, names = _model()
    status = Status()
    status.sensitivies = {"conv2d_9999.w_0": {0.1: 0.2}}
    status.save(str(tmp_path / "sen.pickle"))
    with pytest.raises(PruneError, match="belongs to another model.*conv2d_9999.w_0"):
        open_sensitivity(tmp_path / "sen.pickle", {}, graph.groups, names)


def _must_not_run(*_: Any, **__: Any) -> None:
    raise AssertionError("PaddleSlim's code ran")


def _model() -> tuple[ChannelGraph, nn.Layer, dict[str, str]]:
    model = nn.Sequential(nn.Conv2D(3, 8, 1), nn.ReLU(), nn.Conv2D(8, 8, 1), nn.Conv2D(8, 2, 1))
    graph = build_graph(model, [([1, 3, 4, 4], "float32")])
    return graph, model, {name: tensor.name for name, tensor in model.named_parameters()}


_MODULE = """
from paddleslim.dygraph.prune import FPGMFilterPruner

class MyPruner(FPGMFilterPruner):
    pass
"""


def test_train_with_a_pruner_from_a_folder_on_the_path(cls_tools: Tools, tmp_path: Path) -> None:
    """Nothing of PaddleSlim is in the checkpoint."""
    (tmp_path / "my_module.py").write_text(_MODULE)
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    cls_tools.train(
        tmp_path,
        f"Global.pretrained_model={cls_tools.weights}",
        *("Prune.ratio=0.3", "Prune.round_to=1"),
        *("Prune.criterion=my_module:MyPruner", "Prune.bn_batches=0"),
        env={"PYTHONPATH": path},
    )
    plan = load_plan(tmp_path / "latest.prune.json")
    assert plan.criterion == "my_module:MyPruner" and len(plan.groups) > 20
    unpruned = read_shapes(Path(f"{cls_tools.weights}.pdparams"))
    assert set(read_shapes(tmp_path / "latest.pdparams")) == set(unpruned)
    optimizer = paddle.load(str(tmp_path / "latest.pdopt"))
    assert optimizer and not [name for name in optimizer if "backup" in name]
