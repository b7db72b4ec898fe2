"""Files that a living process holds: a lock that ends when its owner does, however that ends.

The lock is the operating system's (``flock``; a byte range on Windows), so that nothing has to be
cleaned up after a kill, and no number of a process is taken for another's. Where a file system has
none, nothing is ever held: who relies on that looks for another sign of life as well.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    import msvcrt

    def _try_lock(descriptor: int) -> None:
        place = os.lseek(descriptor, 0, os.SEEK_CUR)
        os.lseek(descriptor, 2**30, os.SEEK_SET)  # beyond the content, which stays readable
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError as error:
            raise BlockingIOError from error
        finally:
            os.lseek(descriptor, place, os.SEEK_SET)

else:

    def _try_lock(descriptor: int) -> None:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


_TRIES = 4  # who asks whether a file is held, holds it for a moment


def lock(descriptor: int) -> bool | None:
    """Hold an open file until it is closed or the process ends; False where somebody else does,
    None where this file system has no locks."""
    try:
        _try_lock(descriptor)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def names(path: Path, descriptor: int) -> bool:
    """Whether a path still names an open file."""
    try:
        return os.path.samestat(os.lstat(path), os.fstat(descriptor))
    except OSError:
        return False


class Held:
    """A small file that this process holds.

    Attributes:
        path: where it is.
    """

    def __init__(self, path: Path, descriptor: int) -> None:
        self.path, self._descriptor = path, descriptor
        _held.add(self)

    def write(self, text: str) -> None:
        """Replace its content. Raises OSError."""
        data = text.encode("utf-8", "backslashreplace")
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        os.write(self._descriptor, data)

    def release(self) -> None:
        """Remove it, and let others have it."""
        if self._descriptor >= 0:
            if os.name != "nt" and names(self.path, self._descriptor):
                with contextlib.suppress(OSError):
                    self.path.unlink()
            self.forget()

    def forget(self) -> None:
        """Close it, and leave it where it is."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def hold(path: Path) -> Held | None:
    """Hold a file, which is made if need be; None where another process does.

    Raises:
        OSError: it cannot be made, or is a link.
    """
    for _ in range(_TRIES):
        flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
        descriptor = os.open(path, flags, 0o666)
        if lock(descriptor) is not False and names(path, descriptor):
            return Held(path, descriptor)
        os.close(descriptor)  # held by another, or removed between opening and holding it
        time.sleep(0.05)
    return None


def is_held(path: Path) -> bool | None:
    """Whether a process holds a file; None where there is none, or its file system has no locks."""
    try:
        descriptor = os.open(path, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
    except OSError:
        return None
    try:
        locked = lock(descriptor)
        return None if locked is None else not locked
    finally:
        os.close(descriptor)


# A process that was forked off this one (a worker of a data loader) must not go on holding what
# this one held.
_held: weakref.WeakSet[Held] = weakref.WeakSet()


def _let_go() -> None:
    for held in list(_held):
        held.forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)
