"""Files that are complete or not there, and one way to say that one cannot be read or written."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from .errors import PruneError
from .holding import lock, names

# What the names of files end in that are being written.
TEMPORARY = ".ppocr-prune-tmp"

_LARGEST = 2**28  # bytes of a file that is read as a whole

_EXCLUSIVE = (
    os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
)
_IMPOSSIBLE = "no path has a NUL or half a character in it."
_NO_ROOM = "Make room there and start again: what was measured so far is kept."
_NOT_ALLOWED = "Make it writable, or name another place (Global.save_model_dir)."
_ADVICE = {
    errno.ENOSPC: _NO_ROOM,
    errno.EDQUOT: _NO_ROOM,
    errno.EFBIG: "Allow larger files (ulimit -f) and start again.",
    errno.EACCES: _NOT_ALLOWED,
    errno.EPERM: _NOT_ALLOWED,
    errno.EROFS: _NOT_ALLOWED,
    errno.ENOTDIR: "A folder is needed where a file is: move it away, or name another place.",
    errno.EEXIST: "A folder is needed where a file is: move it away, or name another place.",
    errno.EISDIR: "A folder has its name: move it away, or name another place.",
    errno.ELOOP: "It is a link, which is not followed: remove it.",
}


def is_possible(path: str | Path) -> bool:
    """Whether a path can be one: without NUL, and of characters that the system can write."""
    try:
        return b"\0" not in os.fsencode(path)
    except UnicodeEncodeError:
        return False


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """In this block an ``OSError`` becomes a :class:`PruneError` that says that ``path`` cannot be
    written, why, and what to do."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error) or type(error).__name__
        advice = _ADVICE.get(error.errno or 0, "")
        raise PruneError(f"{path}: cannot be written: {reason}. {advice}".rstrip()) from error
    except ValueError as error:
        if is_possible(path):
            raise
        raise PruneError(f"{path}: cannot be written: {_IMPOSSIBLE}") from error


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a new file to write to, with a name of its own; it becomes ``path`` if nothing fails.

    Its name cannot be guessed and was free, so that nothing that lies in the folder is followed or
    overwritten. The folder is made if need be, and what a killed process was writing in it is
    removed. After a failure ``path`` is as it was.

    Raises:
        PruneError: it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        _sweep(path.parent)
        file = _created(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                if os.name != "nt":  # still held, so that nobody sweeps it; Windows would refuse
                    os.replace(file.name, path)
            if os.name == "nt":
                os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes) -> None:
    """Write a whole file, text as UTF-8. Raises :class:`PruneError` where that is not possible."""
    data = content.encode("utf-8") if isinstance(content, str) else content
    with replacing(path) as file:
        file.write(data)


@contextmanager
def open_regular(path: Path, what: str) -> Iterator[BinaryIO]:
    """Open a file to read it; a pipe or a device is refused, not waited for.

    Args:
        path: the file.
        what: what it is, for messages: "the pruning plan".

    Raises:
        PruneError: it is not there, or cannot be read (also while reading it in this block).
    """
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        with open(path, "rb", opener=lambda name, _: os.open(name, flags)) as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError(errno.EINVAL, "it is no regular file")
            yield file
    except OSError as error:
        raise PruneError(f"{path}: {what} cannot be read: {error.strerror}.") from error
    except ValueError as error:
        if is_possible(path):
            raise
        raise PruneError(f"{path}: {what} cannot be read: {_IMPOSSIBLE}") from error


def read_file(path: Path, what: str, largest: int = _LARGEST) -> bytes:
    """The bytes of a file of at most ``largest``; see :func:`open_regular`."""
    with open_regular(path, what) as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise OSError(errno.EFBIG, f"it has {size} bytes, more than such a file ever has")
        return file.read(size)


def _created(path: Path) -> BinaryIO:
    """A new file beside ``path``, held for as long as it is open."""
    while True:
        name = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{TEMPORARY}")
        file = open(name, "w+b", opener=lambda name, _: os.open(name, _EXCLUSIVE, 0o666))
        lock(file.fileno())
        if names(name, file.fileno()):  # not swept before it was held
            return file
        file.close()


def _sweep(folder: Path) -> None:
    """Remove what processes were writing that are no more: nobody holds it."""
    for name in folder.glob(f".*{TEMPORARY}"):
        with contextlib.suppress(OSError):
            descriptor = os.open(name, os.O_RDWR | getattr(os, "O_NOFOLLOW", 0))
            try:
                if lock(descriptor):
                    name.unlink()
            finally:
                os.close(descriptor)
