"""The other end of :mod:`.worker`: starts it, asks, and says how it ended."""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import PruneError

_WORKER = f"{__package__}.worker"

# Seconds that one answer may take. Measuring is planned to take a few; the rest is for networks
# that take long for a single run, and for machines that do much else.
PATIENCE = 600.0
_FAREWELL = 5.0  # seconds that it may take to end
# What Paddle writes in the end, whatever ended the process: the second names the signal.
_HEADING, _SIGNAL = "Error Message Summary:", "FatalError: "
_LAST_WORDS = 300  # characters of each of the two last lines that a process wrote


class Failure(PruneError):
    """An engine cannot do what was asked for; the message is the engine's."""


class NoAnswer(Failure):
    """The process runs, and does not answer."""


class Process:
    """Starts with the first question; :meth:`close` it."""

    def __init__(self, patience: float = PATIENCE) -> None:
        """Args: patience: seconds that one answer may take."""
        self._patience = patience
        self._process: subprocess.Popen[bytes] | None = None
        self._answers: queue.Queue[bytes] = queue.Queue()
        self._words = tempfile.TemporaryFile()

    def ask(self, task: str, **request: Any) -> dict[str, Any]:
        """The answer of one of the worker's tasks.

        Raises:
            Failure: the engine fails, crashes, or does not come to an end.
            PruneError: the question is wrong: no such file, engine or shape.
        """
        if self._process is None or self._process.poll() is not None:
            self._start()
        assert self._process is not None and self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"task": task, **request}).encode() + b"\n")
            self._process.stdin.flush()
            line = self._answers.get(timeout=self._patience)
        except OSError:  # it has ended
            line = b""
        except queue.Empty:
            said = self._last_words()
            self.end()
            raise NoAnswer(f"no answer after {self._patience:g} s{said}") from None
        content: dict[str, Any] = json.loads(line) if line else {"failure": self._epitaph()}
        if "error" in content:
            raise PruneError(content["error"])
        if "failure" in content:
            raise Failure(content["failure"])
        return content

    def close(self) -> None:
        """End the process."""
        self.end()
        self._words.close()

    def _start(self) -> None:
        self.end()
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith(("PADDLE_", "FLAGS_"))
        }
        environment["PPOCR_PRUNE"] = "0"
        program = f"import sys; sys.path.insert(0, sys.argv[1]); from {_WORKER} import main; main()"
        root = str(Path(__file__).resolve().parents[2])  # sys.path may have been changed by hand
        self._words.seek(0)
        self._words.truncate()
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", program, root],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._words,
            env=environment,
        )
        self._answers = queue.Queue()
        threading.Thread(target=_read, args=(self._process, self._answers), daemon=True).start()

    def _last_words(self) -> str:
        """The end of what it wrote to its standard error, on one line, to be added to a message."""
        self._words.seek(0)
        text = self._words.read().decode("utf-8", errors="replace")
        lines = [" ".join(line.split()) for line in text.splitlines()]
        errors = [line for line in lines if "error" in line.lower() and line != _HEADING]
        reasons = [line for line in errors if not line.startswith(_SIGNAL)]
        telling = reasons or errors or [line for line in lines if line]
        said = "; ".join(line[:_LAST_WORDS] for line in telling[-2:])
        return f"; it said: {said}" if said else ""

    def _epitaph(self) -> str:
        """How the process ended that should have answered."""
        assert self._process is not None
        code, said = self._process.wait(), self._last_words()
        self.end()
        if code >= 0:
            return f"the measuring process ended with code {code}{said}"
        return f"the measuring process was ended by {signal.Signals(-code).name}{said}"

    def end(self) -> None:
        """End the process, the hard way if need be; the next question starts another."""
        if self._process is None:
            return
        process, self._process = self._process, None
        assert process.stdin is not None and process.stdout is not None
        try:
            process.stdin.close()
        except OSError:
            pass
        try:
            process.wait(timeout=_FAREWELL)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


def _read(process: subprocess.Popen[bytes], answers: queue.Queue[bytes]) -> None:
    """Hand on every line, and an empty one at the end: pipes cannot be waited for with a limit on
    every operating system."""
    assert process.stdout is not None
    try:
        for line in process.stdout:
            answers.put(line)
    except ValueError:  # closed meanwhile
        pass
    answers.put(b"")


def request_of(
    engine: str, file: Path, threads: int, onednn: bool, sizes: Mapping[int, Any] | Any
) -> dict[str, Any]:
    """One model of a request to :class:`.worker.Worker`."""
    return {
        "engine": engine,
        "file": str(file),
        "threads": threads,
        "onednn": onednn,
        "sizes": sizes,
    }
