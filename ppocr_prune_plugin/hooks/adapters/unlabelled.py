"""Images without labels, prepared as the training images of a config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from ...errors import PruneError
from ...files import is_possible

KEY = "Prune.recovery.unlabelled"

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".tif", ".tiff", ".webp"}
# Transforms that read or make labels, or paste together what other lines of a label file name.
_OF_LABELS = re.compile(r"LabelEncode|^Make\w*Map$|^KeepKeys$|^CopyPaste$|ConAug$")
_BAD = 20  # images in a row that cannot be read
_SIDE = 0.1  # of the square that crops are made around, of the image's shorter side

Data = dict[str, Any]


def image_files(folders: Sequence[str], source: str) -> list[Path]:
    """The images in some folders and in the folders below them.

    Raises:
        PruneError: one of them is no folder, or has no image in it.
    """
    found: list[Path] = []
    for folder in folders:
        path = Path(folder)
        if not is_possible(folder) or not path.is_dir():
            raise PruneError(f"{source}: {KEY}: {folder} is no folder.")
        own = sorted(p for p in path.rglob("*") if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not own:
            raise PruneError(
                f"{source}: {KEY}: {folder} has no images in it ({', '.join(sorted(_SUFFIXES))})."
            )
        found += own
    return found


class Unlabelled:
    """Batches of images, drawn in turn at random.

    They go through the transforms of the training set without those that need labels. A detector's
    crops are made around text there; here around a random square, so that they show as much of an
    image. They are prepared in this process: beside a thread of ours the loader's processes could
    not be forked safely.

    Args:
        files: the images.
        config: the config of the model.
        dataset: the training set (one that gives batches of several sizes resizes by itself).
        seed: of the order; another one in each process.
    """

    def __init__(
        self, files: Sequence[Path], config: Mapping[str, Any], dataset: Any, seed: int
    ) -> None:
        from ppocr.data.imaug import create_operators

        stated = config["Train"]["dataset"]["transforms"]
        chosen = [t for t in stated if not _OF_LABELS.search(next(iter(t)))]
        names = [next(iter(transform)) for transform in chosen]
        operators = create_operators(chosen, config["Global"])
        self._operators = list(zip(names, operators, strict=True))
        self._dataset = dataset
        self._random = np.random.default_rng(seed)
        self._files = self._in_turn(files)

    def batch(self, like: paddle.Tensor) -> paddle.Tensor:
        """As many images as there are in ``like``, of their size ``[channels, height, width]``.

        Raises:
            PruneError: they cannot be read or prepared.
        """
        count, _, height, width = like.shape
        images = [self._sized(data, height, width) for data in self._prepare(count)]
        wrong = next((image.shape for image in images if list(image.shape) != like.shape[1:]), None)
        if wrong is not None:
            raise PruneError(
                f"{KEY}: the transforms of the training set make images of {list(wrong)} without "
                f"labels and of {like.shape[1:]} with them. Leave the key away."
            )
        return paddle.to_tensor(np.stack(images).astype("float32"))

    def _in_turn(self, files: Sequence[Path]) -> Iterator[Path]:
        while True:
            yield from (files[i] for i in self._random.permutation(len(files)))

    def _prepare(self, count: int) -> list[Data]:
        found: list[Data] = []
        bad = 0
        while len(found) < count:
            path = next(self._files)
            data = self._transformed(path)
            if data is not None:
                found.append(data)
                bad = 0
            elif (bad := bad + 1) == _BAD:
                raise PruneError(f"{KEY}: {_BAD} images in a row cannot be read, {path} the last.")
        return found

    def _transformed(self, path: Path) -> Data | None:
        try:
            data: Data | None = {"image": path.read_bytes(), "img_path": str(path), "label": ""}
        except OSError:
            return None
        for name, operator in self._operators:
            if data is None:
                return None
            try:
                data = operator(data)
            except Exception as error:  # whatever PaddleOCR's code raises
                if name == "DecodeImage":
                    return None
                raise PruneError(
                    f"{KEY}: Train.dataset.transforms.{name} fails on images without labels "
                    f"({type(error).__name__}: {str(error)[:200]}). Leave the key away."
                ) from error
            if name == "DecodeImage" and data is not None:
                self._mark(data)
        return data

    def _mark(self, data: Data) -> None:
        """A square somewhere, for transforms that look for text."""
        height, width = data["image"].shape[:2]
        side = max(2, int(_SIDE * min(height, width)))
        x = int(self._random.integers(max(1, width - side)))
        y = int(self._random.integers(max(1, height - side)))
        corners = [[x, y], [x + side, y], [x + side, y + side], [x, y + side]]
        data["polys"] = np.array([corners], "float32")
        data["texts"], data["ignore_tags"] = [""], np.array([False])

    def _sized(self, data: Data, height: int, width: int) -> npt.NDArray[Any]:
        image: npt.NDArray[Any] = data["image"]
        if image.dtype != np.uint8 or not hasattr(self._dataset, "resize_norm_img"):
            return image
        sized: npt.NDArray[Any] = self._dataset.resize_norm_img(dict(data), width, height)["image"]
        return sized
