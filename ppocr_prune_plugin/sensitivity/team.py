"""Processes that share an analysis, through files: no collective call waits for the slowest."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from ..files import write_atomically

# What rank 0 posts at the end.
FINISHED, FAILED = ENDINGS = ("finished", "failed")

_POLL_SECONDS = 0.2


@dataclass(frozen=True)
class Team:
    """One process of several; by default the only one.

    ``folder`` is new for every run and seen by all of them; rank 0 decides.
    """

    folder: Path | None = None
    rank: int = 0
    size: int = 1

    def claim(self, task: str) -> bool:
        """Whether this process is the one that does the task."""
        if self.folder is None:
            return True
        name = "claim-" + task.replace(os.sep, "_")
        try:
            os.close(os.open(self.folder / name, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        except FileExistsError:
            return False
        return True

    @property
    def others(self) -> range:
        """Ranks besides the first."""
        return range(1, self.size)

    def post(self, name: str, content: str = "") -> None:
        """Tell the others something."""
        if self.folder is not None:
            write_atomically(self.folder / name, content)

    def post_next(self, name: str, content: str) -> str:
        """Post under the first free one of ``name-0``, ``name-1``, …; returns that."""
        number = 0
        while self.folder is not None and (self.folder / f"{name}-{number}").exists():
            number += 1
        self.post(f"{name}-{number}", content)
        return f"{name}-{number}"

    def read(self, name: str) -> str:
        """What was posted under a name."""
        assert self.folder is not None
        return (self.folder / name).read_text(encoding="utf-8")

    def wait(self, *names: str) -> str:
        """The first of these to be posted."""
        assert self.folder is not None
        while True:
            for name in names:
                if (self.folder / name).exists():
                    return name
            time.sleep(_POLL_SECONDS)
