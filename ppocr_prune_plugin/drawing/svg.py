"""Channel groups as one SVG file that needs nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from ..graph.flow import AFFINE, IN, OUT
from .layout import Layout, place
from .scene import Box, ChannelMap, DrawnLayer, Scene

WORDS = {OUT: "makes the channels", AFFINE: "carries them along", IN: "reads them"}
_FILLS = {OUT: ("#dbe9f8", "#2563a8"), AFFINE: ("#f1f3f6", "#8a96a6"), IN: ("#fdeadc", "#c2560c")}
_MARGIN, _PAD, _ROUND = 24.0, 10.0, 34.0
_NAME, _TEXT, _BAR = 17.0, 15.0, 9.0  # heights
_NAME_WIDTH, _TEXT_WIDTH = 7.3, 6.3  # of a character, at most
_BAR_WIDTH = 150.0
_STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,'Noto Sans',sans-serif;"
    "fill:#1c2430}"
    ".name{font:600 12px ui-monospace,'SF Mono',Menlo,Consolas,'DejaVu Sans Mono',monospace}"
    ".kind{font-size:11px;fill:#46505f}.title{font-size:17px;font-weight:650}"
    ".note{font-size:12px;fill:#46505f}.sign{font-size:15px;text-anchor:middle}"
    ".flow{fill:none;stroke:#46505f;stroke-width:1.4}.other{stroke-dasharray:4 4;stroke:#98a3b3}"
)


def draw(scenes: Sequence[Scene], description: str) -> str:
    """The scenes one below the other.

    Args:
        scenes: what to draw.
        description: what the image shows, for those who do not see it.
    """
    y, width, parts = _MARGIN, 560.0, []
    for scene in scenes:
        drawn, (own_width, height) = _scene(scene, y)
        parts.append(drawn)
        width, y = max(width, own_width), y + height + 2 * _MARGIN
    parts.append(_legend(y))
    y += 24.0
    w, h = f"{width + 2 * _MARGIN:.0f}", f"{y + _MARGIN / 2:.0f}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {w} {h}" width="{w}" height="{h}" '
        f'role="img" aria-labelledby="title desc">\n<title id="title">'
        f"{escape('; '.join(scene.title for scene in scenes[:3]))}</title>\n"
        f'<desc id="desc">{escape(description)}</desc>\n<style>{_STYLE}</style>\n<defs>'
        '<marker id="end" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0L8 4L0 8z" fill="#46505f"/></marker></defs>\n'
        f'<rect width="{w}" height="{h}" fill="#fff"/>\n' + "\n".join(parts) + "\n</svg>\n"
    )


def _scene(scene: Scene, top: float) -> tuple[str, tuple[float, float]]:
    """A scene at the left margin, and its width and height."""
    sizes = [_size(box) for box in scene.boxes]
    layout = place(sizes, [(arrow.start, arrow.end) for arrow in scene.arrows])
    head = 22.0 + 17.0 * len(scene.notes) + 12.0
    parts = [_text("title", _MARGIN, top + 16, scene.title)]
    parts += [
        _text("note", _MARGIN, top + 34 + 17 * index, note)
        for index, note in enumerate(scene.notes)
    ]
    parts.append(f'<g transform="translate({_MARGIN:.0f} {top + head:.0f})">')
    parts += [_arrow(layout, sizes, number, scene) for number in range(len(scene.arrows))]
    for box, size, centre in zip(scene.boxes, sizes, layout.centres, strict=True):
        parts.append(_box(box, size, centre))
    parts.append("</g>")
    words = max((len(scene.title) * 9.0, *(len(note) * 6.5 for note in scene.notes)))
    return "\n".join(parts), (max(layout.width, words), head + layout.height)


def _size(box: Box) -> tuple[float, float]:
    if not box.layers:
        return max(_ROUND, len(box.sign) * 8.0 + 16), _ROUND
    inner = max(
        max(
            len(layer.name) * _NAME_WIDTH,
            len(layer.kind) * _TEXT_WIDTH,
            *(_BAR_WIDTH + 8 + len(item.words) * _TEXT_WIDTH for item in _shown(layer)),
        )
        for layer in box.layers
    )
    height = sum(_NAME + _TEXT + _TEXT * len(_shown(layer)) + 5 for layer in box.layers)
    return inner + 2 * _PAD, height + 2 * _PAD - 8


def _shown(layer: DrawnLayer) -> list[ChannelMap]:
    """Channel maps with a bar: all but those of layers that carry just these channels along."""
    return [item for item in layer.maps if item.role != AFFINE or not item.whole]


def _box(box: Box, size: tuple[float, float], centre: tuple[float, float]) -> str:
    width, height = size
    left, top = centre[0] - width / 2, centre[1] - height / 2
    if not box.layers:
        return (
            f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" '
            f'rx="{height / 2:.1f}" fill="#fff" stroke="#46505f"/>'
            + _text("sign", centre[0], centre[1] + 5, box.sign)
        )
    fill, line = _FILLS[box.role]
    parts = [
        f'<rect x="{left:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}" rx="7" '
        f'fill="{fill}" stroke="{line}" stroke-width="1.3"/>'
    ]
    y = top + _PAD - 3
    for layer in box.layers:
        parts.append(_text("name", left + _PAD, y + 13, layer.name))
        y += _NAME
        parts.append(_text("kind", left + _PAD, y + 11, layer.kind))
        y += _TEXT
        for item in _shown(layer):
            parts.append(_bar(item, left + _PAD, y + 3))
            parts.append(_text("kind", left + _PAD + _BAR_WIDTH + 8, y + 11, item.words))
            y += _TEXT
        y += 5
    return "".join(parts)


def _bar(item: ChannelMap, x: float, y: float) -> str:
    """An axis, with the places of the group's channels filled."""
    scale = _BAR_WIDTH / item.size
    parts = [
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{_BAR_WIDTH:.1f}" height="{_BAR}" fill="#fff" '
        'stroke="#98a3b3" stroke-width="0.8"/>'
    ]
    parts += [
        f'<rect x="{x + first * scale:.2f}" y="{y:.1f}" width="{(last - first + 1) * scale:.2f}" '
        f'height="{_BAR}" fill="{_FILLS[item.role][1]}"/>'
        for first, last in item.runs
    ]
    return "".join(parts)


