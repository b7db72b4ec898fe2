"""Steps of a long run: headed, timed, logged, and not done twice."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import write_atomically

# What the tools print before they start to work (the whole config) and what libraries grumble
# about: in the log, not on the screen.
_QUIET = re.compile(
    r"ppocr INFO: (    |[A-Z]\w* :)|^[IWE]\d{4} |Warning|warnings\.warn|^-{2,}|^Compiled with"
    r"|^\s*$"
)


class Steps:
    """Runs the steps of one work directory and remembers, in ``stamps/``, which are done.

    A step is done when its key (its inputs and those of every step before it) and the files it
    promised are what they were. The first step that has to run makes all later ones run.
    """

    def __init__(self, work: Path, inputs: Mapping[str, Any], total: int) -> None:
        self.work = work
        self.key = _digest(inputs)  # of the current step, with those before it
        self._rerun = False
        self._total = total
        self._number = 0
        self._start = time.monotonic()

    def run(
        self,
        name: str,
        title: str,
        inputs: Mapping[str, Any],
        outputs: Sequence[Path],
        action: Callable[[], dict[str, Any] | None],
    ) -> dict[str, Any]:
        """Run ``action`` unless it is done, and return its result (from the stamp if done).

        ``inputs`` is everything that its result depends on, as JSON; ``outputs`` the files that it
        leaves behind. Raises what ``action`` raises, and :class:`PruneError` where it left out an
        output.
        """
        self._number += 1
        self.key = _digest({"before": self.key, "name": name, "inputs": inputs})
        stamp = self.work / "stamps" / f"{name}.json"
        head = f"[{self._number}/{self._total}] {title}"
        found = _read_stamp(stamp)
        done = found.get("key") == self.key and all(path.exists() for path in outputs)
        if done and not self._rerun:
            print(f"{head}: done before, in {found['seconds']:.0f} s", flush=True)
            return dict(found["result"])
        print(f"{head} ({self.elapsed():.0f} s so far)", flush=True)
        self._rerun = True
        stamp.unlink(missing_ok=True)
        start = time.monotonic()
        result = action() or {}
        missing = [str(path) for path in outputs if not path.exists()]
        if missing:
            raise PruneError(f"{title}: {', '.join(missing)} was not written")
        seconds = time.monotonic() - start
        print(f"    {seconds:.0f} s", flush=True)
        _write_json(stamp, {"key": self.key, "seconds": seconds, "result": result})
        return result

    def elapsed(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def command(self, name: str, arguments: Sequence[str | Path]) -> str:
        """Run this Python on ``arguments`` in the work directory; return what it printed.

        Everything goes to ``logs/<name>.log``; the screen gets progress bars and all lines but
        the tools' dump of their config. Raises :class:`PruneError` where it fails, with the end
        of its output and the log's name.
        """
        log = self.work / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, *map(str, arguments)]
        environment = {key: value for key, value in os.environ.items() if key != "PPOCR_PRUNE"}
        environment["PYTHONUNBUFFERED"] = "1"
        with log.open("wb") as file:
            process = subprocess.Popen(
                command,
                cwd=self.work,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
            )
            assert process.stdout is not None
            try:
                rest = b""
                while chunk := os.read(process.stdout.fileno(), 65536):
                    file.write(chunk)
                    rest = _show(rest + chunk)
                _show(rest + b"\n" if rest else b"")
                code = process.wait()
            finally:
                if process.poll() is None:
                    process.terminate()
                    process.wait()
        output = log.read_text(encoding="utf-8", errors="replace")
        if code:
            tail = "\n".join(output.replace("\r", "\n").splitlines()[-15:])
            raise PruneError(f"{' '.join(command[1:3])} ended with code {code}:\n{tail}\n({log})")
        return output


def _show(data: bytes) -> bytes:
    """Print the finished lines and bar states in ``data``; return what is not finished."""
    *parts, rest = re.split(rb"(?<=[\r\n])", data)
    for part in parts:
        text = part.decode(errors="replace")
        # A bar starts each of its states with a carriage return, so these arrive separately.
        if text.endswith("\r") or not _QUIET.search(text):
            sys.stdout.write(text)
    sys.stdout.flush()
    return rest


def _digest(data: Any) -> str:
    return hashlib.sha256(json.dumps(data, sort_keys=True, default=str).encode()).hexdigest()


def _read_stamp(path: Path) -> dict[str, Any]:
    try:
        stamp = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return stamp if isinstance(stamp, dict) else {}


def _write_json(path: Path, data: Any) -> None:
    write_atomically(path, json.dumps(data, indent=1))
