"""Processes that share an analysis, through files: no collective call waits for the slowest.

Whoever waits for another process looks whether that one is still there. Each holds a file of its
own (:mod:`ppocr_prune_plugin.holding`) and keeps writing a number into it: on one machine the end
of a process shows at once, on several by its silence.
"""

from __future__ import annotations

import contextlib
import functools
import os
import socket
import threading
import time
from pathlib import Path

from ..errors import PruneError
from ..files import read_file, write_atomically, writing
from ..holding import Held, hold, is_held

# What rank 0 posts at the end.
FINISHED, FAILED = ENDINGS = ("finished", "failed")

_POLL_SECONDS = 0.2
_BEAT_SECONDS = 2.0
_SILENCE_SECONDS = 120.0  # of a process on another machine, until it counts as gone


class Ranks:
    """One process of several; by default the only one. :meth:`close` it.

    Args:
        folder: new for every run and seen by all of its processes.
        rank: which of them this is; rank 0 decides, and collects what the others measure.
        size: how many there are.
        silence: seconds after which a process that does not stir is gone.

    Raises:
        PruneError: the folder cannot be written.
    """

    def __init__(
        self,
        folder: Path | None = None,
        rank: int = 0,
        size: int = 1,
        silence: float = _SILENCE_SECONDS,
    ) -> None:
        self.folder, self.rank, self.size = folder, rank, size
        self._silence = silence
        self._seen: dict[int, tuple[str, float]] = {}
        self._closed = threading.Event()
        if folder is not None:
            with writing(folder):
                own = hold(self._sign(rank))
            if own is None:
                raise PruneError(f"{folder}: another process works as rank {rank} of this run.")
            own.write(_sign_of_life(0))
            threading.Thread(target=self._stir, args=(own,), daemon=True).start()

    @property
    def points(self) -> Path:
        """Where the points of single processes are, of this run and of earlier ones."""
        assert self.folder is not None
        return self.folder.parent

    @property
    def others(self) -> range:
        """Ranks besides the first."""
        return range(1, self.size)

    def close(self) -> None:
        """Nobody waits for this process any more."""
        self._closed.set()

    def claim(self, task: str) -> bool:
        """Whether this process is the one that does the task.

        Raises:
            PruneError: rank 0 is gone, so that nobody would collect it.
        """
        if self.folder is None:
            return True
        gone = self._gone(0) if self.rank != 0 else ""
        if gone:
            raise self._left_alone(0, gone)
        path = self.folder / ("claim-" + task.replace(os.sep, "_"))
        with writing(path):
            try:
                descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY)
            except FileExistsError:
                return False
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(str(self.rank))
        return True

    def post(self, name: str, content: str = "") -> None:
        """Tell the others something."""
        if self.folder is not None:
            write_atomically(self.folder / name, content)

    def post_failure(self) -> None:
        """Tell the others that rank 0 failed, if that can be written; if not, they see it end."""
        with contextlib.suppress(PruneError):
            self.post(FAILED)

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
        return read_file(self.folder / name, "a message between ranks").decode("utf-8")

    def wait(self, *names: str, rank: int = 0) -> str:
        """The first of these that is posted, by ``rank``.

        Raises:
            PruneError: that process is gone, or rank 0 has failed.
        """
        while (posted := self._posted(names)) is None:
            gone = self._gone(rank)
            if gone and self._posted(names) is None:
                raise self._left_alone(rank, gone)
            if self._posted((FAILED,)):
                raise PruneError("rank 0 could not prune the model; its message says why.")
            time.sleep(_POLL_SECONDS)
        return posted

    def _posted(self, names: tuple[str, ...]) -> str | None:
        assert self.folder is not None
        return next((name for name in names if (self.folder / name).exists()), None)

    def _sign(self, rank: int) -> Path:
        assert self.folder is not None
        return self.folder / f"alive-{rank}"

    def _stir(self, own: Held) -> None:
        number = 0
        while not self._closed.wait(_BEAT_SECONDS):
            number += 1
            with contextlib.suppress(OSError):  # a full disk: the lock is still there
                own.write(_sign_of_life(number))
        own.forget()

    def _gone(self, rank: int) -> str:
        """What shows that a process is not there any more; empty while it seems to be."""
        path = self._sign(rank)
        try:
            found = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            found = ""
        now = time.monotonic()
        if rank not in self._seen or self._seen[rank][0] != found:
            self._seen[rank] = found, now
        machine, _, rest = found.partition("\n")
        name = rest.partition("\n")[0]
        if machine and machine == _machine() and is_held(path) is False:
            return f"process {name} has ended"
        if now - self._seen[rank][1] > self._silence:
            return f"nothing was heard of it for {self._silence:g} seconds; it was process {name}"
        return ""

    def _left_alone(self, rank: int, gone: str) -> PruneError:
        return PruneError(
            f"rank {rank} is gone while rank {self.rank} waited for it: {gone}. What every rank "
            f"has measured is kept in {self.points}: start the same command again to go on."
        )


def _sign_of_life(number: int) -> str:
    return f"{_machine()}\n{os.getpid()} on {socket.gethostname()}\n{number}\n"


@functools.cache
def _machine() -> str:
    """One text for all processes of a running kernel; empty where it cannot be told."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""
