"""The report's charts, as SVG that takes its colours from the page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from .data import Layer

_WIDTH, _HEIGHT = 240, 132
_LEFT, _RIGHT, _TOP, _BOTTOM = 34, 8, 8, 18


@dataclass(frozen=True)
class Scale:
    """The losses at the lower and upper edge, the same for all curves of a report."""

    low: float
    high: float

    @staticmethod
    def of(layers: Sequence[Layer]) -> Scale:
        """From the losses of all points and their bounds, in steps of a tenth, not beyond -0.2 and
        1."""
        points = [point for layer in layers for point in layer.points]
        losses = [loss for point in points for loss in (point.loss, *(point.interval or ()))]
        high = min(1.0, max(0.1, math.ceil(max(losses, default=0.0) * 10 - 1e-9) / 10))
        low = max(-0.2, min(0.0, math.floor(min(losses, default=0.0) * 10 + 1e-9) / 10))
        return Scale(low, high)


def sensitivity_curve(layer: Layer, scale: Scale) -> str:
    """Loss over ratio: the measured points with their band of confidence, what was not measured,
    and the chosen ratio."""

    def x(ratio: float) -> float:
        return round(_LEFT + ratio * (_WIDTH - _LEFT - _RIGHT), 1)

    def y(loss: float) -> float:
        inside = min(max(loss, scale.low), scale.high)
        part = (scale.high - inside) / (scale.high - scale.low)
        return round(_TOP + part * (_HEIGHT - _TOP - _BOTTOM), 1)

    parts = []
    for ratio in (0.0, 0.5, 1.0):
        parts.append(_line("axis", x(ratio), y(scale.high), x(ratio), y(scale.low)))
        anchor = {0.0: "start", 1.0: "end"}.get(ratio, "middle")
        parts.append(_text(x(ratio), _HEIGHT - 4, anchor, f"{ratio:.0%}"))
    for loss in sorted({scale.low, 0.0, scale.high}):
        css = "zero" if loss == 0 else "axis"
        parts.append(_line(css, x(0), y(loss), x(1), y(loss)))
        if loss >= 0:  # the negative edge is too near to zero for a label of its own
            parts.append(_text(_LEFT - 5, y(loss) + 3.5, "end", f"{loss:.0%}"))

    corners = [(0.0, 0.0), *((point.ratio, point.loss) for point in layer.points)]
    path = " ".join(f"{x(ratio)},{y(loss)}" for ratio, loss in corners)
    last = corners[-1][0]
    if any(point.interval for point in layer.points):
        bounds = [
            (0.0, 0.0, 0.0),
            *((p.ratio, *(p.interval or (p.loss,) * 2)) for p in layer.points),
        ]
        upper = [f"{x(ratio)},{y(high)}" for ratio, _, high in bounds]
        lower = [f"{x(ratio)},{y(low)}" for ratio, low, _ in reversed(bounds)]
        parts.append(f'<polygon class="band" points="{" ".join(upper + lower)}"/>')
    else:
        parts.append(f'<polygon class="area" points="{x(0)},{y(0)} {path} {x(last)},{y(0)}"/>')
    parts.append(f'<polyline class="curve" points="{path}"/>')
    if layer.skipped:
        end = max(layer.skipped[-1], last)
        parts.append(_line("unmeasured", x(last), y(corners[-1][1]), x(end), y(corners[-1][1])))
    if layer.ratio > 0:
        at = x(layer.ratio)
        parts.append(_line("chosen-line", at, y(scale.high), at, y(scale.low)))
    for point in layer.points:
        said = f"ratio {point.ratio:.3g}: loss {point.loss:.2%}"
        if point.metric is not None:
            said += f", metric {point.metric:.4f}"
        if point.images is not None:
            said += f" on {point.images} images"
        if point.interval is not None:
            low, high = point.interval
            said += f"; on all of them {low:.2%} to {high:.2%} (99 of 100)"
            parts.append(_line("interval", x(point.ratio), y(low), x(point.ratio), y(high)))
        parts.append(_dot("dot", x(point.ratio), y(point.loss), 3.5, said))
    if layer.ratio > 0 and layer.predicted_loss is not None:
        said = f"chosen: ratio {layer.ratio:.3g}, predicted loss {layer.predicted_loss:.2%}"
        parts.append(_dot("chosen-dot", x(layer.ratio), y(layer.predicted_loss), 4.5, said))
    label = f"Sensitivity of {layer.name}: loss over the ratio removed"
    return (
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def channel_bar(layer: Layer, widest: int) -> str:
    """Channels before (the pale bar) and after (the full one), to the scale of the widest."""
    before = layer.channels / widest * 100
    after = layer.kept / widest * 100
    said = f"{layer.name}: {layer.channels} channels, {layer.kept} kept"
    return (  # hidden from screen readers: the row says the same in numbers
        '<svg viewBox="0 0 100 4" preserveAspectRatio="none" height="12" aria-hidden="true">'
        f"<title>{escape(said)}</title>"
        f'<rect class="track" x="0" y="0" width="{before:.2f}" height="4"/>'
        f'<rect class="full" x="0" y="0" width="{after:.2f}" height="4"/></svg>'
    )


def loss_bar(loss: float) -> str:
    """A loss as a bar from 0 to 100%."""
    width = min(max(loss, 0.0), 1.0) * 100
    css = "hot" if loss > 0.2 else "full"
    return (
        '<svg viewBox="0 0 100 4" preserveAspectRatio="none" height="10" aria-hidden="true">'
        '<rect class="track" x="0" y="0" width="100" height="4"/>'
        f'<rect class="{css}" x="0" y="0" width="{width:.2f}" height="4"/></svg>'
    )


def _line(css: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{css}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"/>'


def _text(x: float, y: float, anchor: str, text: str) -> str:
    return f'<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{escape(text)}</text>'


def _dot(css: str, x: float, y: float, radius: float, said: str) -> str:
    title = f"<title>{escape(said)}</title>"
    return f'<circle class="{css}" cx="{x}" cy="{y}" r="{radius}">{title}</circle>'
