"""The processes of ``paddle.distributed.launch`` as a team, and the folder that a run works in."""

from __future__ import annotations

import atexit
import contextlib
import os
import secrets
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path

import paddle
import paddle.distributed as dist

from ...errors import PruneError
from ...files import read_file, writing
from ...holding import Held, hold
from ...sensitivity.team import Team

_LOCK = "lock"

# Folders that this process works in, until it ends.
_owned: dict[Path, Held] = {}


def gather(folder: Path) -> Team:
    """The team of this run; its files are in ``folder/ranks``, which every rank has to see.

    The folder is this run's from now on, until its process ends.

    Raises:
        PruneError: the folder cannot be written, or another process is at work in it; on all ranks.
    """
    if dist.get_world_size() == 1:
        own(folder)
        return Team()
    rank, run, problem = dist.get_rank(), 0, None
    if rank == 0:
        try:
            own(folder)
            run = _new_run(folder / "ranks")
        except PruneError as error:
            problem = error
    told = paddle.to_tensor([run], dtype="int64")
    dist.broadcast(told, src=0)  # also where there is none: the others wait for it
    run = int(told.item())
    if not run:
        raise problem or PruneError(f"{folder}: rank 0 cannot work there; its message says why.")
    return Team(_run_folder(folder / "ranks", run), rank, dist.get_world_size())


def own(folder: Path) -> None:
    """Let no other run work in a folder while this process lives.

    Raises:
        PruneError: another one does; the message says which.
    """
    path = folder.absolute() / _LOCK
    if path in _owned:
        return
    with writing(path):
        folder.mkdir(parents=True, exist_ok=True)
        held = hold(path)
        if held is not None:
            held.write(_introduction())
    if held is None:
        raise PruneError(
            f"{folder}: another run is at work there: {_introduced(path)}. Wait for its end, or "
            "name another folder with Global.save_model_dir."
        )
    _owned[path] = held
    atexit.register(held.release)


def _new_run(ranks: Path) -> int:
    """A new folder for the messages of this run, in place of those of earlier ones; its number.
    What single processes have measured lies beside it and stays."""
    with writing(ranks):
        ranks.mkdir(parents=True, exist_ok=True)
        for old in ranks.glob("run-*"):
            shutil.rmtree(old, ignore_errors=True)
        run = secrets.randbits(62) | 1
        _run_folder(ranks, run).mkdir()
    return run


def _run_folder(ranks: Path, run: int) -> Path:
    return ranks / f"run-{run:x}"


def _introduction() -> str:
    now = time.strftime("%Y-%m-%d %H:%M:%S")
    command = shlex.join([Path(sys.executable).name, *sys.argv])
    return f"process {os.getpid()} on {socket.gethostname()} since {now}: {command}"


def _introduced(path: Path) -> str:
    with contextlib.suppress(PruneError):
        return read_file(path, "the lock").decode("utf-8", "replace") or "a process"
    return "a process"
