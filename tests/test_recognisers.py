"""Removing channels of real recognisers and classifiers computes what it should, group by group."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import paddle
import pytest
from architectures import RECOGNISERS
from fixtures_networks import arrays_of, calibrate, prune_along, tensors_of, zeroed
from fixtures_topologies import is_read, partial_norms

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.checkpoint import infer_kept_channels
from ppocr_prune_plugin.graph.groups import ChannelGraph, build_graph
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.plan import GroupPlan

EXACT = 1e-8  # of the same sums in float64
_GRAPHS: dict[str, ChannelGraph] = {}  # of what :func:`built` builds, traced once


def built(name: str) -> tuple[paddle.nn.Layer, ChannelGraph]:
    """A model with random weights and the statistics of random images, and its groups."""
    from ppocr.modeling.architectures import build_model

    architecture, size = RECOGNISERS[name]
    paddle.seed(0)
    with paddle.utils.unique_name.guard():  # some layers name their parameters themselves
        model = build_model(copy.deepcopy(architecture))
    if name not in _GRAPHS:
        _GRAPHS[name] = build_graph(model, [((1, *size), "float32")])
    calibrate(model, paddle.to_tensor(images(3, size).astype("float32")))
    return model, _GRAPHS[name]


def images(batch: int, size: tuple[int, ...]) -> np.ndarray:
    return np.random.default_rng(batch).standard_normal((batch, *size))


def to_float64(model: paddle.nn.Layer) -> None:
    # The state of a recurrent layer's dropout is empty, which Paddle cannot cast.
    empty = [(layer, layer._buffers.pop("_dropout_state", None)) for layer in model.sublayers()]
    model.to(dtype="float64")
    for layer, state in empty:
        if state is not None:
            layer._buffers["_dropout_state"] = state


@pytest.mark.parametrize("name", RECOGNISERS)
def test_removing_equals_ignoring(tree: Path, name: str) -> None:
    """What is removed is what its readers ignore; layer norms normalise what is left."""
    use_tree(tree)
    model, graph = built(name)
    assert graph.unknown == {}
    # Dictionaries, and of recurrent layers the state, stay; of this SVTR what its code folds by a
    # list of widths; everything else is cut.
    reasons = {
        item.reason for item in graph.frozen if not item.reason.startswith("it is an output")
    }
    allowed = {"crnn": "keeps its hidden size", "svtr": "size in the model's code"}
    words = allowed.get(name.partition("_")[0])
    assert all(words is not None and words in reason for reason in reasons), reasons
    heads = {item.name for item in graph.attributes if item.name == "num_heads"}
    assert bool(heads) == ("svtr" in name or "vit" in name)
    to_float64(model)
    model.eval()
    image = paddle.to_tensor(images(1, RECOGNISERS[name][1]))

    def run() -> np.ndarray:
        with paddle.no_grad():
            return paddle.utils.flatten(model(image))[0].numpy()

    before, whole, random = arrays_of(model), run(), np.random.default_rng(2)
    for group in graph.groups:
        width = max(1, group.size // 2)
        kept = tuple(np.sort(random.choice(group.size, width, replace=False)).tolist())
        plan = GroupPlan(group.name, group.size, kept, width)
        every = [(member, plan.removed) for member in group.members]
        readers = [member for member in group.members if is_read(graph, member)]
        with partial_norms(model, every), zeroed(model, readers, plan.removed):
            ignored = run()
        undo = surgery.prune(model, graph, [plan])
        removed = run()
        shapes = {key: tuple(tensor.shape) for key, tensor in tensors_of(model).items()}
        surgery.restore(model, undo)
        assert np.abs(removed - ignored).max() < EXACT, group.name
        assert np.abs(removed - whole).max() > 1e3 * EXACT, group.name
        assert infer_kept_channels(graph, shapes) == {group.name: width}, group.name
    after = arrays_of(model)
    assert all(np.array_equal(array, after[key]) for key, array in before.items())
    assert np.array_equal(run(), whole)


@pytest.mark.parametrize("name", RECOGNISERS)
def test_a_pruned_recogniser_trains(tree: Path, name: str) -> None:
    """All groups at once: a step of Adam, whose accumulators exist already, changes the weights;
    the same widths in a fresh model take the weights and give the same output."""
    use_tree(tree)
    model, graph = built(name)
    size = RECOGNISERS[name][1]
    batch = paddle.to_tensor(images(2, size).astype("float32"))
    adam = paddle.optimizer.Adam(1e-4, parameters=model.parameters())

    def step() -> set[str]:
        """Names of the parameters that one step changes."""
        model.train()
        before = arrays_of(model)
        loss = paddle.utils.flatten(model(batch))[0].square().mean()
        loss.backward()
        adam.step()
        adam.clear_grad()
        assert np.isfinite(float(loss))
        names = dict(model.named_parameters())
        after = arrays_of(model)
        return {name for name in names if not np.array_equal(before[name], after[name])}

    whole = step()
    plans = [
        GroupPlan(g.name, g.size, tuple(range(0, g.size, 2)), -(-g.size // 2)) for g in graph.groups
    ]
    prune_along(model, graph, plans, adam)
    assert len(whole - step()) <= 0.05 * len(whole)  # a narrow layer's units may all be dead
    model.eval()
    out = paddle.utils.flatten(model(batch))[0].numpy()

    fresh, again = built(name)
    shapes = surgery.shapes_after(again, {plan.name: plan.kept_channels for plan in plans})
    surgery.resize(fresh, shapes, again)
    fresh.set_state_dict(model.state_dict())
    fresh.eval()
    assert np.array_equal(paddle.utils.flatten(fresh(batch))[0].numpy(), out)
