"""A training batch made up from the config: what the loader would give, with few characters.

Recognition, table and key-information heads take labels when they train. Where a network is traced
there may be no training set (export, inference), and channel groups must come out the same with
and without one; so that labels are never read from the data, but made here, always alike: the
shapes of PaddleOCR's label encoders, the values of a text of two characters.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ...errors import PruneError
from .algorithms import ALGORITHMS, COLLATORS, algorithm_of

BATCH = 2

_TEXT = 2  # characters of every label: a head that decodes step by step is traced in few steps


def training_labels(
    config: Mapping[str, Any], shape: tuple[int, ...], batch: int
) -> dict[str, Any]:
    """What stands behind the image in a batch of the training loader, in its order.

    Args:
        config: the PaddleOCR config; the order is that of ``KeepKeys`` where ``Train`` has it.
        shape: ``[channels, height, width]`` of the image.
        batch: number of images.

    Returns:
        Name → array (or list of words for super-resolution); empty where nothing is known of them.

    Raises:
        PruneError: ``KeepKeys`` of an algorithm that is not in the table names a label of a form
            that is not known.
    """
    architecture = config["Architecture"]
    algorithm = algorithm_of(architecture)
    loader = (config.get("Train") or {}).get("loader") or {}
    collated = COLLATORS.get(str(loader.get("collate_fn")))
    maker = _Maker(config, shape, batch, algorithm.collated or collated is not None)
    names = collated or (None if algorithm.collated else _keep_keys(config))
    if names is None or not all(name in maker.known for name in names):
        name = str(architecture.get("algorithm"))
        if names is not None and name not in ALGORITHMS:
            unknown = [name for name in names if name not in maker.known]
            raise PruneError(
                f"Train.dataset.transforms.KeepKeys: {', '.join(unknown)}: the form of this label "
                f"is not known, and neither is Architecture.algorithm: {name}, so {name} cannot be "
                f"traced as it trains. Labels that are known: {', '.join(maker.known)}."
            )
        names = algorithm.labels
    return {name: maker.known[name]() for name in names}


def _keep_keys(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names after the image in the training set's ``KeepKeys``; None where it is not stated."""
    dataset = (config.get("Train") or {}).get("dataset") or {}
    for transform in dataset.get("transforms") or []:
        keys = (transform.get("KeepKeys") or {}).get("keep_keys")
        if keys:
            return tuple(str(key) for key in keys[1:])
    return None


def _positive(*values: Any) -> int:
    """The first that is a positive whole number; configs may state nothing, or -1."""
    return next(v for v in values if isinstance(v, int) and not isinstance(v, bool) and v > 0)


class _Maker:
    """Makes one array per name that a loader may give; characters are numbered 1 and 2."""

    def __init__(
        self, config: Mapping[str, Any], shape: tuple[int, ...], batch: int, collated: bool
    ) -> None:
        architecture = config["Architecture"]
        self.collated = collated
        self.whole_text = algorithm_of(architecture).whole_text
        self.kind = architecture.get("model_type")
        self.head: Mapping[str, Any] = architecture.get("Head") or {}
        self.shape = shape
        self.batch = batch
        stated = (config.get("Global") or {}).get("max_text_length")
        self.classes = _positive(self.head.get("out_channels"), 38)
        self.corners = _positive(self.head.get("loc_reg_num"), 4)
        self.length = _positive(stated, self.head.get("max_text_length"), 25)
        self.known: dict[str, Callable[[], Any]] = {
            **dict.fromkeys(("label", "label_res", "label_sub"), self._label),
            **dict.fromkeys(("label_ctc", "label_sar", "label_gtc", "label_ace"), self._text),
            "length": lambda: self._full((), _TEXT),
            "valid_ratio": lambda: self._full((), 1.0, "float32"),
            "label_id": lambda: self._full((), 1),
            "cnt_label": lambda: self._full((self.classes,), 0.0, "float32"),
            "fast_label": lambda: self._full((300,), 0.0, "float32"),
            "label_node": lambda: self._full((self.classes + self.length + 1,), 1),
            "label_index": lambda: self._full((self.length + 1,), 1),
            "word_positons": lambda: self._rows(np.arange(self._words(), dtype="int64")),
            "encoder_word_pos": self._encoder_positions,
            "gsrm_word_pos": lambda: self._rows(np.arange(self._words(), dtype="int64")[:, None]),
            "gsrm_slf_attn_bias1": lambda: self._bias(np.triu, 1),
            "gsrm_slf_attn_bias2": lambda: self._bias(np.tril, -1),
            "image_mask": lambda: self._full((1, *self.shape[1:]), 1.0, "float32"),
            "label_mask": lambda: self._full((_TEXT + 2,), 1),
            "attention_mask": lambda: self._full((_TEXT + 2,), 1),
            "structure": self._structure,
            "bboxes": lambda: self._full((self._cells(), self.corners), 0.0, "float32"),
            "bbox_masks": lambda: self._full((self._cells(), 1), 0.0, "float32"),
            "shape": self._size,
            "relations": lambda: self._full((_TEXT, _TEXT, 5), 0.5, "float32"),
            "texts": lambda: self._full((_TEXT, _TEXT), 1),
            "points": self._boxes,
            "labels": lambda: self._full((_TEXT, _TEXT + 1), 0),
            "tag": lambda: self._full((2,), _TEXT),
            "img_hr": lambda: self._full((3, self.shape[1] * 2, self.shape[2] * 2), 0.5, "float32"),
            "input_tensor": lambda: self._full((_TEXT,), 1),
        }  # fmt: skip

    def _full(self, shape: tuple[int, ...], value: float, dtype: str = "int64") -> Any:
        return np.full((self.batch, *shape), value, dtype)

    def _rows(self, row: Any) -> Any:
        return np.stack([row] * self.batch)

    def _words(self) -> int:
        return _positive(self.head.get("max_text_length"), self.length)

    def _text(self) -> Any:
        """Start, two characters, end, padding."""
        text = self._full((self.length + 2,), 0)
        text[:, 1 : 1 + _TEXT] = [1, 2]
        return text

    def _label(self) -> Any:
        if self.kind == "sr":
            return ["01"] * self.batch
        if self.collated:
            return self._text()[:, : _TEXT + 2]
        if self.whole_text:
            return self._text()[:, : self._words()]  # positions are counted up to this length
        return self._text()

    def _cells(self) -> int:
        return _positive(self.head.get("max_text_length"), 500) + 2

    def _structure(self) -> Any:
        cells = self._full((self._cells(),), 0)
        cells[:, 1 : 1 + _TEXT] = [1, 2]
        return cells

    def _size(self) -> Any:
        height, width = self.shape[1:]
        if self.kind == "table":
            return self._rows(np.array([height, width, 1, 1, height, width], "float32"))
        return self._rows(np.array([height, width], "float32"))

    def _boxes(self) -> Any:
        height, width = self.shape[1:]
        boxes = [[0, 0, width // 2, height // 2], [width // 4, height // 4, width - 1, height - 1]]
        return self._rows(np.array(boxes, "float32"))

    def _encoder_positions(self) -> Any:
        count = self.shape[1] // 8 * (self.shape[2] // 8)
        return self._rows(np.arange(count, dtype="int64")[:, None])

    def _bias(self, triangle: Callable[..., Any], diagonal: int) -> Any:
        words = self._words()
        ones = triangle(np.ones((words, words), "float32"), diagonal) * np.float32(-1e9)
        return self._rows(np.stack([ones] * _positive(self.head.get("num_heads"), 8)))
