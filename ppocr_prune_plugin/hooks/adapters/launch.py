"""The processes of ``paddle.distributed.launch`` as ranks, and the folder that a run works in."""

from __future__ import annotations

import secrets
import shutil
from pathlib import Path

import paddle
import paddle.distributed as dist

from ...errors import PruneError
from ...files import writing
from ...run_lock import own
from ...sensitivity.ranks import Ranks


def gather(folder: Path) -> Ranks:
    """The ranks of this run; their files are in ``folder/ranks``, which every rank has to see.

    The folder is this run's from now on, until its process ends.

    Raises:
        PruneError: the folder cannot be written, or another process is at work in it; on all ranks.
    """
    if dist.get_world_size() == 1:
        _own(folder)
        return Ranks()
    rank, run, problem = dist.get_rank(), 0, None
    if rank == 0:
        try:
            _own(folder)
            run = _new_run(folder / "ranks")
        except PruneError as error:
            problem = error
    told = paddle.to_tensor([run], dtype="int64")
    dist.broadcast(told, src=0)  # also where there is none: the others wait for it
    run = int(told.item())
    if not run:
        raise problem or PruneError(f"{folder}: rank 0 cannot work there; its message says why.")
    return Ranks(_run_folder(folder / "ranks", run), rank, dist.get_world_size())


def _own(folder: Path) -> None:
    own(
        folder / "lock",
        str(folder),
        "Wait for its end, or name another folder with Global.save_model_dir.",
    )


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
