"""Predicted beside measured latency of pruned detectors.

For each detector, with random weights (they make no difference): measure the latency table, prune
all layers by the same ratio, then every layer by one of its own, and print what the table says of
each network beside what the engine takes for it.

    .venv/bin/python benchmarks/latency.py
"""

from __future__ import annotations

import argparse
import logging
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from demo.architectures import architecture
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree
from ppocr_prune_plugin.latency.model import NetworkLatency
from ppocr_prune_plugin.network import inspect
from ppocr_prune_plugin.ratios.rounding import narrowest, width_for_ratio, widths
from ppocr_prune_plugin.report.lines import text_table
from ppocr_prune_plugin.section import LatencyOptions, PruneSection

UNIFORM = (0.15, 0.3, 0.45, 0.6)


def main() -> int:
    """Measure both detectors and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=640, help="of the square image, in pixels")
    parser.add_argument("--engine", help="openvino, onnxruntime or paddle (default: the first)")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--onednn", choices=("true", "false"), default="true")
    parser.add_argument("--round-to", type=int, default=8)
    parser.add_argument("--mixed", type=int, default=6, help="networks with ratios drawn by layer")
    parser.add_argument("--only", choices=[*_DETECTORS], help="one of the detectors")
    args = parser.parse_args()
    use_tree(find_tree())
    options = LatencyOptions(args.threads, args.onednn == "true", engine=args.engine)
    for name, section in _DETECTORS.items():
        if args.only not in (None, name):
            continue
        for line in _compare(name, section, options, args):
            print(line, flush=True)
    return 0


_MV3 = {
    "model_type": "det",
    "algorithm": "DB",
    "Transform": None,
    "Backbone": {"name": "MobileNetV3", "scale": 0.5, "model_name": "large"},
    "Neck": {"name": "DBFPN", "out_channels": 256},
    "Head": {"name": "DBHead", "k": 50},
}
_DETECTORS = {"PP-OCRv4-mobile": architecture("det"), "MobileNetV3-DB": _MV3}


def _compare(
    name: str, section: dict[str, Any], options: LatencyOptions, args: argparse.Namespace
) -> list[str]:
    from ppocr.modeling.architectures import build_model

    model = build_model(section)
    inputs = [([1, 3, args.side, args.side], "float32")]
    network = inspect(model, inputs)
    groups = network.prunable(PruneSection(ratio=0.0), "benchmark")
    few = {group.name: narrowest(group.size, 0.9, args.round_to) for group in groups}
    whole = {group.name: group.size for group in network.graph.groups}
    random = np.random.default_rng(0)
    cuts: dict[str, dict[str, int]] = {
        f"all layers {ratio:.0%}": {
            group.name: width_for_ratio(group.size, ratio, args.round_to) for group in groups
        }
        for ratio in UNIFORM
    }
    for number in range(args.mixed):
        cuts[f"each its own #{number + 1}"] = {
            group.name: int(
                random.choice(
                    [w for w in widths(group.size, args.round_to) if w >= few[group.name]]
                )
            )
            for group in groups
        }
    with tempfile.TemporaryDirectory() as folder:
        start = time.perf_counter()
        logger = logging.getLogger("benchmark")
        table = Path(folder) / "latency.json"
        latency = NetworkLatency(network, options, few, table, logger, args.round_to)
        seconds = time.perf_counter() - start
        try:
            rows, errors = [], []
            for label, cut in cuts.items():
                predicted = latency({**whole, **cut})
                measured = latency.achieved({**whole, **cut})
                error = predicted / measured - 1
                errors.append(abs(error))
                rows.append([label, f"{predicted:.1f}", f"{measured:.1f}", f"{error:+.1%}"])
        finally:
            latency.close()
    title = f"{name}: {latency.before:.1f} ms unpruned, {latency.how}; table in {seconds:.0f} s"
    near = f"{sum(error <= 0.05 for error in errors)} of {len(errors)} within 5%"
    return [title, *text_table(["pruned", "predicted ms", "measured ms", "error"], rows), near, ""]


if __name__ == "__main__":
    raise SystemExit(main())
