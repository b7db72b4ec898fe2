"""Load, time and measure exported inference models with Paddle Inference on the CPU."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ..errors import PruneError

Array = npt.NDArray[np.float32]


class Predictor:
    """An exported model, one input and one output, with oneDNN on.

    Paddle 3.3.0 and 3.3.1 cannot run every operator of an exported detector with oneDNN (the
    scale of an interpolation is a list of doubles, which its oneDNN part does not read). Where
    that happens, only what Paddle fuses into convolutions stays there; ``onednn`` says which.
    """

    def __init__(self, folder: Path, threads: int = 1) -> None:
        self._folder, self._threads = folder, threads
        self.onednn = "oneDNN on"
        self._predictor: Any = self._create(everything=True)

    def __call__(self, x: Array) -> Array:
        """Return the first output for the batch ``x`` (N, 3, H, W)."""
        try:
            return self._run(x)
        except NotImplementedError:
            if self.onednn != "oneDNN on":
                raise
        self.onednn = "oneDNN on for convolutions"
        self._predictor = self._create(everything=False)
        return self._run(x)

    def _create(self, everything: bool) -> Any:
        from paddle import inference

        parameters = str(self._folder / "inference.pdiparams")
        config = inference.Config(str(model_file(self._folder)), parameters)
        config.disable_gpu()
        config.disable_glog_info()
        config.enable_mkldnn()
        if not everything:
            config.delete_pass("onednn_placement_pass")
        # Compiled kernels are kept for this many shapes; by default none is ever dropped.
        config.set_mkldnn_cache_capacity(10)
        config.set_cpu_math_library_num_threads(self._threads)
        return inference.create_predictor(config)

    def _run(self, x: Array) -> Array:
        predictor = self._predictor
        predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x)
        predictor.run()
        output: Array = predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()
        return output


def model_file(folder: Path) -> Path:
    """Return the program file of an exported model (PIR or old format).

    Raises:
        PruneError: there is none.
    """
    for name in ("inference.json", "inference.pdmodel"):
        if (folder / name).is_file():
            return folder / name
    raise PruneError(f"{folder} holds no exported model (inference.json or inference.pdmodel)")


def file_size(folder: Path) -> int:
    """Return the bytes of program and parameters together."""
    return model_file(folder).stat().st_size + (folder / "inference.pdiparams").stat().st_size


def latencies(
    folders: Sequence[Path], side: int = 640, runs: int = 15, threads: int = 1
) -> tuple[list[float], str]:
    """Return each model's median latency in milliseconds on a square random image, and how the
    models ran (see :class:`Predictor`).

    The models take turns, so that whatever else the machine does slows all of them alike.
    """
    predictors = [Predictor(folder, threads) for folder in folders]
    x = np.random.default_rng(0).standard_normal((1, 3, side, side)).astype(np.float32)
    for predictor in predictors:
        for _ in range(3):
            predictor(x)
    times: list[list[float]] = [[] for _ in predictors]
    for _ in tqdm(range(runs), desc="timing both models", unit="round"):
        for predictor, found in zip(predictors, times, strict=True):
            start = time.perf_counter()
            predictor(x)
            found.append(1000 * (time.perf_counter() - start))
    return [statistics.median(found) for found in times], predictors[0].onednn
