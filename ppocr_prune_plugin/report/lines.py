"""Plain-text tables and the summary line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..alphabet import Alphabet
from ..graph.groups import ChannelGraph, ChannelGroup
from ..plan import Change, PruningPlan
from .data import Latency


def text_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Align columns: the first to the left, the others to the right."""
    widths = [max(len(row[k]) for row in [head, *rows]) for k in range(len(head))]

    def line(row: Sequence[str]) -> str:
        first = row[0].ljust(widths[0])
        rest = (cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))
        return "  ".join([first, *rest]).rstrip()

    return [line(head), "  ".join("-" * width for width in widths), *map(line, rows)]


def plan_table(
    groups: Sequence[ChannelGroup], plan: PruningPlan, losses: Mapping[str, float]
) -> list[str]:
    """Every prunable layer: channels before and after, ratio, predicted loss."""
    kept = plan.kept_channels()
    rows = []
    for group in groups:
        after = kept.get(group.name, group.size)
        loss = f"{losses[group.name]:.4f}" if group.name in losses else "-"
        ratio = 1 - after / group.size
        rows.append([group.name, str(group.size), str(after), f"{ratio:.2f}", loss])
    return text_table(["layer", "channels", "kept", "ratio", "predicted loss"], rows)


def feasibility_table(rows: Sequence[tuple[float, float | None]], counted: str) -> list[str]:
    """What each target would cost: rows (share of ``counted`` removed, predicted loss or None)."""
    said = [
        [f"{share:.0%}", "more than was measured" if loss is None else f"{loss:.4f}"]
        for share, loss in rows
    ]
    return text_table([f"{counted} to remove", "predicted loss"], said)


def frozen_lines(graph: ChannelGraph, training_only: Sequence[ChannelGroup]) -> list[str]:
    """What is not pruned, and why."""
    lines = [f"{f.name} ({f.channels} channels): {f.reason}" for f in graph.frozen]
    if training_only:
        names = ", ".join(group.name for group in training_only)
        lines.append(f"{names}: only training uses it, nothing is gained by pruning it")
    return lines


def summary(
    plan: PruningPlan,
    metric: str | None,
    before: float | None,
    after: float | None,
    beside: Mapping[str, tuple[float | None, float | None]] | None = None,
) -> str:
    """FLOPs and parameters before and after, the metric right after pruning, and what was counted
    beside it."""

    def change(name: str, value: Change) -> str:
        old, new = human(value.before), human(value.after)
        return f"{name} {old} -> {new} ({-value.pruned:+.1%})"

    parts = [change("FLOPs (MACs)", plan.flops), change("params", plan.params)]
    if metric is not None and after is not None:
        change_of = f"{before:.4f} -> " if before is not None else ""
        parts.append(f"{metric} {change_of}{after:.4f} right after pruning")
        pairs = (beside or {}).items()
        parts += [f"{name} {known(old)} -> {known(new)}" for name, (old, new) in pairs]
    return ", ".join(parts)


def characters_line(alphabet: Alphabet, plan: PruningPlan) -> str:
    """What a recogniser loses with its characters."""
    return (
        f"with Prune.characters {len(alphabet.lines)} of {alphabet.whole} characters stay: "
        + summary(plan, None, None, None)
    )


def known(value: float | None) -> str:
    """A figure, or that it is not known."""
    return "?" if value is None else f"{value:.4f}"


def latency_line(latency: Latency) -> str:
    """Latency before and after, as measured, and what had been predicted."""
    return (
        f"latency {latency.before:.4g} ms -> {latency.after:.4g} ms ({-latency.pruned:+.1%} "
        f"measured, {-latency.predicted_pruned:+.1%} predicted): {latency.how}"
    )


def human(number: float) -> str:
    """``1234567`` → ``1.235M``."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("K", 1e3)):
        if number >= size:
            return f"{number / size:.4g}{unit}"
    return f"{number:g}"
