"""From trained weights to a pruned model: analysis, widths, plan, surgery, check.

Knows nothing of PaddleOCR: a model, an evaluation and a section go in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import paddle

from . import surgery
from .criteria import group_importance, kept_by_importance
from .errors import PruneError
from .graph.cost import CostModel, cost_model
from .graph.groups import ChannelGraph, ChannelGroup, build_graph
from .plan import Change, GroupPlan, PruningPlan
from .ratios.budget import Cost, Curve, widths_by_budget, widths_by_max_loss
from .ratios.feasibility import feasibility
from .ratios.rounding import width_for_ratio
from .ratios.uniform import matches, ratio_of, require_matches
from .report.collect import collect
from .report.html import write_report
from .recovery.batch_norm import BatchNormRecalibration
from .report.table import frozen_lines, plan_table, summary
from .section import PruneSection
from .sensitivity.analysis import analyse, check_baseline, fingerprint
from .sensitivity.store import SensitivityFile, open_sensitivity

# How much loss a layer may show by itself before a budget stops looking at it; each next one is
# used only where the ones before do not leave enough to prune.
_STOP_LOSSES = (0.3, 0.7, float("inf"))


class Evaluation(Protocol):
    """Evaluates the live model on a fixed set of images."""

    metric: str
    images: int
    data: str

    def __call__(self) -> float:
        """The main metric; higher is better."""


@dataclass(frozen=True)
class Network:
    """A model with what its graph says of it."""

    model: paddle.nn.Layer
    inputs: Sequence[Any]
    graph: ChannelGraph
    costs: CostModel

    @property
    def training_only(self) -> list[ChannelGroup]:
        """Groups whose channels no deployed network produces."""
        return [group for group in self.graph.groups if not self._deployed(group)]

    def _deployed(self, group: ChannelGroup) -> bool:
        return any(member.parameter in self.costs.deployed for member in group.producers)

    def prunable(self, section: PruneSection, source: str) -> list[ChannelGroup]:
        """Groups that the section lets through.

        Raises:
            PruneError: a pattern matches nothing, or nothing is left.
        """
        groups = [group for group in self.graph.groups if self._deployed(group)]
        require_matches(section.skip, self.graph.groups, "Prune.skip", source)
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


def _reasons(graph: ChannelGraph) -> str:
    return "; ".join(sorted({frozen.reason for frozen in graph.frozen})[:3]) or "no convolutions"


def inspect(model: paddle.nn.Layer, inputs: Sequence[Any], fused: Sequence[str] = ()) -> Network:
    """Trace a model and find its groups and costs.

    Args:
        model: the network.
        inputs: what its ``forward`` takes: ``(shape, dtype)`` pairs, batch of one.
        fused: layers whose parallel convolutions become one on export.

    Raises:
        PruneError: the model cannot be traced.
    """
    return Network(model, inputs, build_graph(model, inputs), cost_model(model, inputs, fused))


def make_plan(network: Network, widths: Mapping[str, int], criterion: str) -> PruningPlan:
    """Choose which channels stay, by the criterion, on the weights that the model has now."""
    arrays = {name: tensor.numpy() for name, tensor in network.model.state_dict().items()}
    items = []
    for group in network.graph.groups:
        width = widths.get(group.name, group.size)
        if width < group.size:
            kept = kept_by_importance(group_importance(group, arrays, criterion), width)
            items.append(GroupPlan(group.name, group.size, kept, width))
    return plan_of(network, criterion, items)


def plan_of(network: Network, criterion: str, items: Sequence[GroupPlan]) -> PruningPlan:
    """A plan with its costs."""
    graph, costs = network.graph, network.costs
    after = surgery.shapes_after(graph, {item.name: item.kept_channels for item in items})
    return PruningPlan(
        criterion,
        tuple(items),
        Change(costs.flops(graph.shapes), costs.flops(after)),
        Change(costs.params(graph.shapes), costs.params(after)),
    )


def prune_model(
    network: Network,
    section: PruneSection,
    source: str,
    evaluation: Callable[[], Evaluation] | None,
    folder: Path,
    logger: logging.Logger,
    optimizer: paddle.optimizer.Optimizer | None = None,
    versions: Mapping[str, str] | None = None,
) -> PruningPlan:
    """Do what the section asks for; with ``dry_run`` the model is left as it is.

    Args:
        network: the model with its trained weights.
        section: the valid section.
        source: where it is written, for messages.
        evaluation: makes the evaluation; None where there is no evaluation set.
        calibration: each runs one training batch through the model, to re-estimate batch norms.
        folder: for the sensitivity file and the plan.
        logger: PaddleOCR's.
        optimizer: its accumulators are cut along.
        versions: of the caller's software, for the report.

    Raises:
        PruneError: the target cannot be reached, files do not fit, or the pruned model fails.
    """
    groups = network.prunable(section, source)
    for line in frozen_lines(network.graph, network.training_only):
        logger.info(f"prune: kept whole: {line}")
    for op, count in network.graph.unknown.items():
        logger.warning(f"prune: operation {op} ({count}x) has no rule; what reaches it is kept")
    needs_analysis = section.target[0] != "ratio"
    if evaluation is None and needs_analysis:
        raise PruneError(
            f"{source}: Prune.{section.target[0]} needs an evaluation set to measure sensitivity, "
            "and Eval is empty. Fill the Eval section, or prune by Prune.ratio."
        )
    measured = evaluation() if evaluation is not None else None
    baseline: float | None = None
    file: SensitivityFile | None = None
    losses: dict[str, float] = {}
    if needs_analysis:
        assert measured is not None
        file = _open_file(network, groups, section, measured, folder)
        if file.baseline is None:
            logger.info(f"prune: evaluate the unpruned model on {measured.images} images")
            file.baseline = measured()
        baseline = file.baseline
        check_baseline(baseline, measured.metric)
        logger.info(f"prune: {measured.metric} of the unpruned model: {baseline:.4f}")
        widths = _widths_by_curves(network, groups, section, file, measured, logger)
        losses = {
            g.name: float(file.curve(g.name).loss(1 - widths.get(g.name, g.size) / g.size))
            for g in groups
        }
    else:
        assert section.ratio is not None
        widths = {
            g.name: width_for_ratio(g.size, ratio_of(g, section.ratio), section.round_to)
            for g in groups
        }
        if measured is not None:
            baseline = measured()
    plan = make_plan(network, widths, section.criterion)
    plan.save(folder / "plan.prune.json")
    for line in plan_table(groups, plan, losses):
        logger.info(line)
    undo = apply_checked(network, plan, None if section.dry_run else optimizer)
    after = measured() if measured is not None else None
    metric = measured.metric if measured is not None else None
    logger.info(f"prune: {summary(plan, metric, baseline, after)}")
    report = collect(
        network.graph, groups, network.training_only, section, source, plan, file,
        feasibility=_feasibility(network, groups, section, file),
        metric=metric, before=baseline, after=after,
        images=measured.images if measured is not None else None,
        files={
            "Plan": str(folder / "plan.prune.json"),
            "Sensitivity": str(file.path) if file is not None else "",
        },
        versions=versions,
    )  # fmt: skip
    logger.info(f"prune: report in {write_report(report, folder)}")
    if section.dry_run:
        surgery.restore(network.model, undo)
    return plan


def _feasibility(
    network: Network,
    groups: Sequence[ChannelGroup],
    section: PruneSection,
    file: SensitivityFile | None,
) -> list[tuple[float, float | None]]:
    if file is None:
        return []
    sizes = {group.name: group.size for group in network.graph.groups}
    curves = {group.name: file.curve(group.name) for group in groups}
    costs = network.costs
    count = costs.params if section.target[0] == "pruned_params" else costs.flops

    def cost(widths: Mapping[str, int]) -> int:
        return count(surgery.shapes_after(network.graph, widths))

    return feasibility(curves, sizes, cost, section.round_to)


def _open_file(
    network: Network,
    groups: Sequence[ChannelGroup],
    section: PruneSection,
    evaluation: Evaluation,
    folder: Path,
) -> SensitivityFile:
    path = Path(section.sensitivity.file) if section.sensitivity.file else folder / "sen.pickle"
    names = {structured: tensor.name for structured, tensor in network.model.named_parameters()}
    belongs = fingerprint(network.model, section.criterion, evaluation.metric, evaluation.data)
    return open_sensitivity(path, belongs, groups, names)


def _widths_by_curves(
    network: Network,
    groups: Sequence[ChannelGroup],
    section: PruneSection,
    file: SensitivityFile,
    evaluation: Evaluation,
    logger: logging.Logger,
) -> dict[str, int]:
    key, value = section.target
    assert isinstance(value, float)
    sizes = {group.name: group.size for group in network.graph.groups}

    def measure(stop_loss: float) -> dict[str, Curve]:
        logger.info(
            f"prune: sensitivity of {len(groups)} layers on {evaluation.images} images, "
            f"each until its loss exceeds {stop_loss:g}; kept in {file.json_path}"
        )
        analyse(
            network.model, network.graph, groups, file, evaluation, evaluation.images,
            section.criterion, section.sensitivity.ratios, section.round_to, stop_loss,
        )  # fmt: skip
        return {group.name: file.curve(group.name) for group in groups}

    if key == "max_loss":
        chosen = {group.name: group.size for group in groups}
        return widths_by_max_loss(measure(value), chosen, value, section.round_to)
    of_shapes = network.costs.flops if key == "pruned_flops" else network.costs.params

    def cost(widths: Mapping[str, int]) -> int:
        return of_shapes(surgery.shapes_after(network.graph, widths))

    _check_reachable(groups, section, cost, key, value)
    for stop_loss in _STOP_LOSSES:
        curves = measure(stop_loss)
        try:
            return widths_by_budget(curves, sizes, cost, value, section.round_to, key)
        except PruneError as error:
            if stop_loss == _STOP_LOSSES[-1]:
                raise
            logger.info(f"prune: {key} {value:g} is out of reach so far ({error}); look further")
    raise AssertionError("unreachable")


def _check_reachable(
    groups: Sequence[ChannelGroup], section: PruneSection, cost: Cost, key: str, share: float
) -> None:
    """Before hours of measuring: can the target be reached at all?"""
    deepest = section.sensitivity.ratios[-1]
    curves = {group.name: Curve((deepest,), (0.0,)) for group in groups}
    sizes = {group.name: group.size for group in groups}
    widths_by_budget(curves, sizes, cost, share, section.round_to, key)


def apply_checked(
    network: Network, plan: PruningPlan, optimizer: paddle.optimizer.Optimizer | None = None
) -> surgery.Undo:
    """Prune the live model and run it once: same outputs in shape, finite numbers.

    Raises:
        PruneError: the plan does not fit, or the pruned model does not run; it is put back.
    """
    before = run_once(network.model, network.inputs)
    undo = surgery.prune(network.model, network.graph, plan, optimizer)
    try:
        after = run_once(network.model, network.inputs)
        problem = _difference(before, after)
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


def run_once(model: paddle.nn.Layer, inputs: Sequence[Any], seed: int = 0) -> list[np.ndarray]:
    """Outputs in evaluation mode on a random input with the given shapes."""
    random = np.random.default_rng(seed)

    def tensor(item: Any) -> Any:
        if isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str):
            return paddle.to_tensor(random.standard_normal(tuple(item[0])).astype(item[1]))
        return [tensor(inner) for inner in item]

    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.eval()
    try:
        with paddle.no_grad():
            outputs = model(*[tensor(item) for item in inputs])
    finally:
        for layer, mode in modes:
            layer.training = mode
    return [t.numpy() for t in paddle.utils.flatten(outputs) if isinstance(t, paddle.Tensor)]
