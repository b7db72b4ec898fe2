"""Times networks in the engine that they are going to be deployed in, in a process of its own."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import paddle

from ..engines import choose, installed
from ..engines.interface import ONNX
from ..engines.process import PATIENCE, Failure, Process, request_of
from ..engines.turns import disturbance_of
from ..errors import PruneError
from ..export.converter import require_converter, to_onnx
from ..export.fold import fold
from ..section import LatencyOptions
from .write import Inputs, export, shown

# About so long one comparison takes, in seconds, and at least and at most so many runs of each.
_SECONDS, _ROUNDS = 0.7, (7, 60)


class Timer:
    """Exports and times; :meth:`close` it. The process starts with the first measurement.

    ``how`` says how the last networks ran, ``disturbance`` by what share their runs were slower
    than the fastest of them.
    """

    def __init__(self, options: LatencyOptions, patience: float = PATIENCE) -> None:
        """Args:
        options: how models run.
        patience: seconds that one answer may take.

        Raises:
            PruneError: the engine is not installed, or what converts models for it.
        """
        self.options, self.engine = options, choose(options.engine)
        if self.engine.takes == ONNX:
            require_converter(f"Prune.latency.engine {self.engine.name}")
        threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
        self._where = f"{self.engine.title} {self.engine.version()}, {threads}"
        self.how, self.disturbance = self._where, 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="ppocr-prune-latency-")
        self._process = Process(patience)
        self._count = 0

    def exported(self, model: paddle.nn.Layer, inputs: Inputs) -> Path:
        """Write a network as it is deployed, for measuring: folded, and as ``ppocr-prune onnx``
        converts it where the engine takes ONNX files.

        Raises:
            PruneError: it cannot be exported, or not be converted for the engine.
        """
        self._count += 1
        prefix = Path(self._folder.name) / f"network{self._count}"
        plain = prefix.with_name(prefix.name + "-plain")
        export(model, inputs, plain)
        fold(plain, prefix)
        if self.engine.takes != ONNX:
            return prefix
        target = prefix.with_name(prefix.name + ".onnx")
        try:
            to_onnx(prefix, target, self._process)
        except Failure as error:
            raise self._problem(error, inputs) from error
        return target

    def milliseconds(self, models: Sequence[Path], inputs: Inputs) -> list[float]:
        """Of exported networks, timed in turns.

        Raises:
            PruneError: the engine fails, crashes, or does not come to an end.
        """
        options = self.options
        sizes = [list(shape) for shape, _ in inputs]
        asked = [
            request_of(self.engine.name, path, options.threads, options.onednn, sizes)
            for path in models
        ]
        try:
            content = self._process.ask("time", models=asked, seconds=_SECONDS, rounds=_ROUNDS)
        except Failure as error:
            raise self._problem(error, inputs) from error
        special = content["how"][-1]
        self.how = self._where + (f", {special}" if special else "")
        self.disturbance = disturbance_of(content["times"])
        # What else the machine does makes runs slower only: the fastest is nearest to the truth.
        return [min(found) for found in content["times"]]

    def close(self) -> None:
        """End the process and remove the files."""
        self._process.close()
        self._folder.cleanup()

    def _problem(self, error: Failure, inputs: Inputs) -> PruneError:
        others = [
            f"Prune.latency.engine: {name}" for name in installed() if name != self.engine.name
        ]
        if self.engine.name == "paddle" and self.options.onednn:
            others.append("Prune.latency.onednn=false")
        if self.options.shape is not None:
            others.append("another Prune.latency.shape")
        others.append("Prune.pruned_flops, which needs no measuring")
        return PruneError(
            f"{self._where} cannot run this network on {shown(inputs)}, so its latency cannot be "
            f"measured: {error}. Try {' or '.join(others)}."
        )
