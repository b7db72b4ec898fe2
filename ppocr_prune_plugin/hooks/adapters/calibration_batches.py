"""The training batches that batch norms are re-estimated and readers compensated on: the same after
every restart and in every process, although augmentation is random; of the height that a model is
used at, although recognisers train on several."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import paddle

from ... import arrays
from ...errors import PruneError
from ...sensitivity.ranks import Ranks
from .inputs import image_shape

Batch = list[Any]

# Recognisers train on a hundred lines at once; a statistic over this many images is as good.
_IMAGES = 32
# So many run through the network together where it is only looked at: this bounds memory.
_AT_ONCE = 8


def calibration_batches(
    arguments: Mapping[str, Any], count: int, folder: Path, ranks: Ranks
) -> list[Batch]:
    """The first ``count`` batches of the training loader, kept in ``folder`` for the next time.

    Args:
        arguments: what ``program.train`` was called with, by name.
        count: number of batches.
        folder: where they are kept, in a file that belongs to this ``Train`` section and the
            contents of its label files.
        ranks: rank 0 writes, the others wait for the file.

    Raises:
        PruneError: the file is damaged or cannot be written, rank 0 is gone, or the batches hold
            what cannot be kept.
    """
    if count == 0:
        return []
    key = _key(arguments, count)
    path = folder / f"calibration-{key}.npz"
    if ranks.rank != 0:
        ranks.wait(f"calibration-{key}")
    else:
        if not path.exists():
            _draw(arguments["train_dataloader"], count, path)
        ranks.post(f"calibration-{key}")
    kept = arrays.read(
        path,
        "the file of calibration batches",
        "Move it away to have other batches drawn; what was measured with these does not fit them.",
    )
    batches = [_tensors(batch) for batch in kept]
    if not _of_several_sizes(arguments["config"]):
        return batches
    height = image_shape(arguments["config"])[1]
    return [_of_height(batch, height) for batch in batches]


def _of_several_sizes(config: Mapping[str, Any]) -> bool:
    """Whether PaddleOCR's sampler gives every batch another size."""
    return bool(((config.get("Train") or {}).get("sampler") or {}).get("scales"))


def _of_height(batch: Batch, height: int) -> Batch:
    """Lines of text as high as in inference, as long as that makes them: some networks take no
    others when they do not train."""
    images = batch[0]
    if not isinstance(images, paddle.Tensor) or images.ndim != 4 or images.shape[2] == height:
        return batch
    width = max(1, round(images.shape[3] * height / images.shape[2]))
    resized = paddle.nn.functional.interpolate(images, size=[height, width], mode="bilinear")
    return [resized, *batch[1:]]


def _draw(loader: Any, count: int, path: Path) -> None:
    try:
        arrays.write(path, [as_arrays(batch) for batch in itertools.islice(loader, count)])
    except arrays.Unstorable as error:
        raise PruneError(
            f"Train: its batches hold a {error}, which cannot be kept for the next run. Set "
            "Prune.bn_batches: 0 (and a criterion that needs no gradients)."
        ) from error


def few_images(batch: Batch) -> Batch:
    """The first images of a batch with their labels; all where they cannot be told apart."""
    return batch if _length(batch) is None else [item[:_IMAGES] for item in batch]


def first_images(batches: Sequence[Batch], count: int) -> list[Batch]:
    """So many images of the batches with their labels, some at a time; whole batches where images
    cannot be told apart."""
    found: list[Batch] = []
    for batch in batches:
        length = _length(batch)
        if length is None:
            found.append(batch)
            count -= 1
            continue
        for start in range(0, min(length, count), _AT_ONCE):
            end = min(start + _AT_ONCE, length, count)
            found.append([item[start:end] for item in batch])
        count -= min(length, count)
    return found


def _length(batch: Batch) -> int | None:
    """Number of images; None where they cannot be told apart."""
    lengths = {len(item) if isinstance(item, paddle.Tensor) and item.ndim else 0 for item in batch}
    return lengths.pop() if len(lengths) == 1 and lengths != {0} else None


def as_arrays(value: Any) -> Any:
    """The same with arrays in place of tensors, however they lie in lists and mappings."""
    return _mapped(value, paddle.Tensor, lambda tensor: tensor.numpy())


def _tensors(value: Any) -> Any:
    return _mapped(value, np.ndarray, lambda a: a if a.dtype == object else paddle.to_tensor(a))


def _mapped(value: Any, kind: type, change: Any) -> Any:
    if isinstance(value, kind):
        return change(value)
    if isinstance(value, dict):
        return {key: _mapped(item, kind, change) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [_mapped(item, kind, change) for item in value]
        return items if isinstance(value, list) else tuple(items)
    return value


def described(value: Any) -> str:
    """Plain data from a config as text, the same in whatever order its keys are written."""
    try:
        return json.dumps(value, sort_keys=True, default=str)
    except (TypeError, ValueError, RecursionError):  # keys of several kinds; YAML inside itself
        return ascii(value)


def _key(arguments: Mapping[str, Any], count: int) -> str:
    """What tells the batches of one training set from those of another."""
    train = arguments["config"].get("Train")
    found = hashlib.sha256(described([train, count]).encode())
    for path in _label_files(train):
        try:
            found.update(hashlib.sha256(Path(path).read_bytes()).digest())
        except (OSError, ValueError):  # not one that PaddleOCR reads either
            found.update(b"none")
    return found.hexdigest()[:12]


def _label_files(train: Any) -> list[str]:
    stated = ((train or {}).get("dataset") or {}).get("label_file_list") or []
    return [path for path in ([stated] if isinstance(stated, str) else stated) if path]
