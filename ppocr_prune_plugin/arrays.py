"""Nested lists, tuples and mappings of arrays, text and numbers: as a file, and as a digest.

A file is NumPy's ``.npz`` with the nesting as JSON among its arrays, and the SHA-256 of all that at
its end. Nothing in it is code, and a file that is not whole is never taken for one.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from .errors import PruneError
from .files import read_file, replacing

_NESTING = "nesting"
_DIGEST_BYTES = hashlib.sha256().digest_size
_LARGEST = 2**36  # bytes; what these files hold was in memory once


class Unstorable(TypeError):
    """A value that is neither an array nor text, number, list, tuple or mapping."""


def write(path: Path, value: Any) -> None:
    """Write a nested value; the file is complete or as it was before.

    Raises:
        Unstorable: something in it is of another type.
        PruneError: the file cannot be written.
    """
    arrays: list[np.ndarray] = []
    nesting = json.dumps(_plain(value, arrays))
    named: dict[str, Any] = {str(index): array for index, array in enumerate(arrays)}
    named[_NESTING] = np.frombuffer(nesting.encode(), np.uint8)
    buffer = io.BytesIO()
    np.savez(buffer, **named)
    data = buffer.getbuffer()
    with replacing(path) as file:
        file.write(data)
        file.write(hashlib.sha256(data).digest())


def read(path: Path, what: str, mend: str) -> Any:
    """Read what :func:`write` wrote.

    Args:
        path: the file.
        what: what it is, for messages.
        mend: what to do about a file that is damaged, a sentence.

    Raises:
        PruneError: it is not there, or not whole.
    """
    data = read_file(path, what, _LARGEST)
    body, digest = data[:-_DIGEST_BYTES], data[-_DIGEST_BYTES:]
    if hashlib.sha256(body).digest() != digest:
        raise PruneError(f"{path}: {what} is damaged (its checksum does not fit). {mend}")
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as content:
            return _nested(json.loads(content[_NESTING].tobytes()), content)
    except Exception as error:  # of a forged file; zip and header readers raise what they like
        raise PruneError(
            f"{path}: {what} is damaged ({type(error).__name__}: {error}). {mend}"
        ) from error


def digest(value: Any) -> str:
    """16 hexadecimal digits that stand for a nested value: its arrays to the bit, their types and
    shapes, texts, and how they lie in each other. Other objects count by their type alone."""
    found = hashlib.blake2b(digest_size=8)
    update(found, value)
    return found.hexdigest()


class Hash(Protocol):
    """What :mod:`hashlib` makes."""

    def update(self, data: Any, /) -> None:
        """Take more bytes in."""


def update(found: Hash, value: Any) -> None:
    """Take a nested value into a digest."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        array = np.ascontiguousarray(value)
        found.update(f"{array.dtype.str}{array.shape}".encode())
        found.update(array.reshape(-1).view(np.uint8).data if array.size else b"")
    elif isinstance(value, dict):
        found.update(f"dict{len(value)}".encode())
        for key, item in value.items():
            update(found, key)
            update(found, item)
    elif isinstance(value, list | tuple | np.ndarray):
        found.update(f"list{len(value)}".encode())
        for item in value:
            update(found, item)
    elif isinstance(value, str | int | float | bool | bytes | None):
        found.update(f"{type(value).__name__}{value!r};".encode("utf-8", "backslashreplace"))
    else:
        found.update(type(value).__name__.encode())


def _plain(value: Any, arrays: list[np.ndarray]) -> Any:
    """The nesting as JSON types; arrays go to the list and are named by their place there."""
    if isinstance(value, np.ndarray | np.generic) and value.dtype != object:
        arrays.append(np.asarray(value))
        return {"array": len(arrays) - 1}
    if isinstance(value, np.ndarray):
        return {"objects": [_plain(item, arrays) for item in value.reshape(-1)], "of": value.shape}
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {"dict": {key: _plain(item, arrays) for key, item in value.items()}}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, arrays) for item in value]}
    if isinstance(value, list):
        return [_plain(item, arrays) for item in value]
    if value is None or isinstance(value, str | int | float | bool):
        return value
    raise Unstorable(type(value).__name__)


def _nested(plain: Any, content: Any) -> Any:
    if isinstance(plain, list):
        return [_nested(item, content) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "array" in plain:
        return content[str(plain["array"])]
    if "dict" in plain:
        return {key: _nested(item, content) for key, item in plain["dict"].items()}
    if "tuple" in plain:
        return tuple(_nested(item, content) for item in plain["tuple"])
    objects = np.empty(len(plain["objects"]), object)
    objects[:] = [_nested(item, content) for item in plain["objects"]]
    return objects.reshape(plain["of"])
