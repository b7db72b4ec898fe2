"""The training batches that batch norms are re-estimated on: the same after every restart and in
every process, although augmentation is random."""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ...files import replacing
from ...sensitivity.team import Team

Batch = list[Any]

# Recognisers train on a hundred lines at once; a statistic over this many pictures is as good.
_PICTURES = 32


def calibration_batches(
    arguments: Mapping[str, Any], count: int, folder: Path, team: Team
) -> list[Batch]:
    """The first ``count`` batches of the training loader, kept in ``folder`` for the next time.

    Args:
        arguments: what ``program.train`` was called with, by name.
        count: number of batches.
        folder: where they are kept, in a file that belongs to this ``Train`` section.
        team: rank 0 writes, the others wait for the file.
    """
    if count == 0:
        return []
    described = json.dumps([arguments["config"].get("Train"), count], sort_keys=True, default=str)
    key = hashlib.sha256(described.encode()).hexdigest()[:12]
    path = folder / f"calibration-{key}.npz"
    kept = _read(path)
    if kept is None and team.rank == 0:
        made = [
            [item.numpy() if isinstance(item, paddle.Tensor) else item for item in batch]
            for batch in itertools.islice(arguments["train_dataloader"], count)
        ]
        if not all(_storable(item) for batch in made for item in batch):
            return [_tensors(batch) for batch in made]
        _write(path, made)
        kept = made
    while kept is None:
        time.sleep(0.2)
        kept = _read(path)
    return [_tensors(batch) for batch in kept]


def few_pictures(batch: Batch) -> Batch:
    """The first pictures of a batch with their labels; all where they cannot be told apart."""
    lengths = {len(item) if isinstance(item, paddle.Tensor) and item.ndim else 0 for item in batch}
    if len(lengths) != 1 or lengths == {0}:
        return batch
    return [item[:_PICTURES] for item in batch]


def _storable(item: Any) -> bool:
    return isinstance(item, np.ndarray) and item.dtype != object


def _tensors(batch: Batch) -> Batch:
    return [paddle.to_tensor(a) if isinstance(a, np.ndarray) else a for a in batch]


def _write(path: Path, batches: list[Batch]) -> None:
    arrays = {f"{i}-{j}": a for i, batch in enumerate(batches) for j, a in enumerate(batch)}
    with replacing(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **arrays)


def _read(path: Path) -> list[Batch] | None:
    """The batches in a file; None where there is none, or it is not whole."""
    try:
        with np.load(path, allow_pickle=False) as content:
            batches: dict[int, dict[int, Any]] = {}
            for name in content.files:
                batch, item = name.split("-")
                batches.setdefault(int(batch), {})[int(item)] = content[name]
    except (OSError, ValueError, EOFError):
        return None
    return [[items[j] for j in sorted(items)] for _, items in sorted(batches.items())]
