"""From a model built by PaddleOCR to a network that can be pruned.

The model is traced as it trains, on a made-up batch with labels (:mod:`.inputs`), so that what only
training uses is coupled too. Where its code asks labels for their values Paddle cannot trace that,
and less of it is tried, always in this order, so that groups are the same wherever they are worked
out:

1. without the head, as it trains. The head reads what comes before it and nothing else, so that
   keeping that whole, as an output, keeps the head right;
2. as it is deployed. A network that trains may use channels in other ways, so the groups are only
   taken if, cut by one channel each, the model still runs as it trains.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle

from ... import surgery
from ...errors import PruneError
from ...graph.cost import CostModel, cost_model
from ...graph.groups import ChannelGraph, build_graph
from ...network import Network, run_training
from ...plan import GroupPlan
from .inputs import Inputs, built_to_train, example_inputs, training_inputs


def network_of(config: Mapping[str, Any], model: paddle.nn.Layer) -> Network:
    """Trace a model built by PaddleOCR.

    Raises:
        PruneError: neither the model nor the part before its head can be traced.
    """
    deployed, training = example_inputs(config), training_inputs(config)
    with built_to_train(model):
        graph, unseen = _graph(model, deployed, training)
    costs = _costs(model, deployed, graph)
    return Network(model, deployed, training, graph, costs, unseen)


def _graph(model: paddle.nn.Layer, deployed: Inputs, training: Inputs) -> tuple[ChannelGraph, str]:
    """The groups, and what was left out of them."""
    try:
        return build_graph(model, training), ""
    except PruneError as error:
        first = error
    if _has_head(model):
        try:
            with _without_head(model):
                graph = build_graph(model, training)
            head = type(model.head).__name__
            return graph, f"{head} cannot be traced as it trains; it is frozen. {first}"
        except PruneError:
            pass
    try:
        graph = build_graph(model, deployed, training=False)
        _require_training(model, graph, training)
    except PruneError:
        raise first from None
    return graph, f"only what the deployed model uses is pruned. {first}"


def _require_training(model: paddle.nn.Layer, graph: ChannelGraph, inputs: Inputs) -> None:
    """Raise PruneError unless the model trains with one channel less in every group."""
    items = [
        GroupPlan(group.name, group.size, tuple(range(group.size - 1)), group.size - 1)
        for group in graph.groups
    ]
    undo = surgery.prune(model, graph, items)
    try:
        run_training(model, inputs)
    except Exception as error:
        raise PruneError(f"training uses its channels otherwise: {type(error).__name__}") from error
    finally:
        surgery.restore(model, undo)


def _costs(model: paddle.nn.Layer, deployed: Inputs, graph: ChannelGraph) -> CostModel:
    """Costs of the deployed model, without those of a head that cannot be traced."""
    try:
        return cost_model(model, deployed, graph)
    except PruneError:
        if not _has_head(model):
            raise
    with _without_head(model):
        return cost_model(model, deployed, graph)


def _has_head(model: paddle.nn.Layer) -> bool:
    return bool(getattr(model, "use_head", False)) and hasattr(model, "head")


@contextmanager
def _without_head(model: Any) -> Iterator[None]:
    """PaddleOCR's ``BaseModel`` returns what its head would read when it has none."""
    model.use_head = False
    try:
        yield
    finally:
        model.use_head = True
