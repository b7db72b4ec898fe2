"""Times networks and single layers in a process of their own (:mod:`.worker`)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import paddle

from ..errors import PruneError
from ..section import LatencyOptions
from .predictor import EVERYTHING, OFF, require_onednn
from .write import export

_WORKER = f"{__package__}.worker"

Inputs = Sequence[tuple[Sequence[int], str]]


class Timer:
    """Exports and times; :meth:`close` it. The process starts with the first measurement.

    ``onednn`` says how models run, and is settled by the first whole network that is timed;
    ``disturbance`` by what share the runs of the last one were slower than the fastest of them.
    """

    def __init__(self, options: LatencyOptions) -> None:
        """Raises :class:`PruneError` where oneDNN is asked for and this Paddle has none."""
        if options.onednn:
            require_onednn()
        self.options = options
        self.onednn = EVERYTHING if options.onednn else OFF
        self.disturbance = 0.0
        self._folder = tempfile.TemporaryDirectory(prefix="ppocr-prune-latency-")
        self._process: subprocess.Popen[bytes] | None = None
        self._count = 0

    def exported(self, model: paddle.nn.Layer, inputs: Inputs) -> Path:
        """Write a network for measuring; gives its path without extension."""
        self._count += 1
        prefix = Path(self._folder.name) / f"network{self._count}"
        export(model, inputs, prefix)
        return prefix

    def networks(self, models: Sequence[Path], inputs: Inputs) -> list[float]:
        """Milliseconds of exported networks, timed in turns."""
        content = self._ask(models, [inputs] * len(models), seconds=4.0, rounds=(5, 40))
        self.onednn = content["onednn"]
        pairs = zip(content["medians"], content["milliseconds"], strict=True)
        self.disturbance = max(median / fastest for median, fastest in pairs) - 1
        times: list[float] = content["milliseconds"]
        return times

    def layer(self, layer: paddle.nn.Layer, shapes: Sequence[Sequence[int]]) -> float:
        """Milliseconds of one small layer with inputs of these shapes."""
        prefix = Path(self._folder.name) / "layer"
        layer.eval()
        inputs = [(list(shape), "float32") for shape in shapes]
        export(layer, inputs, prefix)
        content = self._ask([prefix], [inputs], seconds=0.08, rounds=(8, 80))
        return float(content["milliseconds"][0])

    def close(self) -> None:
        """End the process and remove the files."""
        if self._process is not None:
            self._requests.close()
            self._answers.close()
            self._process.wait()
            self._process = None
        self._folder.cleanup()

    def _ask(
        self,
        models: Sequence[Path],
        inputs: Sequence[Inputs],
        seconds: float,
        rounds: tuple[int, int],
    ) -> dict[str, Any]:
        if self._process is None:
            self._start()
        request = {
            "models": [str(path) for path in models],
            "inputs": inputs,
            "threads": self.options.threads,
            "onednn": self.onednn,
            "seconds": seconds,
            "rounds": rounds,
        }
        try:
            self._requests.write(json.dumps(request) + "\n")
            self._requests.flush()
            line = self._answers.readline()
        except BrokenPipeError:
            line = ""
        content: dict[str, Any] = json.loads(line) if line else {"failure": self._epitaph()}
        if "error" in content:
            raise PruneError(content["error"])
        if "failure" in content:
            raise PruneError(
                f"Paddle Inference cannot run this network ({self.onednn}, {self.options.threads} "
                f"threads), so its latency cannot be measured: {content['failure']}. Try "
                "Prune.latency.onednn=false; Prune.pruned_flops needs no measuring."
            )
        return content

    def _start(self) -> None:
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PADDLE_", "FLAGS_"))
        }
        environment["PPOCR_PRUNE"] = "0"
        program = "import sys; sys.path.append(sys.argv.pop(1)); from {} import main; main()"
        root = str(Path(__file__).resolve().parents[2])  # sys.path may have been changed by hand
        self._process = subprocess.Popen(
            [sys.executable, "-c", program.format(_WORKER), root, str(theirs_in), str(theirs_out)],
            pass_fds=(theirs_in, theirs_out),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=environment,
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._requests = os.fdopen(ours_out, "w")
        self._answers = os.fdopen(ours_in)

    def _epitaph(self) -> str:
        assert self._process is not None
        code = self._process.wait()
        self._process = None
        return f"the measuring process ended with code {code}"
