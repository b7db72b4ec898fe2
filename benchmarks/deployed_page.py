"""The page that ``deployed.py`` writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deployed_models import Model

_HEAD = """\
# Pruned and folded, where models are deployed

Written by `benchmarks/deployed.py`:

```sh
python benchmarks/deployed.py --data DATA --work deployed --page docs/benchmark_deployed.md
```

PP-OCRv4's mobile models and the angle classifier with their published weights, one thread, one
image, models in turns in one run. *Own export*: as PaddleOCR's tool writes it, converted by
paddle2onnx alone. *Folded*: `export_model.py --fold`, converted by `ppocr-prune onnx`. The pruned
ones are folded, too, and **nothing was trained after the cut**: the metric is right after it, on
images that no width was chosen on. Milliseconds are medians of 30 runs, in brackets the change
against the own export in the same engine. ONNX Runtime and OpenVINO run the .onnx files, Paddle the
exported folders.
"""
_NAMES = {
    "own": "own export",
    "folded": "folded",
    "pruned_flops_folded": "`pruned_flops: 0.4`, folded",
    "pruned_latency_folded": "`pruned_latency: 0.4`, folded",
}


def page(found: Sequence[tuple[Model, Mapping[str, Any]]]) -> str:
    """The tables in Markdown; ``found`` is what the steps of each model gave."""
    parts = [_HEAD]
    for model, results in found:
        times = results["times"]
        engines = {name: rows[0]["engine"] for name, rows in times.items()}
        shape = "×".join(map(str, model.shape))
        head = ["exported model", "FLOPs (MACs)", "file, MB", *engines.values(), model.metric]
        parts.append(f"## The {model.title}, {shape}\n")
        parts += [_row(head), _row(["---", *["---:"] * (len(head) - 1)])]
        for place, name in enumerate(results["names"]):
            cut = name.removesuffix("_folded")
            rows = {engine: measured[place] for engine, measured in times.items()}
            sizes = [row["size"] for row in rows.values()]
            metric = results["metrics"].get(cut, results["metrics"]["own"])
            cells = [_NAMES[name], _flops(results["costs"], cut), f"{min(sizes) / 1e6:.2f}"]
            cells += [_time(row, place) for row in rows.values()]
            parts.append(_row([*cells, f"{metric:.4f}"]))
        parts.append(
            f"\n{model.tested} images for the {model.metric}; widths were chosen on {model.chosen} "
            "others."
        )
        parts += _idle_layers(results["costs"])
        parts.append("")
    return "\n".join(parts)


def _time(row: Mapping[str, Any], place: int) -> str:
    """Milliseconds, and the change against the first model."""
    change = f" ({row['ratio'] - 1:+.0%})".replace("-", "−") if place else ""
    return f"{row['median']:.3g}{change}"


def _flops(costs: Mapping[str, Any], cut: str) -> str:
    before = next(iter(costs.values()))["flops"]["before"]
    after = costs[cut]["flops"]["after"] if cut in costs else before
    unit, name = (1e9, "G") if before > 1e9 else (1e6, "M")
    return f"{after / unit:.2f} {name}" + (f" (−{1 - after / before:.0%})" if cut in costs else "")


def _idle_layers(costs: Mapping[str, Any]) -> list[str]:
    """Which layers one of the plans narrows and the other does not: FLOPs that are no time."""
    if len(costs) < 2:
        return []
    flops, latency = (
        {group["name"]: len(group["kept"]) / group["channels"] for group in costs[cut]["groups"]}
        for cut in ("pruned_flops", "pruned_latency")
    )
    # A plan has the groups that it prunes.
    spared = {name: latency.get(name, 1.0) - share for name, share in flops.items()}
    named = [
        f"`{name}` ({flops[name]:.0%} of its channels kept for FLOPs, "
        f"{latency.get(name, 1.0):.0%} for time)"
        for name in sorted(spared, key=lambda name: -spared[name])[:5]
        if spared[name] > 0.05
    ]
    return [f"\nFLOPs that hardly become time: {', '.join(named)}."] if named else []


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"
