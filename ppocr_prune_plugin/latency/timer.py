"""Times networks and single layers in a process of their own (:mod:`.worker`)."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
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

# Seconds that one answer may take. Measuring is planned to take four; the rest is for networks
# that take long for a single run, and for machines that do much else.
PATIENCE = 600.0
_FAREWELL = 5.0  # seconds that it may take to end
_LAST_WORDS = 300  # characters of each of the two last lines that a process wrote


class NoAnswer(PruneError):
    """The measuring process runs, and does not answer."""


class Timer:
    """Exports and times; :meth:`close` it. The process starts with the first measurement.

    ``onednn`` says how models run, and is settled by the first whole network that is timed;
    ``disturbance`` by what share the runs of the last one were slower than the fastest of them.
    """

    def __init__(self, options: LatencyOptions, patience: float = PATIENCE) -> None:
        """Args:
        options: how models run.
        patience: seconds that one answer may take.

        Raises:
            PruneError: oneDNN is asked for and this Paddle has none.
        """
        if options.onednn:
            require_onednn()
        self.options, self._patience = options, patience
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
        """Milliseconds of exported networks, timed in turns.

        Raises:
            PruneError: Paddle Inference fails, crashes, or does not come to an end.
        """
        content = self._ask(models, [inputs] * len(models), seconds=4.0, rounds=(5, 40))
        self.onednn = content["onednn"]
        pairs = zip(content["medians"], content["milliseconds"], strict=True)
        self.disturbance = max(median / fastest for median, fastest in pairs) - 1
        times: list[float] = content["milliseconds"]
        return times

    def layer(self, layer: paddle.nn.Layer, shapes: Sequence[Sequence[int]]) -> float:
        """Milliseconds of one small layer with inputs of these shapes; raises as
        :meth:`networks`."""
        prefix = Path(self._folder.name) / "layer"
        layer.eval()
        inputs = [(list(shape), "float32") for shape in shapes]
        export(layer, inputs, prefix)
        content = self._ask([prefix], [inputs], seconds=0.08, rounds=(8, 80))
        return float(content["milliseconds"][0])

    def close(self) -> None:
        """End the process and remove the files."""
        self._end()
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
            line = self._answer()
        except BrokenPipeError:
            line = b""
        except TimeoutError:
            said = self._last_words()
            self._end()
            raise NoAnswer(self._problem(f"no answer after {self._patience:g} s{said}")) from None
        content: dict[str, Any] = json.loads(line) if line else {"failure": self._epitaph()}
        if "error" in content:
            raise PruneError(content["error"])
        if "failure" in content:
            raise PruneError(self._problem(content["failure"]))
        return content

    def _problem(self, what: str) -> str:
        threads = f"{self.options.threads} thread{'s' if self.options.threads > 1 else ''}"
        return (
            f"Paddle Inference cannot run this network ({self.onednn}, {threads}), so its latency "
            f"cannot be measured: {what}. Try Prune.latency.onednn=false; Prune.pruned_flops needs "
            "no measuring."
        )

    def _answer(self) -> bytes:
        """One line from the process; empty where it ended instead."""
        deadline, line = time.monotonic() + self._patience, b""
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while not line.endswith(b"\n"):
                if not selector.select(max(deadline - time.monotonic(), 0.0)):
                    raise TimeoutError
                found = os.read(self._answers, 1 << 16)
                if not found:
                    return b""
                line += found
        return line

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
        with open(self._words, "wb") as words:
            self._process = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-c", program.format(_WORKER), root]
                + [str(theirs_in), str(theirs_out)],
                pass_fds=(theirs_in, theirs_out),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=words,
                env=environment,
            )
        os.close(theirs_in)
        os.close(theirs_out)
        self._requests = os.fdopen(ours_out, "w")
        self._answers = ours_in

    @property
    def _words(self) -> Path:
        """What the process writes to its standard error."""
        return Path(self._folder.name) / "stderr"

    def _last_words(self) -> str:
        """The end of that, on one line, to be added to a message."""
        try:
            text = self._words.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        lines = [" ".join(line.split()) for line in text.splitlines()]
        telling = [line for line in lines if "rror" in line] or [line for line in lines if line]
        said = "; ".join(line[:_LAST_WORDS] for line in telling[-2:])
        return f"; it said: {said}" if said else ""

    def _epitaph(self) -> str:
        """How the process ended that should have answered."""
        assert self._process is not None
        code, said = self._process.wait(), self._last_words()
        self._end()
        if code >= 0:
            return f"the measuring process ended with code {code}{said}"
        return f"the measuring process was ended by {signal.Signals(-code).name}{said}"

    def _end(self) -> None:
        """End the process, the hard way if need be."""
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            self._requests.close()
        except BrokenPipeError:
            pass
        os.close(self._answers)
        try:
            process.wait(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
