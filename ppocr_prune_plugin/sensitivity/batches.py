"""Evaluation images, read and preprocessed once."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from tqdm import tqdm

from ..arrays import update
from .spill import ArrayStore

# A test on images needs some tens of units to look at; larger ones run faster.
_LARGEST_UNIT, _MANY_UNITS = 8, 64


class CachedBatches:
    """A data loader's images, kept for many evaluations in *units* of one to eight images.

    What does not fit into ``cache_mb`` MiB of memory goes to a temporary folder below ``folder``.
    A unit is a batch as the loader would give it, a list of tensors; batches that hold anything
    but one array row per image stay whole.

    Attributes:
        sizes: images of each unit.
        checksum: of everything in the batches (arrays, texts, numbers), 64 bits.
        store: what holds them; what is left of its memory may be used for more.
    """

    def __init__(
        self, loader: paddle.io.DataLoader, samples: int | None, cache_mb: int, folder: Path
    ) -> None:
        self.store = ArrayStore(cache_mb * 2**20, folder)
        self.sizes: list[int] = []
        seen = hashlib.blake2b(digest_size=8)
        chosen = _subset(loader, samples)
        images = min(samples or len(loader.dataset), len(loader.dataset))
        unit = max(1, min(_LARGEST_UNIT, images // _MANY_UNITS))
        for batch in tqdm(chosen, desc="prune: read evaluation set", total=len(chosen)):
            arrays = [item.numpy() if isinstance(item, paddle.Tensor) else item for item in batch]
            update(seen, arrays)
            for part in _parts(arrays, unit):
                self.store[len(self.sizes)] = part
                self.sizes.append(len(part[0]))
        self.checksum = int.from_bytes(seen.digest(), "big")

    @property
    def images(self) -> int:
        """Images in all units together."""
        return sum(self.sizes)

    def select(self, units: Sequence[int], starting: Callable[[int], object]) -> _Selection:
        """Stands in for a loader of these units; ``starting`` is told which one comes next."""
        return _Selection(self.store, units, starting)

    def close(self) -> None:
        """Forget the images and remove what was spilled."""
        self.store.clear()


class _Selection:
    def __init__(
        self, store: ArrayStore, units: Sequence[int], starting: Callable[[int], object]
    ) -> None:
        self._store, self._units, self._starting = store, units, starting

    def __len__(self) -> int:
        return len(self._units)

    def __iter__(self) -> Iterator[list[Any]]:
        for unit in self._units:
            self._starting(unit)
            arrays = self._store[unit]
            yield [paddle.to_tensor(a) if isinstance(a, np.ndarray) else a for a in arrays]


def _parts(arrays: list[Any], size: int) -> Iterator[list[Any]]:
    images = len(arrays[0])
    if not all(isinstance(a, np.ndarray) and a.dtype != object for a in arrays) or not all(
        a.ndim > 0 and len(a) == images for a in arrays
    ):
        yield arrays
        return
    for begin in range(0, images, size):
        yield [array[begin : begin + size] for array in arrays]


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
