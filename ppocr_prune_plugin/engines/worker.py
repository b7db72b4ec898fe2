"""A process that converts and times models.

Engines set the threads of a whole process and may crash it on an exotic CPU; neither may happen to
a training. Requests come as lines of JSON on the standard input, answers go to what was the
standard output: whatever else is written there goes where errors go.
"""

from __future__ import annotations

import faulthandler
import json
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import PruneError
from .interface import Session, examples
from .paddle import model_files
from .registry import engine_class
from .turns import take_turns

Request = dict[str, Any]


class Worker:
    """Answers requests. The first model of all stays loaded: mostly it is the one that the others
    are held against."""

    def __init__(self) -> None:
        self._kept: tuple[str, Session] | None = None
        self._prepared: Any = None  # the sizes that the kept one is prepared for

    def time(self, request: Request) -> Request:
        """Time models in turns.

        Args:
            request: ``models``, each with ``engine``, ``file``, ``threads``, ``onednn`` and
                ``sizes`` (the shape of each input, null for what the model says); ``seconds`` (how
                long to measure, about) and ``rounds`` (at least and at most so many runs of each).

        Returns:
            ``times`` in milliseconds and ``how`` of each.
        """
        sessions = [self._session(model) for model in request["models"]]
        begin = time.perf_counter()
        for session in sessions:
            session.run()
        once = time.perf_counter() - begin
        least, most = request["rounds"]
        rounds = int(min(max(request["seconds"] / max(once, 1e-9), least), most))
        return {
            "times": take_turns(sessions, rounds),
            "how": [session.how for session in sessions],
        }

    def run(self, request: Request) -> Request:
        """Load one model alone and run it a few times.

        Args:
            request: ``model``, as one of those that are timed.

        Returns:
            ``memory``: most bytes that this process has held, null where that cannot be known.
        """
        session = self._session(request["model"])
        for _ in range(3):
            session.run()
        return {"memory": _peak_memory()}

    def inputs(self, request: Request) -> Request:
        """``inputs`` of a ``model``: name, sizes (-1: any) and type of each."""
        found = self._loaded(request["model"]).inputs
        return {"inputs": [[item.name, list(item.shape), item.dtype] for item in found]}

    def convert(self, request: Request) -> Request:
        """Convert an exported model, ``source``, to an ONNX file, ``target``."""
        import paddle2onnx

        program, weights = model_files(Path(request["source"]))
        paddle2onnx.export(
            str(program), str(weights), request["target"],
            opset_version=request["opset"], auto_upgrade_opset=True, verbose=False,
        )  # fmt: skip
        return {}

    def _session(self, model: Request) -> Session:
        """The model, prepared for its sizes."""
        session, sizes = self._loaded(model), model["sizes"]
        kept = self._kept is not None and session is self._kept[1]
        if not kept or self._prepared != sizes:
            session.prepare(examples(session.inputs, sizes))
        if kept:
            self._prepared = sizes
        return session

    def _loaded(self, model: Request) -> Session:
        path = Path(model["file"])
        files = [path] if path.is_file() else model_files(path)
        changed = [file.stat().st_mtime_ns for file in files if file.is_file()]
        key = json.dumps([model["engine"], str(path), model["threads"], model["onednn"], changed])
        if self._kept is not None and self._kept[0] == key:
            return self._kept[1]
        session = engine_class(model["engine"])(model["threads"], model["onednn"]).load(path)
        if self._kept is None:
            self._kept = key, session
        return session


def _peak_memory() -> int | None:
    """Most bytes that this process has held. What ``getrusage`` says is that of the process that
    started this one, where that held more, so that it serves where there is nothing else."""
    try:
        status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
        (peak,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.M)
        return 1024 * int(peak)
    except (OSError, ValueError):
        pass
    try:
        import resource
    except ImportError:  # Windows
        return None
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found


def serve(requests: Any, answers: Any) -> None:
    """Answer until there are no more requests."""
    worker = Worker()
    tasks: dict[str, Callable[[Request], Request]] = {
        "time": worker.time,
        "run": worker.run,
        "inputs": worker.inputs,
        "convert": worker.convert,
    }
    for line in requests:
        request = json.loads(line)
        try:
            content = tasks[request["task"]](request)
        except PruneError as error:
            content = {"error": str(error)}
        except Exception as error:  # whatever an engine raises
            lines = [part.strip() for part in str(error).splitlines() if part.strip()] or [""]
            telling = [line for line in lines if "Error: " in line] or lines
            content = {"failure": f"{type(error).__name__}: {telling[-1][:300]}"}
        answers.write(json.dumps(content) + "\n")
        answers.flush()


def main() -> None:
    """Serve on the standard streams."""
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(2, 1)  # what libraries print is no answer
        faulthandler.enable()
        serve(sys.stdin, answers)
