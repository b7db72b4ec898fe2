"""Arrays in bounded memory; what does not fit lies on disk."""

from __future__ import annotations

import pickle
import shutil
import tempfile
from collections.abc import Hashable
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ..errors import PruneError
from ..files import open_regular
from ..holding import Held, hold, is_held

_PREFIX, _HELD = "spilled-", "held"


class ArrayStore:
    """Nested lists, tuples and dicts of arrays by key, at most ``budget`` bytes of them in memory.

    The others go to a temporary folder below ``folder``, which is removed with the object; setting
    an item raises :class:`PruneError` where that folder cannot take it. With ``disk`` those are so
    many bytes at most, and what is beyond, or finds no room, is not kept.
    """

    def __init__(self, budget: int, folder: Path, disk: int | None = None) -> None:
        self._budget, self._folder, self._disk = budget, folder, disk
        self._on_disk = 0
        self._memory: dict[Hashable, Any] = {}
        self._files: dict[Hashable, Path] = {}
        self._left = budget
        self._written = 0
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._held: Held | None = None
        _sweep(folder)

    @property
    def left(self) -> int:
        """Bytes of memory that are not taken."""
        return max(self._left, 0)

    def keys(self) -> list[Any]:
        """Keys of what is here."""
        return [*self._memory, *self._files]

    def __contains__(self, key: Hashable) -> bool:
        return key in self._memory or key in self._files

    def __setitem__(self, key: Hashable, value: Any) -> None:
        self._left += _size(self._memory.pop(key, None))
        size = _size(value)
        if self._left >= size:
            self._left -= size
            self._memory[key] = value
        elif self._disk is None or self._on_disk + size <= self._disk:
            try:
                self._files[key] = self._write(value)
                self._on_disk += size
            except OSError as error:
                if self._disk is None:
                    raise self._full(error) from error
                self._disk = 0

    def _write(self, value: Any) -> Path:
        if self._spill is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._spill = tempfile.TemporaryDirectory(prefix=_PREFIX, dir=self._folder)
            self._held = hold(Path(self._spill.name) / _HELD)
        path = Path(self._spill.name) / f"{self._written}.bin"
        self._written += 1
        try:
            with open(path, "wb") as file:
                pickle.dump(value, file, protocol=5)  # our own file, read back by nobody else
        except OSError:
            path.unlink(missing_ok=True)
            raise
        return path

    def _full(self, error: OSError) -> PruneError:
        return PruneError(
            "Prune.sensitivity.cache_mb: the evaluation set does not fit into "
            f"{self._budget // 2**20} MiB of memory, and the rest cannot be written to "
            f"{self._folder}: {error.strerror}. Nothing that was measured is lost. Make room "
            "there, give it more memory (cache_mb), or use fewer images "
            "(Prune.sensitivity.samples)."
        )

    def __getitem__(self, key: Hashable) -> Any:
        if key in self._memory:
            return self._memory[key]
        with open_regular(self._files[key], "what was spilled from memory") as file:
            return pickle.load(file)

    def clear(self) -> None:
        """Forget everything and remove what was spilled."""
        self._memory.clear()
        self._files.clear()
        self._left, self._on_disk = self._budget, 0
        if self._spill is not None:
            if self._held is not None:
                self._held.forget()
            self._spill.cleanup()
            self._spill = self._held = None


def _sweep(folder: Path) -> None:
    """Remove what processes spilled that are no more."""
    for path in folder.glob(f"{_PREFIX}*"):
        if is_held(path / _HELD) is False:
            shutil.rmtree(path, ignore_errors=True)


def _size(value: Any) -> int:
    return sum(a.nbytes for a in paddle.utils.flatten(value) if isinstance(a, np.ndarray))
