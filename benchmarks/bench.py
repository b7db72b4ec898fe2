"""What the benchmarks share: the demo's unpruned detector, and images to evaluate it on."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import paddle

from demo.render import render
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.graph.groups import ChannelGroup
from ppocr_prune_plugin.hooks.adapters.calibration_batches import calibration_batches
from ppocr_prune_plugin.hooks.adapters.calls import training_forward
from ppocr_prune_plugin.hooks.adapters.evaluation import PaddleOCREvaluation
from ppocr_prune_plugin.hooks.adapters.tracing import network_of
from ppocr_prune_plugin.hooks.adapters.tree import build_from_config, find_tree
from ppocr_prune_plugin.network import Network
from ppocr_prune_plugin.recovery.batch_norm import BatchNormRecalibration
from ppocr_prune_plugin.section import PruneSection, SensitivityOptions
from ppocr_prune_plugin.sensitivity.ranks import Ranks

_SEED = 7  # of the images: not the demo's


@dataclass(frozen=True)
class Detector:
    """A trained detector that can be pruned and evaluated.

    ``loop()`` evaluates it as PaddleOCR does, on its own data loader, which reads every image
    anew; ``evaluation`` is the plugin's; ``open_recalibration`` is called while it is unpruned.
    """

    network: Network
    groups: list[ChannelGroup]
    loop: Callable[[], float]
    open_evaluation: Callable[[], PaddleOCREvaluation]
    open_recalibration: Callable[[], BatchNormRecalibration]

    @functools.cached_property
    def evaluation(self) -> PaddleOCREvaluation:
        return self.open_evaluation()

    def flops(self, widths: Mapping[str, int]) -> int:
        """Multiply-accumulates of the network with these widths."""
        return self.network.costs.flops(surgery.shapes_after(self.network.graph, widths))


def load_detector(work: Path, images: int, side: int, folder: Path) -> Detector:
    """The unpruned detector of ``make demo``.

    Args:
        work: what ``make demo`` has made.
        images: images to render for the evaluation.
        side: what their longer side is resized to, pixels.
        folder: for images and caches.
    """
    render(folder, 1, images, _SEED)
    model, config = build_from_config(work / "det.yml", [], find_tree())
    dataset = config["Eval"]["dataset"]
    dataset.update(data_dir=str(folder), label_file_list=[str(folder / "val.txt")])
    for transform in dataset["transforms"]:
        if "DetResizeForTest" in transform:
            transform["DetResizeForTest"] = {"limit_side_len": side, "limit_type": "max"}
    model.set_state_dict(paddle.load(str(work / "weights" / "det.pdparams")))
    network = network_of(config, model)
    from ppocr.data import build_dataloader
    from ppocr.metrics import build_metric
    from ppocr.postprocess import build_post_process
    from tools import program

    loader = build_dataloader(config, "Eval", "cpu", logging.getLogger("benchmark"))
    post_process = build_post_process(config["PostProcess"], config["Global"])
    metric = build_metric(config["Metric"])
    arguments: dict[str, Any] = {
        "config": config,
        "model": model,
        "valid_dataloader": loader,
        "post_process_class": post_process,
        "eval_class": metric,
    }

    def loop() -> float:
        kind = config["Architecture"]["model_type"]
        return float(program.eval(model, loader, post_process, metric, kind)[metric.main_indicator])

    def open_recalibration() -> BatchNormRecalibration:
        arguments["train_dataloader"] = build_dataloader(
            config, "Train", "cpu", logging.getLogger("benchmark")
        )
        batches = calibration_batches(arguments, 2, folder, Ranks())
        return BatchNormRecalibration(
            model, [functools.partial(training_forward, model, b, config) for b in batches]
        )

    return Detector(
        network,
        network.prunable(PruneSection(ratio=0.0), "benchmark"),
        loop,
        lambda: PaddleOCREvaluation(program, arguments, SensitivityOptions(), folder),
        open_recalibration,
    )
