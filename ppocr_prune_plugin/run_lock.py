"""What a run works on is its own until its process ends; who comes second is told by whom."""

from __future__ import annotations

import atexit
import contextlib
import os
import shlex
import socket
import sys
import time
from pathlib import Path

from .errors import PruneError
from .files import read_file, writing
from .holding import Held, hold

# What this process works on.
_owned: dict[Path, Held] = {}


def own(path: Path, what: str, mend: str) -> None:
    """Keep every other run away from something while this process lives.

    Args:
        path: a file that stands for it; made for the purpose, removed at the end.
        what: what it is, for messages.
        mend: what to do where another run has it, a sentence.

    Raises:
        PruneError: another run has it, and which; or the file cannot be written.
    """
    path = path.absolute()
    if path in _owned:
        return
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        held = hold(path)
        if held is not None:
            held.write(_introduction())
    if held is None:
        raise PruneError(f"{what}: another run is at work there: {_introduced(path)}. {mend}")
    _owned[path] = held
    atexit.register(held.release)


def _introduction() -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    return f"process {os.getpid()} on {socket.gethostname()} since {now}: {command}"


def _introduced(path: Path) -> str:
    with contextlib.suppress(PruneError):
        return read_file(path, "the lock").decode("utf-8", "replace") or "a process"
    return "a process"
