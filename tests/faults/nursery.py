"""A process that has imported what takes long, and forks a child for each piece of work.

Imports are most of what a short run of a tool takes. Nothing of ours or of PaddleOCR's is imported
before the fork, so that a child starts as a new process would; what they stand on is.
"""

from __future__ import annotations

import atexit
import contextlib
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

FOR_TOOLS = (
    *("paddle", "paddle.distributed", "numpy", "cv2", "yaml", "tqdm", "PIL.Image", "shapely"),
    *("pyclipper", "skimage", "albumentations", "lmdb", "rapidfuzz", "requests"),
)


class Child:
    """A forked process; its standard output and error are in ``log``."""

    def __init__(self, nursery: Nursery, pid: int, log: Path) -> None:
        self._nursery, self.pid, self.log = nursery, pid, log
        self._status: int | None = None

    def poll(self) -> int | None:
        """Its exit code, negative for a signal; None while it runs."""
        if self._status is None:
            self._status = self._nursery.ask({"poll": self.pid})
        return self._status

    def kill(self) -> None:
        """End it as a power cut would."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            while self.poll() is None:
                pass

    def wait(self, seconds: float) -> int | None:
        """Its exit code, or None where it still runs after so many seconds."""
        status: int | None = self._nursery.ask({"wait": self.pid, "seconds": seconds})
        self._status = status
        return status

    def output(self) -> str:
        return self.log.read_text(encoding="utf-8", errors="replace")


class Nursery:
    """``with Nursery(modules) as nursery: child = nursery.start(script, arguments, log)``."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._modules = modules

    def __enter__(self) -> Nursery:
        self._process = subprocess.Popen(
            [sys.executable, __file__, *self._modules],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        return self

    def __exit__(self, kind: type | None, error: object, trace: TracebackType | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def start(
        self,
        script: str | Path,
        arguments: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Run a script in a new child, as ``python script arguments`` would."""
        request = {
            "script": str(script),
            "arguments": [str(argument) for argument in arguments],
            "log": str(log),
            "environment": dict(environment or {}),
        }
        return Child(self, self.ask(request), log)

    def ask(self, request: object) -> int | None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer: int | None = json.loads(self._process.stdout.readline())
        return answer


def _serve() -> None:
    """Imports, then answers one request a line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for name in sys.argv[1:]:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    for line in sys.stdin:
        request = json.loads(line)
        if "script" in request:
            answer: int | None = _forked(request)
        else:
            pid = request.get("poll") or request["wait"]
            answer = _ended(pid, request.get("seconds", 0.0))
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _ended(pid: int, seconds: float) -> int | None:
    end = time.monotonic() + seconds
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            return None
        time.sleep(0.02)


def _forked(request: dict[str, object]) -> int:
    log = os.open(str(request["log"]), os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    pid = os.fork()
    if pid:
        os.close(log)
        return pid
    code = 1
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1), os.dup2(log, 2)
        os.environ.update(request["environment"])  # type: ignore[call-overload]
        script = str(request["script"])
        sys.argv = [script, *request["arguments"]]  # type: ignore[misc]
        sys.path[0] = os.path.dirname(os.path.realpath(script))
        from ppocr_prune_plugin import _startup

        _startup.activate()
        runpy.run_path(script, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush(), sys.stderr.flush()
        atexit._run_exitfuncs()
        os._exit(code)
    return 0


if __name__ == "__main__":
    _serve()
