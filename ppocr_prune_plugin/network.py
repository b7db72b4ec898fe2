"""A network that can be pruned: the live model with its channel groups and costs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from . import surgery
from .criteria import Ranker
from .errors import PruneError
from .graph.cost import CostModel, cost_model
from .graph.flow import AFFINE, IN
from .graph.groups import ChannelGraph, ChannelGroup, build_graph
from .graph.inference_mode import in_inference_mode, reparameterises
from .graph.live import tensors_in, untrained
from .graph.trace import is_spec, map_inputs
from .plan import GroupPlan, PruningPlan
from .ratios.uniform import matches, require_matches
from .section import PruneSection
from .structure import Change

# Of the span of an output. Branches that become one are summed in another order.
_REP_TOLERANCE = 1e-3
# Of noise, which is as good as any answer where it is larger.
_NOISE_MARGIN = 10.0


@dataclass(frozen=True)
class Network:
    """A model with what its graph says of it.

    ``inputs`` are what ``forward`` takes when deployed, ``training_inputs`` what it takes in
    training; ``unseen`` says what of the model could not be traced, and is therefore frozen.
    """

    model: paddle.nn.Layer
    inputs: Sequence[Any]
    training_inputs: Sequence[Any]
    graph: ChannelGraph
    costs: CostModel
    unseen: str = ""

    @property
    def training_only(self) -> list[ChannelGroup]:
        """Groups whose channels no deployed network produces."""
        return [group for group in self.graph.groups if not self._deployed(group)]

    @property
    def deployed(self) -> frozenset[str]:
        """Names of what inference mode computes with, all branches of what becomes one included."""
        makers = (
            member.parameter
            for group in self.graph.groups
            if self._deployed(group)
            for member in group.members
            if member.role != IN
        )
        return self.costs.deployed.union(makers)

    def _deployed(self, group: ChannelGroup) -> bool:
        return any(member.parameter in self.costs.deployed for member in group.members)

    def prunable(self, section: PruneSection, source: str) -> list[ChannelGroup]:
        """Groups that the section lets through.

        Raises:
            PruneError: a pattern matches nothing, or nothing is left.
        """
        groups = [group for group in self.graph.groups if self._deployed(group)]
        self.require_skipped(section.skip, source)
        if isinstance(section.ratio, Mapping):
            require_matches(section.ratio, groups, "Prune.ratio", source)
        left = [g for g in groups if not any(matches(g, pattern) for pattern in section.skip)]
        if not left:
            raise PruneError(
                f"{source}: nothing can be pruned: "
                + (
                    "Prune.skip leaves no layer."
                    if groups
                    else f"the network has no channel groups ({_reasons(self.graph)})."
                )
            )
        return left

    def require_skipped(self, skip: Sequence[str], source: str) -> None:
        """Raise :class:`PruneError` for a pattern of ``Prune.skip`` that names no layer; a layer
        that produces nothing that could be pruned may be named, as in lists for other tools."""
        groups = self.graph.groups
        carried = {m.layer for group in groups for m in group.members if m.role == AFFINE}
        layers = {
            name.rpartition(".")[0] for name, shape in self.graph.shapes.items() if len(shape) > 1
        }
        require_matches(skip, groups, "Prune.skip", source, layers - carried)


def _reasons(graph: ChannelGraph) -> str:
    return "; ".join(sorted({frozen.reason for frozen in graph.frozen})[:3]) or "no convolutions"


def inspect(
    model: paddle.nn.Layer,
    inputs: Sequence[Any],
    training_inputs: Sequence[Any] | None = None,
) -> Network:
    """Trace a model and find its groups and costs.

    Args:
        model: the network.
        inputs: what its ``forward`` takes when it is deployed: ``(shape, dtype)`` pairs for
            images, batch of one, and arrays for what else it needs.
        training_inputs: what it takes when it trains, where that is more (labels, as arrays).

    Raises:
        PruneError: the model cannot be traced.
    """
    training = inputs if training_inputs is None else training_inputs
    graph = build_graph(model, training)
    return Network(model, inputs, training, graph, cost_model(model, inputs, graph))


def make_plan(network: Network, widths: Mapping[str, int], ranker: Ranker) -> PruningPlan:
    """Choose which channels stay, by the criterion, on the weights that the model has now.

    Raises:
        PruneError: the criterion fails.
    """
    arrays = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
    items = []
    for group in network.graph.groups:
        width = widths.get(group.name, group.size)
        if width < group.size:
            kept = ranker.rank(group, arrays).kept(width)
            items.append(GroupPlan(group.name, group.size, kept, width))
    return plan_of(network, ranker.name, items)


def plan_of(network: Network, criterion: str, items: Sequence[GroupPlan]) -> PruningPlan:
    """A plan with its costs."""
    graph, costs = network.graph, network.costs
    after = surgery.shapes_after(graph, {item.name: item.kept_channels for item in items})
    structure = surgery.structure_of(
        graph,
        after,
        Change(costs.flops(graph.shapes), costs.flops(after)),
        Change(costs.params(graph.shapes), costs.params(after)),
    )
    return PruningPlan(criterion, tuple(items), structure.flops, structure.params, {"": structure})


def apply_checked(network: Network, plan: PruningPlan) -> surgery.Undo:
    """Prune the live model and run it: as it is deployed, same outputs in shape and finite
    numbers, before ``rep()`` as after it; as it trains, without an error.

    Raises:
        PruneError: the plan does not fit, or the pruned model does not run; it is put back.
    """
    before = run_once(network.model, network.inputs)
    undo = surgery.prune(network.model, network.graph, plan)
    try:
        after = run_once(network.model, network.inputs)
        problem = _difference(before, after)
        if not problem:
            run_training(network.model, network.training_inputs)
            problem = _rep_changes(network.model, network.inputs, after)
    except Exception as error:  # whatever the model's code raises
        problem = f"{type(error).__name__}: {str(error).strip().splitlines()[-1:]}"
    if problem:
        surgery.restore(network.model, undo)
        raise PruneError(
            f"the pruned model does not run as the unpruned one did ({problem}), so nothing was "
            "pruned. Some layer's code expects a fixed width: find it with Prune.skip."
        )
    return undo


def _difference(before: list[np.ndarray], after: list[np.ndarray]) -> str:
    old, new = [a.shape for a in before], [a.shape for a in after]
    if old != new:
        return f"outputs have the shapes {new} instead of {old}"
    if not all(np.isfinite(a).all() for a in after if a.dtype.kind == "f"):
        return "an output is not finite"
    return ""


def _rep_changes(model: paddle.nn.Layer, inputs: Sequence[Any], outputs: list[np.ndarray]) -> str:
    """What is wrong with the model after ``rep()``, which an export calls; it computes the same."""
    if not reparameterises(model):
        return ""
    changed = run_once(in_inference_mode(model), inputs)
    # What an input that is off by a rounding changes is noise: random networks multiply it.
    again = run_once(model, _nudged(random_inputs(inputs)))
    for before, after, noisy in zip(outputs, changed, again, strict=True):
        if before.shape != after.shape:
            return f"rep() changes the shape of an output from {before.shape} to {after.shape}"
        change, span = float(np.abs(before - after).max()), float(before.max() - before.min())
        noise = float(np.abs(before - noisy).max()) if before.shape == noisy.shape else np.inf
        if change > max(_REP_TOLERANCE * span, _NOISE_MARGIN * noise):
            return f"rep() changes an output by {change:.1e} (it spans {span:.1e})"
    return ""


def _nudged(arrays: Sequence[Any]) -> list[Any]:
    """The same off by about a rounding of a float32."""

    def shifted(item: Any) -> Any:
        if not isinstance(item, np.ndarray) or item.dtype.kind != "f":
            return item
        signs = np.sign(np.sin(np.arange(item.size))).reshape(item.shape)
        return (item * (1 + 1e-6 * signs)).astype(item.dtype)

    return list(map_inputs(list(arrays), shifted))


def random_inputs(inputs: Sequence[Any], seed: int = 0) -> list[Any]:
    """Random arrays for ``(shape, dtype)`` pairs, nested as they are; the same for the same seed.
    What is not such a pair stays.

    Images are pages of dark strokes in lines: on noise a text detector answers nothing, and two
    networks that say nothing agree whatever they are.
    """
    random = np.random.default_rng(seed)

    def array(item: Any) -> Any:
        if not is_spec(item):
            return item
        shape, dtype = tuple(item[0]), item[1]
        if len(shape) != 4:
            return random.standard_normal(shape).astype(dtype)
        return _strokes(shape, random).astype(dtype)

    return list(map_inputs(list(inputs), array))


def _strokes(shape: tuple[int, ...], random: np.random.Generator) -> np.ndarray:
    """A page ``[batch, channels, height, width]``, light is 2 and dark -2 (normalised pixels)."""
    height, width = shape[2:]
    page = 2 + 0.05 * random.standard_normal(shape)
    for top in range(min(8, height // 4), height - 4, 28):
        for left in np.flatnonzero(random.random(width // 3) < 0.5) * 3:
            page[:, :, top : top + random.integers(6, 15), left : left + 2] = -2
    return page


def run_once(model: paddle.nn.Layer, inputs: Sequence[Any]) -> list[np.ndarray]:
    """Outputs in evaluation mode on :func:`random_inputs` of the given shapes."""
    return [t.numpy() for t in tensors_in(_run(model, inputs, training=False))]


def run_training(model: paddle.nn.Layer, inputs: Sequence[Any]) -> list[tuple[int, ...]]:
    """Shapes of the outputs in training mode; running statistics are left as they were."""
    before = [(tensor, tensor.numpy()) for tensor in untrained(model).values()]
    try:
        return [tuple(t.shape) for t in tensors_in(_run(model, inputs, training=True))]
    finally:
        for tensor, array in before:
            tensor.set_value(array)


def _run(model: paddle.nn.Layer, inputs: Sequence[Any], training: bool) -> Any:
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.train() if training else model.eval()
    try:
        with paddle.no_grad():
            return model(*as_tensors(random_inputs(inputs)))
    finally:
        for layer, mode in modes:
            layer.training = mode


def as_tensors(inputs: Sequence[Any]) -> list[Any]:
    """Arrays as tensors, nested as they are; other things stay."""
    return list(
        map_inputs(list(inputs), lambda a: paddle.to_tensor(a) if isinstance(a, np.ndarray) else a)
    )