def _arrow(layout: Layout, sizes: Sequence[tuple[float, float]], number: int, scene: Scene) -> str:
    arrow = scene.arrows[number]
    x, y = layout.centres[arrow.start]
    path = [f"M{x:.1f} {y + sizes[arrow.start][1] / 2:.1f}V{layout.rows[arrow.start][1]:.1f}"]
    y = layout.rows[arrow.start][1]
    # Bends lie between rows only, so that none runs into a box.
    end_x, end_y = layout.centres[arrow.end]
    last = (end_x, layout.rows[arrow.end][0] - 2, end_y - sizes[arrow.end][1] / 2 - 2)
    for next_x, top, bottom in (*layout.paths[number], last):
        half = (y + top) / 2
        path.append(f"C{x:.1f} {half:.1f} {next_x:.1f} {half:.1f} {next_x:.1f} {top:.1f}")
        if bottom > top:
            path.append(f"V{bottom:.1f}")
        x, y = next_x, bottom
    css = "flow" if arrow.direct else "flow other"
    return f'<path class="{css}" d="{"".join(path)}" marker-end="url(#end)"/>'


def _legend(y: float) -> str:
    parts, x = [], _MARGIN
    for role, words in WORDS.items():
        fill, line = _FILLS[role]
        parts.append(
            f'<rect x="{x:.0f}" y="{y:.0f}" width="13" height="13" rx="3" fill="{fill}" '
            f'stroke="{line}"/>' + _text("note", x + 19, y + 11, words)
        )
        x += 34 + len(words) * 6.4
    parts.append(
        f'<path class="flow other" d="M{x:.0f} {y + 7:.0f}h26"/>'
        + _text("note", x + 32, y + 11, "through other channels")
    )
    return "".join(parts)


def _text(css: str, x: float, y: float, text: str) -> str:
    return f'<text class="{css}" x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
