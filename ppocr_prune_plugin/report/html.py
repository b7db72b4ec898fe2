"""The report as one HTML file that needs nothing else: no fonts, no network, and no script but a
small one of its own, which sorts and searches where there are many layers.

Tables have captions and row headings, charts a table of their values below them, and what scrolls
takes the keyboard's focus, so that the page can be read without a pointer and without seeing it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path

import numpy as np

from .. import documents
from ..files import write_atomically
from ..plan import Change
from .data import Characters, Latency, Layer, Report
from .lines import human, known
from .script import POLICY, SCRIPT
from .style import CSS
from .svg import Scale, channel_bar, loss_bar, sensitivity_curve

# More layers than these can be sorted and searched.
_MANY = 30


def write_report(report: Report, folder: Path) -> Path:
    """Write ``report.json`` and ``report.html`` into a folder; the path of the latter.

    Each file is complete or as it was before.
    """
    documents.write(folder / "report.json", report.as_dict())
    path = folder / "report.html"
    write_page(report, path)
    return path


def write_page(report: Report, path: Path) -> None:
    """Write the report as HTML; what UTF-8 cannot hold (half a character, in the name of a file)
    is shown as an escape."""
    write_atomically(path, render(report).encode("utf-8", "backslashreplace"))


def render(report: Report) -> str:
    """The report as HTML; all text from the data is escaped."""
    title = "Pruning report"
    parts = [
        _header(report),
        _alphabet(report.alphabet, report.metric),
        _feasibility(report),
        _channels(report),
        _curves(report),
        _frozen(report),
        _made(report),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{title}</title>\n<style>{CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(part for part in parts if part)
        + "\n</main>\n"
        + (f"<script>{SCRIPT}</script>\n" if _is_long(report) else "")
        + "</body>\n</html>\n"
    )


def _is_long(report: Report) -> bool:
    return len(report.layers) > _MANY


def _header(report: Report) -> str:
    narrowed = [layer for layer in report.layers if layer.kept < layer.channels]
    how = f"target <code>{escape(report.target)}</code> {_target(report.target_value)}"
    dry = " This was a dry run: nothing was trained." if report.dry_run else ""
    tiles = [_change_tile("FLOPs (MACs)", report.flops), _change_tile("Parameters", report.params)]
    if report.latency is not None:
        tiles.append(_latency_tile(report.latency))
    if report.metric is not None and report.before is not None:
        tiles.append(_metric_tile(report.metric, report.before, report))
    return (
        "<header><h1>Pruning report</h1>"
        f"<p>{len(narrowed)} of {len(report.layers)} prunable layers lost filters: "
        f"criterion <code>{escape(report.criterion)}</code>, {how}.{dry}</p>"
        f'<p class="muted">{_breakable(report.source)}</p>'
        f'<div class="tiles">{"".join(tiles)}</div></header>'
    )


def _target(value: float | Mapping[str, float]) -> str:
    if not isinstance(value, Mapping):
        return escape(f"{value:g}")
    return ", ".join(f"<code>{escape(name)}</code> {ratio:g}" for name, ratio in value.items())


def _change_tile(name: str, change: Change) -> str:
    left = 1 - change.pruned
    return (
        f'<div class="tile"><div class="label">{name}</div>'
        f'<div class="big good">{"&minus;" if change.pruned else ""}{change.pruned:.1%}</div>'
        f"<div>{human(change.before)} &rarr; {human(change.after)}</div>"
        f'<div class="meter"><i style="width:{left:.1%}"></i></div></div>'
    )


def _latency_tile(latency: Latency) -> str:
    left = min(max(latency.after / latency.before, 0.0), 1.0)
    sign, css = ("&minus;", "good") if latency.pruned >= 0 else ("+", "warn")
    return (
        '<div class="tile"><div class="label">Latency, measured</div>'
        f'<div class="big {css}">{sign}{abs(latency.pruned):.1%}</div>'
        f"<div>{latency.before:.4g} &rarr; {latency.after:.4g} ms; predicted "
        f"{latency.predicted:.4g} ms</div>"
        f'<div class="meter"><i style="width:{left:.1%}"></i></div>'
        f'<div class="muted">{escape(latency.how)}</div></div>'
    )


def _metric_tile(metric: str, before: float, report: Report) -> str:
    after = report.after
    on = f" on {report.images} images" if report.images is not None else ""
    noise = ""
    if report.spread is not None:
        low, high = report.spread
        noise = (
            f'<div class="muted">On 95 of 100 other sets of as many images the unpruned model '
            f"would have {low:.4f} to {high:.4f}: smaller differences are noise.</div>"
        )
    if after is None:
        return (
            f'<div class="tile"><div class="label">{escape(metric)}{on}</div>'
            f'<div class="big">{before:.4f}</div><div>before pruning</div>{noise}</div>'
        )
    left = min(max(after / before, 0.0), 1.0) if before else 0.0
    css = "good" if left > 0.95 else "warn" if left < 0.5 else ""
    return (
        f'<div class="tile"><div class="label">{escape(metric)}{on}</div>'
        f'<div class="big {css}">{after:.4f}</div>'
        f"<div>right after pruning; {before:.4f} before</div>"
        f'<div class="meter"><i style="width:{left:.1%}"></i></div>{_beside(report)}{noise}</div>'
    )


def _beside(report: Report) -> str:
    """What was counted beside the metric, a line each."""
    return "".join(
        f"<div>{escape(name)}: {known(after)}; {known(before)} before</div>"
        for name, (before, after) in report.beside.items()
    )


def _alphabet(found: Characters | None, metric: str | None) -> str:
    """What a recogniser can write, and how often the labels have it."""
    if found is None:
        return ""
    scripts = ", ".join(f"{count} {escape(name)}" for name, count in found.scripts.items())
    labelled = [(c, n) for c, n in found.counts if n]
    labelled.sort(key=lambda pair: -pair[1])
    cells = " ".join(f"<code>{_shown(c)}</code>&nbsp;{n}" for c, n in labelled)
    others = " ".join(f"<code>{_shown(c)}</code>" for c, n in found.counts if n == 0)
    body = f"<p>{found.kept} of {found.whole} characters stay: {scripts}.</p>"
    if found.before is not None and found.after is not None:
        body += (
            f"<p>With the whole dictionary {escape(str(metric))} is {found.before:.4f}, with what "
            f"is left of it {found.after:.4f}.</p>"
        )
    if labelled:
        body += f"<p>In the labels, with how often each occurs: {cells}</p>"
    if others:
        body += f"<p>Kept although no label has them: {others}</p>"
    if any(n is None for _, n in found.counts):
        body += '<p class="muted">The labels were not counted.</p>'
    return f"<section><h2>Alphabet</h2>{body}</section>"


def _shown(character: str) -> str:
    """A character that prints; others by their numbers."""
    plain = character.strip() and character.isprintable()
    return escape(character) if plain else " ".join(f"U+{ord(c):04X}" for c in character)


def _feasibility(report: Report) -> str:
    if not report.feasibility:
        return ""
    pruned = _pruned(report)
    nearest = min(report.feasibility, key=lambda row: abs(row[0] - pruned))
    rows = []
    for share, loss in report.feasibility:
        chosen = (share, loss) == nearest and abs(share - pruned) < 0.05
        bar = "" if loss is None else loss_bar(loss)
        said = "more than was measured" if loss is None else f"{loss:.2%}"
        if loss is not None and loss > 1:  # a sum of losses may say more than can be lost
            said = "over 100%"
        row, mark = ('<tr class="chosen">', "; this plan") if chosen else ("<tr>", "")
        rows.append(
            f'{row}<th scope="row" class="number">{share:.0%}</th>'
            f'<td><div class="pair"><span class="bar">{bar}</span>'
            f'<span class="number">{said}{mark}</span></div></td></tr>'
        )
    return (
        "<section><h2>What each target would cost</h2>"
        f"<p>Predicted {_what_loss_is(report)}, before fine-tuning, if that share of the "
        "model&rsquo;s "
        f"{escape(report.feasibility_of)} were removed where it hurts least. Predictions add up "
        "what each layer costs by itself; layers pruned together usually cost more, and "
        "fine-tuning wins most of it back.</p>"
        '<table class="narrow"><caption class="unseen">Predicted loss by the share removed'
        '</caption><thead><tr><th scope="col" class="number">removed</th>'
        '<th scope="col" class="number">predicted loss</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>{_prediction(report)}</section>"
    )


def _what_loss_is(report: Report) -> str:
    if not report.loss_of:
        return "loss of the metric"
    return f"distance of the outputs from the unpruned model&rsquo;s ({escape(report.loss_of)})"


def _pruned(report: Report) -> float:
    """Share removed of what the feasibility rows are about."""
    if report.feasibility_of == "latency" and report.latency is not None:
        return report.latency.pruned
    return (report.params if report.feasibility_of == "parameters" else report.flops).pruned


def _prediction(report: Report) -> str:
    """What was predicted of this plan beside what was measured of it."""
    losses = [layer.predicted_loss for layer in report.layers if layer.predicted_loss is not None]
    if not losses or not report.before or report.after is None:
        return ""
    measured = (report.before - report.after) / report.before
    if report.loss_of:
        return (
            f'<p class="muted below">Of this plan: a distance of {sum(losses):.2%} predicted; '
            f"{measured:.2%} of the metric lost right after pruning.</p>"
        )
    return (
        f'<p class="muted below">Of this plan: {sum(losses):.2%} predicted, {measured:.2%} '
        "measured right after pruning.</p>"
    )


def _channels(report: Report) -> str:
    widest = max((layer.channels for layer in report.layers), default=1)
    rows = "".join(
        f'<tr><th scope="row" data-value="{escape(layer.name)}"><div class="pair">'
        f'<span class="name">{_breakable(layer.name)}</span>'
        f'<span class="bar">{channel_bar(layer, widest)}</span></div></th>'
        f"{_number(layer.channels, str(layer.channels))}{_number(layer.kept, str(layer.kept))}"
        f"{_number(layer.ratio, _ratio(layer))}{_number(_predicted(layer), _loss(layer))}</tr>"
        for layer in report.layers
    )
    heads = "".join(
        f'<th scope="col" class="number">{name}</th>'
        for name in ("before", "after", "removed", "predicted loss")
    )
    return (
        "<section><h2>Channels, layer by layer</h2>"
        "<p>In the order of the forward pass. The full bar is what stays, the pale one what went. "
        "A line stands for a channel group: all layers that lose the same channels together, under "
        f"the name of the first. Widths kept are multiples of {report.round_to} where the layer "
        "has that many.</p>"
        f"{_SEARCH if _is_long(report) else ''}"
        '<div class="scroll" role="region" tabindex="0" aria-label="Table of layers">'
        '<table id="layers" class="layers"><caption class="unseen">Channels of each layer before '
        'and after</caption><thead><tr><th scope="col">layer</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


# Shown by the script, without which it does nothing.
_SEARCH = (
    '<div class="tools" id="tools" hidden><label for="search">Search layers, also below</label>'
    '<input type="search" id="search" autocomplete="off" spellcheck="false">'
    '<span role="status" id="shown"></span></div>'
)


def _number(value: float | None, said: str) -> str:
    """A cell, with the number that it is sorted by."""
    return f'<td class="number" data-value="{"" if value is None else f"{value:.6g}"}">{said}</td>'


def _ratio(layer: Layer) -> str:
    return f"{layer.ratio:.0%}" if layer.ratio else '<span class="muted">0%</span>'


def _predicted(layer: Layer) -> float | None:
    return layer.predicted_loss if layer.ratio else None


def _loss(layer: Layer) -> str:
    loss = _predicted(layer)
    return '<span class="muted">&ndash;</span>' if loss is None else f"{loss:.2%}"


def _curves(report: Report) -> str:
    measured = [layer for layer in report.layers if layer.points]
    if not measured:
        return (
            "<section><h2>Sensitivity</h2>"
            "<p>Not measured: the target was a ratio, which needs no analysis.</p></section>"
        )
    scale = Scale.of(measured)
    furthest = max(layer.points[-1].ratio for layer in measured)
    ordered = sorted(measured, key=lambda layer: -sensitivity(layer, furthest))
    figures = "".join(
        f'<figure data-layer="{escape(layer.name)}"><figcaption>'
        f'<span class="name">{_breakable(layer.name)}</span>'
        f"<small>{_caption(layer)}</small></figcaption>{sensitivity_curve(layer, scale)}"
        f"{_values(layer)}</figure>"
        for layer in ordered
    )
    without = [layer.name for layer in report.layers if not layer.points]
    rest = (
        f'<p class="muted below">No point was measured of {_names(without)}: rounding leaves no '
        "width to try.</p>"
        if without
        else ""
    )
    return (
        "<section><h2>Sensitivity, most sensitive first</h2>"
        f"<p>Each layer pruned by itself: the {_what_loss_is(report)} (upwards) when a share of "
        "its channels is removed (to the right). All curves have the same scale; below zero, "
        "pruning helped. Point at a dot to read it, or open the values below its chart.</p>"
        f"{_legend(any(point.interval for layer in measured for point in layer.points))}"
        f'<div class="curves">{figures}</div>{rest}</section>'
    )


def sensitivity(layer: Layer, furthest: float) -> float:
    """Mean loss over ratios from 0 to ``furthest``, with the curve made monotone: what layers are
    sorted by."""
    ratios = np.asarray([0.0, *(point.ratio for point in layer.points)])
    losses = np.maximum.accumulate([0.0, *(point.loss for point in layer.points)])
    grid = np.linspace(0.0, furthest, 101)
    return float(np.interp(grid, ratios, losses).mean())


def _caption(layer: Layer) -> str:
    if not layer.ratio:
        return f"all {layer.channels} channels kept"
    return f"{layer.channels} &rarr; {layer.kept} channels, {layer.ratio:.0%} removed"


def _values(layer: Layer) -> str:
    """The points of a curve as a table, to be opened."""
    head = '<th scope="col">removed</th><th scope="col">loss</th>'
    banded = any(point.interval for point in layer.points)
    metric = any(point.metric is not None for point in layer.points)
    head += '<th scope="col">99% sure</th>' if banded else ""
    head += '<th scope="col">metric</th>' if metric else ""
    rows = []
    for point in layer.points:
        row = f'<th scope="row">{point.ratio:.0%}</th><td>{point.loss:.2%}</td>'
        if banded:
            low, high = point.interval or (point.loss, point.loss)
            exact = point.interval is None
            row += f"<td>{'exact' if exact else f'{low:.1%} to {high:.1%}'}</td>"
        if metric:
            row += f"<td>{'&ndash;' if point.metric is None else f'{point.metric:.4f}'}</td>"
        rows.append(f"<tr>{row}</tr>")
    chosen = ""
    if layer.ratio and layer.predicted_loss is not None:
        chosen = f"<p>Chosen: {layer.ratio:.0%} removed, {layer.predicted_loss:.2%} predicted.</p>"
    name = f'<span class="unseen"> of {escape(layer.name)}</span>'
    return (
        f'<details><summary>Values{name}</summary>{chosen}<table><caption class="unseen">'
        f"Losses of {escape(layer.name)}</caption><thead><tr>{head}</tr></thead>"
        f"<tbody>{''.join(rows)}</tbody></table></details>"
    )


def _legend(banded: bool) -> str:
    def sample(css: str) -> str:
        start = '<svg viewBox="0 0 26 12" aria-hidden="true">'
        if css.endswith("dot"):
            return f'{start}<circle class="{css}" cx="13" cy="6" r="4.5"/></svg>'
        if css == "band":
            return f'{start}<rect class="band" x="1" y="1" width="24" height="10"/></svg>'
        return f'{start}<line class="{css}" x1="1" y1="6" x2="25" y2="6"/></svg>'

    entries = [
        ("dot", "measured"),
        *([("band", "where it lies on all images, 99% sure each way")] if banded else []),
        ("chosen-dot", "chosen for this plan"),
        ("unmeasured", "not measured: the loss was too large before it"),
    ]
    return (
        '<div class="legend">'
        + "".join(f"<span>{sample(css)}{escape(words)}</span>" for css, words in entries)
        + "</div>"
    )


def _frozen(report: Report) -> str:
    if not report.frozen and not report.unknown:
        return ""
    reasons: dict[str, list[str]] = {}
    for item in report.frozen:
        words = f"{item.name} ({item.channels} channel{'' if item.channels == 1 else 's'})"
        reasons.setdefault(item.reason, []).append(words)
    blocks = "".join(
        f"<p>{escape(reason)}:</p><ul>"
        + "".join(f'<li class="name">{_breakable(words)}</li>' for words in items)
        + "</ul>"
        for reason, items in reasons.items()
    )
    unknown = ""
    if report.unknown:
        listed = ", ".join(f"<code>{escape(op)}</code> ({n}x)" for op, n in report.unknown.items())
        unknown = f"<p>Operations without a rule; what reaches them is frozen: {listed}.</p>"
    return f"<section><h2>Frozen, and why</h2>{blocks}{unknown}</section>"


def _made(report: Report) -> str:
    entries = {"Written": report.created, **report.files, **report.versions}
    rows = "".join(
        f"<dt>{escape(name)}</dt><dd>{_breakable(value)}</dd>"
        for name, value in entries.items()
        if value
    )
    command = f"<pre>{escape(report.command)}</pre>" if report.command else ""
    return (
        "<section><h2>How it was made</h2>"
        f"{command}<dl>{rows}</dl>"
        '<p class="muted below">FLOPs are multiply&ndash;accumulates, counted '
        "once, of convolutions and matrix products of the network in inference mode.</p></section>"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(f'<span class="name">{_breakable(name)}</span>' for name in names)


def _breakable(text: str) -> str:
    """Escaped, and free to wrap after dots and slashes."""
    return escape(text).replace(".", ".<wbr>").replace("/", "/<wbr>")
