"""Evaluation batches, read and preprocessed once."""

from __future__ import annotations

import pickle
import tempfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from tqdm import tqdm


class CachedBatches:
    """A data loader's batches, kept for many evaluations; stands in for the loader.

    What does not fit into ``cache_mb`` MiB of memory goes to a temporary folder below ``folder``,
    which is removed with the object. Batches come out as the loader gave them: lists of tensors.
    """

    def __init__(
        self, loader: paddle.io.DataLoader, samples: int | None, cache_mb: int, folder: Path
    ) -> None:
        self._memory: list[list[Any]] = []
        self._files: list[Path] = []
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        self._folder = folder
        self.images = 0
        self.checksum = 0
        left = cache_mb * 2**20
        chosen = _subset(loader, samples)
        for batch in tqdm(chosen, desc="prune: read evaluation set", total=len(chosen)):
            arrays = [item.numpy() if isinstance(item, paddle.Tensor) else item for item in batch]
            self.images += len(arrays[0])
            for item in arrays:
                if isinstance(item, np.ndarray) and item.dtype != object:
                    self.checksum = zlib.crc32(np.ascontiguousarray(item).data, self.checksum)
            left -= sum(a.nbytes for a in arrays if isinstance(a, np.ndarray))
            if left >= 0:
                self._memory.append(arrays)
            else:
                self._write(arrays)

    def _write(self, arrays: list[Any]) -> None:
        if self._spill is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._spill = tempfile.TemporaryDirectory(prefix="batches-", dir=self._folder)
        path = Path(self._spill.name) / f"{len(self._files)}.bin"
        with open(path, "wb") as file:
            pickle.dump(arrays, file, protocol=5)  # our own file, read back by nobody else
        self._files.append(path)

    def __len__(self) -> int:
        return len(self._memory) + len(self._files)

    def __iter__(self) -> Iterator[list[Any]]:
        for arrays in self._memory:
            yield _tensors(arrays)
        for path in self._files:
            with open(path, "rb") as file:
                yield _tensors(pickle.load(file))

    def close(self) -> None:
        """Forget the batches and remove what was spilled."""
        self._memory.clear()
        self._files.clear()
        if self._spill is not None:
            self._spill.cleanup()
            self._spill = None


def _tensors(arrays: list[Any]) -> list[Any]:
    return [paddle.to_tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]


def _subset(loader: paddle.io.DataLoader, samples: int | None) -> Any:
    """The loader, or one over a fixed, seeded choice of its images."""
    dataset = loader.dataset
    if samples is None or samples >= len(dataset):
        return loader
    chosen = np.random.default_rng(0).choice(len(dataset), samples, replace=False)
    return paddle.io.DataLoader(
        paddle.io.Subset(dataset, sorted(chosen.tolist())),
        batch_size=min(loader.batch_sampler.batch_size, samples),
        shuffle=False,
        collate_fn=loader.collate_fn,
        num_workers=0,
        return_list=True,
    )
