"""The processes of ``paddle.distributed.launch`` as a team."""

from __future__ import annotations

import shutil
from pathlib import Path

import paddle.distributed as dist

from ...sensitivity.team import Team


def gather(folder: Path) -> Team:
    """The team of this run; its files are in ``folder/ranks``, which every rank has to see."""
    if dist.get_world_size() == 1:
        return Team()
    shared = folder / "ranks"
    if dist.get_rank() == 0:
        shutil.rmtree(shared, ignore_errors=True)
        shared.mkdir(parents=True)
    dist.barrier()  # nobody looks before the leftovers of another run are gone
    return Team(shared, dist.get_rank(), dist.get_world_size())
