"""Run and time exported models with Paddle Inference on the CPU."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PruneError

Array = npt.NDArray[Any]

# How a model ran, as it is told to people.
EVERYTHING = "oneDNN on"
CONVOLUTIONS = "oneDNN on for convolutions"
OFF = "oneDNN off"


class Predictor:
    """An exported model.

    Paddle 3.3.0 and 3.3.1 cannot run every operator of an exported detector with oneDNN (the
    scale of an interpolation is a list of doubles, which its oneDNN part does not read). Where
    that happens, only what Paddle fuses into convolutions stays there; ``onednn`` says which.
    """

    def __init__(self, prefix: Path, threads: int = 1, onednn: str = EVERYTHING) -> None:
        """Args:
        prefix: path of the model without an extension.
        threads: of the CPU.
        onednn: how to run it at first: one of the constants of this module.

        Raises:
            PruneError: no model there, or this Paddle has no oneDNN and is asked for it.
        """
        if onednn != OFF:
            require_onednn()
        self._prefix, self._threads = prefix, threads
        self.onednn = onednn
        self._predictor: Any = self._create()

    def __call__(self, *inputs: Array) -> Array:
        """Return the first output for these inputs."""
        return self.outputs(*inputs)[0]

    def outputs(self, *inputs: Array) -> list[Array]:
        """All outputs for these inputs; those that the export has left out may be given, too, if
        they are the last."""
        self.prepare(*inputs)
        predictor = self._predictor
        names = predictor.get_output_names()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in names]

    def prepare(self, *inputs: Array) -> None:
        """Set the inputs that :meth:`run` works on, and run once."""
        try:
            self._set(inputs)
            self._predictor.run()
        except NotImplementedError:
            if self.onednn != EVERYTHING:
                raise
            self.onednn = CONVOLUTIONS
            self._predictor = self._create()
            self._set(inputs)
            self._predictor.run()

    def run(self) -> None:
        """Run on what was prepared."""
        self._predictor.run()

    def _set(self, inputs: Sequence[Array]) -> None:
        for name, array in zip(self._predictor.get_input_names(), inputs, strict=False):
            self._predictor.get_input_handle(name).copy_from_cpu(array)

    def _create(self) -> Any:
        from paddle import inference

        config = inference.Config(str(model_file(self._prefix)), f"{self._prefix}.pdiparams")
        config.disable_gpu()
        config.disable_glog_info()
        if self.onednn == OFF:
            config.disable_mkldnn()
        else:
            config.enable_mkldnn()
            # Compiled kernels are kept for this many shapes; by default none is ever dropped.
            config.set_mkldnn_cache_capacity(10)
        if self.onednn == CONVOLUTIONS:
            config.delete_pass("onednn_placement_pass")
        config.set_cpu_math_library_num_threads(self._threads)
        return inference.create_predictor(config)


def require_onednn() -> None:
    """Raises :class:`PruneError` where this Paddle was built without oneDNN."""
    from paddle.base import core

    if not (core.is_compiled_with_mkldnn()):
        raise PruneError(
            "Prune.latency.onednn is true, but this Paddle was built without oneDNN. Set "
            "Prune.latency.onednn=false, or measure with a Paddle that has it."
        )


def model_file(prefix: Path) -> Path:
    """Return the program file of an exported model (PIR or old format).

    Raises:
        PruneError: there is none.
    """
    for suffix in (".json", ".pdmodel"):
        path = prefix.with_name(prefix.name + suffix)
        if path.is_file():
            return path
    raise PruneError(f"{prefix.parent} holds no exported model ({prefix.name}.json or .pdmodel)")


def latencies(
    predictors: Sequence[Predictor],
    inputs: Sequence[Sequence[Array]],
    rounds: int,
) -> list[list[float]]:
    """Times of so many runs of each, in milliseconds, after a warm-up.

    The models take turns, so that whatever else the machine does slows all of them alike.
    """
    for predictor, arrays in zip(predictors, inputs, strict=True):
        predictor.prepare(*arrays)
        predictor.run()
    times: list[list[float]] = [[] for _ in predictors]
    for _ in range(rounds):
        for predictor, found in zip(predictors, times, strict=True):
            start = time.perf_counter()
            predictor.run()
            found.append(1000 * (time.perf_counter() - start))
    return times


def random_arrays(inputs: Sequence[tuple[Sequence[int], str]]) -> list[Array]:
    """Numbers between 0 and 1 for ``(shape, dtype)`` pairs."""
    random = np.random.default_rng(0)
    return [random.random(tuple(shape)).astype(dtype) for shape, dtype in inputs]
