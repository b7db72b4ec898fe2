"""Measure the curves: prune one group on the live model, evaluate, put it back."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence

import paddle
from tqdm import tqdm

from .. import surgery
from ..criteria import group_importance, kept_by_importance
from ..errors import PruneError
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import GroupPlan
from ..ratios.rounding import width_for_ratio
from ..recovery.batch_norm import BatchNormRecalibration
from .store import Point, SensitivityFile

Evaluate = Callable[[], float]
"""Evaluate the live model; the main metric, higher is better."""


def fingerprint(
    model: paddle.nn.Layer, criterion: str, metric: str, data: str, bn_batches: int
) -> dict[str, str]:
    """What a sensitivity file belongs to."""
    structure, weights = hashlib.sha256(), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        structure.update(f"{name}{array.shape}".encode())
        weights.update(array.tobytes())
    return {
        "model": structure.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "criterion": criterion,
        "metric": metric,
        "evaluation set": data,
        "bn_batches": str(bn_batches),
    }


def check_baseline(value: float, metric: str) -> None:
    """Refuse to measure losses against nothing.

    Raises:
        PruneError: the metric of the unpruned model is 0, negative or not a number.
    """
    if math.isfinite(value) and value > 0:
        return
    raise PruneError(
        f"the unpruned model has {metric} = {value:g} on the evaluation set, so no loss can be "
        "measured against it. The usual causes: Global.pretrained_model is not the trained model "
        "(or its weights did not match: see the warnings above), the Eval section names the wrong "
        "labels, or PostProcess thresholds do not fit."
    )


def planned_ratios(group: ChannelGroup, ratios: Sequence[float], round_to: int) -> dict[float, int]:
    """Ratio → width of the points to measure: those that rounding can choose, each once."""
    points: dict[float, int] = {}
    for ratio in ratios:
        width = width_for_ratio(group.size, ratio, round_to)
        if width < group.size:
            points[round(1 - width / group.size, 6)] = width
    return dict(sorted(points.items()))


def analyse(
    model: paddle.nn.Layer,
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    file: SensitivityFile,
    evaluate: Evaluate,
    images: int,
    criterion: str,
    ratios: Sequence[float],
    round_to: int,
    stop_loss: float,
    recalibration: BatchNormRecalibration,
) -> None:
    """Complete the curves of ``groups`` in ``file``, point by point.

    Ratios rise; a group is left when its loss exceeds ``stop_loss``: the points beyond are
    recorded as skipped. Every point is saved before the next one is begun, so that the same call
    goes on after an interruption.
    """
    todo = {group.name: planned_ratios(group, ratios, round_to) for group in groups}
    assert file.baseline is not None
    arrays = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    total = sum(len(points) for points in todo.values())
    with tqdm(total=total, desc="prune: sensitivity", unit="point") as bar:
        for group in groups:
            bar.set_postfix_str(group.name)
            done = file.points.setdefault(group.name, {})
            scores = None
            for ratio, width in todo[group.name].items():
                if any(p.loss > stop_loss for r, p in done.items() if r <= ratio):
                    if ratio not in done and ratio not in file.skipped.get(group.name, []):
                        file.skipped.setdefault(group.name, []).append(ratio)
                elif ratio not in done:
                    if scores is None:
                        scores = group_importance(group, arrays, criterion)
                    kept = kept_by_importance(scores, width)
                    undo = surgery.prune(
                        model, graph, [GroupPlan(group.name, group.size, kept, width)]
                    )
                    try:
                        metric = evaluate()
                    finally:
                        surgery.restore(model, undo)
                    loss = (file.baseline - metric) / file.baseline
                    done[ratio] = Point(loss if math.isfinite(loss) else 1.0, metric, images)
                    skipped = file.skipped.get(group.name, [])
                    if ratio in skipped:
                        skipped.remove(ratio)
                    file.save()
                bar.update()
        file.save()
