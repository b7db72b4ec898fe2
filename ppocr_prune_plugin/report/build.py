"""From the objects of a pruning run to the data of its report."""

from __future__ import annotations

import datetime
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence

import numpy as np
import paddle

from .. import __version__
from ..alphabet import Alphabet
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import PruningPlan
from ..ratios.targets import FLOPS
from ..section import PruneSection
from ..sensitivity.store import SensitivityFile
from .data import Characters, FrozenChannels, Latency, Layer, Point, Report


def build_report(
    graph: ChannelGraph,
    groups: Sequence[ChannelGroup],
    training_only: Sequence[ChannelGroup],
    section: PruneSection,
    target: str,
    value: float | Mapping[str, float],
    source: str,
    plan: PruningPlan,
    file: SensitivityFile | None = None,
    feasibility_of: str = FLOPS,
    alphabet: Alphabet | None = None,
    read: tuple[float | None, float | None] = (None, None),
    feasibility: Sequence[tuple[float, float | None]] = (),
    metric: str | None = None,
    before: float | None = None,
    after: float | None = None,
    beside: Mapping[str, tuple[float | None, float]] | None = None,
    images: int | None = None,
    spread: tuple[float, float] | None = None,
    latency: Latency | None = None,
    loss_of: str = "",
    files: Mapping[str, str] | None = None,
    versions: Mapping[str, str] | None = None,
) -> Report:
    """The report of a run.

    Args:
        graph: the unpruned network's channel groups.
        groups: those that could be pruned.
        training_only: those that only training uses.
        section: the section that asked for it.
        target: the key that said how much, and ``value`` what it said.
        source: where the section is written.
        plan: what was decided.
        file: the measured curves; None where nothing was measured.
        feasibility_of: what the target counts.
        alphabet: the characters that a recogniser was left with, and ``read`` the metric with the
            whole dictionary and with those (None: not known).
        feasibility: rows (share removed, predicted loss or None).
        metric: name of the main indicator, ``before`` and ``after`` its values on ``images``
            images, ``spread`` where the first would lie on other sets of as many, ``beside`` what
            else was counted then, by name: before (None: not known) and after.
        latency: where it was the target.
        loss_of: what losses are, where they are not shares of the metric.
        files: label → path, to be listed.
        versions: name → version, beside those of the plugin, Paddle, NumPy and Python.
    """
    return Report(
        criterion=plan.criterion,
        target=target,
        target_value=value,
        flops=plan.flops,
        params=plan.params,
        layers=tuple(_layer(group, plan, file) for group in groups),
        metric=metric,
        before=before,
        after=after,
        beside=dict(beside or {}),
        images=images,
        spread=spread,
        latency=latency,
        frozen=tuple(_frozen(graph, groups, training_only)),
        unknown=dict(graph.unknown),
        feasibility=tuple(feasibility),
        feasibility_of=feasibility_of,
        alphabet=None if alphabet is None else _characters(alphabet, *read),
        loss_of=loss_of,
        round_to=section.round_to,
        dry_run=section.dry_run,
        source=source,
        command=shlex.join(["python", *sys.argv]),
        created=datetime.datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
        files=dict(files or {}),
        versions={
            "ppocr-prune-plugin": __version__,
            **(versions or {}),
            "Paddle": str(paddle.__version__),
            "NumPy": np.__version__,
            "Python": f"{platform.python_version()} on {platform.system()} {platform.machine()}",
        },
    )


def _characters(alphabet: Alphabet, before: float | None, after: float | None) -> Characters:
    lines = tuple(dict.fromkeys(alphabet.lines))
    counts = alphabet.counts
    return Characters(
        len(alphabet.lines),
        alphabet.whole,
        alphabet.scripts,
        tuple((line, None if counts is None else counts.get(line, 0)) for line in lines),
        before,
        after,
    )


def _layer(group: ChannelGroup, plan: PruningPlan, file: SensitivityFile | None) -> Layer:
    kept = plan.kept_channels().get(group.name, group.size)
    points = sorted(file.points.get(group.name, {}).items()) if file is not None else []
    predicted = None
    if file is not None and points:
        predicted = float(file.curve(group.name).loss(1 - kept / group.size))
    return Layer(
        group.name,
        group.size,
        kept,
        predicted,
        tuple(Point(ratio, p.loss, p.metric, p.images, p.interval) for ratio, p in points),
        tuple(sorted(file.skipped.get(group.name, []))) if file is not None else (),
    )


def _frozen(
    graph: ChannelGraph, groups: Sequence[ChannelGroup], training_only: Sequence[ChannelGroup]
) -> list[FrozenChannels]:
    rows = [FrozenChannels(item.name, item.channels, item.reason) for item in graph.frozen]
    prunable = {group.name for group in groups}
    training = {group.name for group in training_only}
    for group in graph.groups:
        if group.name in training:
            reason = "only training uses it; nothing is gained by pruning it"
            rows.append(FrozenChannels(group.name, group.size, reason))
        elif group.name not in prunable:
            rows.append(FrozenChannels(group.name, group.size, "Prune.skip names it"))
    return rows
