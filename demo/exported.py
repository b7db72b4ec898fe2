"""Size and speed of exported inference models."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from ppocr_prune_plugin.engines.interface import examples
from ppocr_prune_plugin.engines.paddle import Predictor, model_files
from ppocr_prune_plugin.engines.turns import take_turns

_NAME = "inference"  # what PaddleOCR calls the files of an exported model


def load(folder: Path, threads: int = 1) -> Predictor:
    """The exported model in a folder of PaddleOCR's, with oneDNN on."""
    return Predictor(folder / _NAME, threads)


def file_size(folder: Path) -> int:
    """Return the bytes of program and parameters together."""
    return sum(path.stat().st_size for path in model_files(folder / _NAME))


def latencies(
    folders: Sequence[Path], side: int = 640, runs: int = 15, threads: int = 1
) -> tuple[list[float], str]:
    """Return each model's median latency in milliseconds on a square random image, and how the
    models ran (see :class:`ppocr_prune_plugin.engines.paddle.Predictor`). The models take turns."""
    predictors = [load(folder, threads) for folder in folders]
    for predictor in predictors:
        predictor.prepare(examples(predictor.inputs, [[1, 3, side, side]]))
    times = take_turns(predictors, runs)
    return [statistics.median(found) for found in times], predictors[0].onednn
