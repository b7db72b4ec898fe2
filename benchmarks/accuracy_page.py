"""The page and the plots of :mod:`accuracy`: a metric over FLOPs and over milliseconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from accuracy_models import NAMES

from ppocr_prune_plugin.files import write_atomically

Cells = Mapping[str, Mapping[str, Any]]
_METRICS = {"det": "hmean", "rec": "acc", "cls": "acc"}
_TRAININGS = {
    "plain": "fine-tuned",
    "distill": "taught",
    "frozen": "fine-tuned with frozen batch norms",
}
_COLOURS = ("#1f6feb", "#bc4c00", "#1a7f37", "#8250df", "#cf222e", "#57606a")
_BEGIN, _END = "<!-- measured: begin -->", "<!-- measured: end -->"
_WIDTH, _HEIGHT = 420, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 28, 44


def write_page(cells: Cells, page: Path) -> None:
    """Write the tables between two marks of the page, which keeps its words, and the plots."""
    parts = []
    for kind, name in NAMES.items():
        own = [cell for cell in cells.values() if cell["kind"] == kind]
        if not own:
            continue
        parts += [f"## {name}", ""]
        for x, label in (("flops", "FLOPs removed"), ("ms", "milliseconds")):
            lines = list(_lines(own, kind, x))
            if not lines:
                continue
            image = page.parent / "images" / f"accuracy_{kind}_{x}.svg"
            image.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(image, _plot(lines, _METRICS[kind], label, _unpruned(own, kind)))
            parts += [f"![{_METRICS[kind]} over {label}](images/{image.name})"]
        parts += ["", *_table(own, kind), ""]
    text = page.read_text(encoding="utf-8") if page.exists() else f"{_BEGIN}\n{_END}\n"
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    write_atomically(page, "\n".join([before + _BEGIN, "", *parts, _END + after]))


def _method(cell: Mapping[str, Any]) -> str:
    """What a line of a plot stands for."""
    said = [cell["choice"], {"norms": "batch norms", "compensation": "compensated"}[cell["cure"]]]
    if (cell["criterion"], cell["by"]) != ("obs", "output"):
        said += [cell["criterion"]] + ([f"by {cell['by']}"] if cell["by"] != "output" else [])
    return ", ".join([*said, *_trained(cell)])


def _trained(cell: Mapping[str, Any]) -> list[str]:
    """The weights that a cell begins with, and its training, unless they are the plainest."""
    said = [] if cell["start"] == "released" else [f"from {cell['start']} weights"]
    if cell["train"] != "none":
        said.append(f"{_TRAININGS[cell['train']]} for {cell['epochs']} epochs at {cell['rate']:g}")
    return said


def _lines(
    cells: Sequence[Mapping[str, Any]], kind: str, x: str
) -> Iterator[tuple[str, list[tuple[float, float]]]]:
    """Methods with their points ``(x, metric)``, of the first draw of calibration images."""
    pruned = [cell for cell in cells if cell["share"] and not cell["draw"] and x in cell]
    for method in dict.fromkeys(map(_method, pruned)):
        own = [cell for cell in pruned if _method(cell) == method]
        yield method, sorted((cell[x], cell[_METRICS[kind]]) for cell in own)


def _unpruned(cells: Sequence[Mapping[str, Any]], kind: str) -> float | None:
    found = [c[_METRICS[kind]] for c in cells if not c["share"] and not _trained(c)]
    return found[0] if found else None


def _table(cells: Sequence[Mapping[str, Any]], kind: str) -> list[str]:
    known = (_METRICS[kind], "hmean at 0.7", "mean IoU", "lines read", "norm_edit_dis", "ms")
    figures = [name for name in known if any(name in cell for cell in cells)]
    rows = [
        f"| widths, cure, training | FLOPs removed | {' | '.join(figures)} |",
        f"|---|---:|{'---:|' * len(figures)}",
    ]

    def order(cell: Mapping[str, Any]) -> tuple[Any, ...]:
        order = (cell["train"] != "none", cell["start"] != "released", cell["train"])
        return (bool(cell["share"]), *order, cell["share"], cell["draw"], cell["choice"])

    for cell in sorted(cells, key=order):
        name = _method(cell) if cell["share"] else ", ".join(["**unpruned**", *_trained(cell)])
        if cell["draw"] and cell["start"] == "released":
            name += f", draw {cell['draw'] + 1}"
        shown = [f"{cell[figure]:.4g}" if figure in cell else "" for figure in figures]
        rows.append(f"| {name} | {cell['flops']:.1%} | {' | '.join(shown)} |")
    return rows


def _plot(
    lines: Sequence[tuple[str, list[tuple[float, float]]]],
    metric: str,
    label: str,
    unpruned: float | None,
) -> str:
    """An SVG with a line for each method, and a dashed one for the unpruned model."""
    xs = [x for _, points in lines for x, _ in points]
    ys = [y for _, points in lines for _, y in points] + ([unpruned] if unpruned else [])
    right, top, bottom = max(xs) * 1.05 or 1.0, max(ys) + 0.02, max(min(ys) - 0.02, 0.0)
    left = 0.0 if label.startswith("FLOPs") else min(xs) * 0.95

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) * (_WIDTH - _LEFT - _RIGHT)
        down = (top - y) / (top - bottom) * (_HEIGHT - _TOP - _BOTTOM)
        return _LEFT + across, _TOP + down

    height = _HEIGHT + 16 * len(lines)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" '
        f'viewBox="0 0 {_WIDTH} {height}" font-family="sans-serif" font-size="11">',
        f'<rect width="{_WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="{_LEFT}" y="16" font-weight="bold">{metric}</text>',
    ]
    for number in range(5):
        y = bottom + (top - bottom) * number / 4
        x = left + (right - left) * number / 4
        across, down = place(x, y)
        parts += [
            f'<path d="M{_LEFT} {down:.1f}H{_WIDTH - _RIGHT}" stroke="#d0d7de"/>',
            f'<text x="{_LEFT - 6}" y="{down + 4:.1f}" text-anchor="end">{y:.3f}</text>',
            f'<text x="{across:.1f}" y="{_HEIGHT - _BOTTOM + 16}" text-anchor="middle">'
            f"{f'{x:.0%}' if label.startswith('FLOPs') else f'{x:.1f}'}</text>",
        ]
    parts.append(f'<text x="{_WIDTH - _RIGHT}" y="{_HEIGHT - 10}" text-anchor="end">{label}</text>')
    if unpruned is not None:
        _, down = place(left, unpruned)
        parts.append(
            f'<path d="M{_LEFT} {down:.1f}H{_WIDTH - _RIGHT}" stroke="#24292f" '
            'stroke-dasharray="5 4"><title>unpruned</title></path>'
        )
    for number, (method, points) in enumerate(lines):
        colour = _COLOURS[number % len(_COLOURS)]
        placed = [place(x, y) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in placed)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for (x, y), (_, value) in zip(placed, points, strict=True):
            parts.append(
                f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}">'
                f"<title>{method}: {value:.4f}</title></circle>"
            )
        y = _HEIGHT + 16 * number
        parts += [
            f'<path d="M{_LEFT} {y}h18" stroke="{colour}" stroke-width="3"/>',
            f'<text x="{_LEFT + 24}" y="{y + 4}">{method}</text>',
        ]
    return "\n".join([*parts, "</svg>", ""])
