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

BATCH = 2

_TEXT = 2  # characters of every label: a head that decodes step by step is traced in few steps
_MULTI = ("label_ctc", "label_gtc", "length", "valid_ratio")
# What the loader gives after the picture, in the order of PaddleOCR's configs.
_LABELS: dict[str, tuple[str, ...]] = {
    "SVTR_LCNet": _MULTI,
    "SVTR_HGNet": _MULTI,
    "SVTR": ("label", "length"),
    "NRTR": ("label", "length"),
    "SRN": (
        *("label", "length", "encoder_word_pos", "gsrm_word_pos"),
        *("gsrm_slf_attn_bias1", "gsrm_slf_attn_bias2"),
    ),
    "SAR": ("label", "valid_ratio"),
    "SATRN": ("label", "valid_ratio"),
    "RobustScanner": ("label", "valid_ratio", "word_positons"),
    "SEED": ("label", "length", "fast_label"),
    "SPIN": ("label", "length"),
    "RFL": ("label", "length", "cnt_label"),
    "VisionLAN": ("label", "label_res", "label_sub", "label_id", "length"),
    "ParseQ": ("label", "length"),
    "CPPD": ("label", "label_node", "length"),
    "CAN": ("image_mask", "label", "label_mask"),
    "LaTeXOCR": ("label", "attention_mask"),
    "UniMERNet": ("label", "attention_mask"),
    "PP-FormulaNet-S": ("label", "attention_mask"),
    "PP-FormulaNet-L": ("label", "attention_mask"),
    "TableAttn": ("structure", "bboxes", "bbox_masks", "shape"),
    "TableMaster": ("structure", "bboxes", "bbox_masks", "shape"),
    "SLANet": ("structure", "bboxes", "bbox_masks", "length", "shape"),
    "SLANeXt": ("structure", "bboxes", "bbox_masks", "length", "shape"),
    "SDMGR": ("relations", "texts", "points", "labels", "tag", "shape"),
    "Telescope": ("img_hr", "label"),
    "Gestalt": ("img_hr", "length", "input_tensor", "label"),
}
# Algorithms whose batches a collator completes: their KeepKeys do not say what the model gets.
_COLLATED = frozenset({"CAN", "LaTeXOCR", "UniMERNet", "PP-FormulaNet-S", "PP-FormulaNet-L"})


def training_labels(config: Mapping[str, Any], shape: tuple[int, ...], batch: int) -> list[Any]:
    """What stands behind the picture in a batch of the training loader.

    Args:
        config: the PaddleOCR config; the order is that of ``KeepKeys`` where ``Train`` has it.
        shape: ``[channels, height, width]`` of the picture.
        batch: number of pictures.

    Returns:
        Arrays (and lists of words for super-resolution); empty for models that take pictures alone.
    """
    algorithm = str(config["Architecture"].get("algorithm"))
    usual = _LABELS.get(algorithm, ())
    maker = _Maker(config, shape, batch)
    names = _keep_keys(config) if algorithm not in _COLLATED else None
    if names is None or not all(name in maker.known for name in names):
        names = usual
    return [maker.known[name]() for name in names] if usual else []


def _keep_keys(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Names after the picture in the training set's ``KeepKeys``; None where it is not stated."""
    dataset = (config.get("Train") or {}).get("dataset") or {}
    for transform in dataset.get("transforms") or []:
        keys = (transform.get("KeepKeys") or {}).get("keep_keys")
        if keys:
            return tuple(str(key) for key in keys[1:])
    return None


class _Maker:
    """Makes one array per name that a loader may give; characters are numbered 1 and 2."""

    def __init__(self, config: Mapping[str, Any], shape: tuple[int, ...], batch: int) -> None:
        architecture = config["Architecture"]
        self.algorithm = str(architecture.get("algorithm"))
        self.table = architecture.get("model_type") == "table"
        self.head: Mapping[str, Any] = architecture.get("Head") or {}
        self.shape = shape
        self.batch = batch
        stated = config.get("Global", {}).get("max_text_length")
        self.classes = int(self.head.get("out_channels", 38))
        self.corners = int(self.head.get("loc_reg_num", 4))
        self.length = int(stated or self.head.get("max_text_length") or 25)
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
        return int(self.head.get("max_text_length") or self.length)

    def _text(self) -> Any:
        """Start, two characters, end, padding."""
        text = self._full((self.length + 2,), 0)
        text[:, 1 : 1 + _TEXT] = [1, 2]
        return text

    def _label(self) -> Any:
        if self.algorithm in ("Telescope", "Gestalt"):
            return ["01"] * self.batch
        if self.algorithm in _COLLATED:
            return self._text()[:, : _TEXT + 2]
        if self.algorithm in ("RobustScanner", "SATRN", "SRN", "VisionLAN"):
            return self._text()[:, : self._words()]  # positions are counted up to this length
        return self._text()

    def _cells(self) -> int:
        return int(self.head.get("max_text_length") or 500) + 2

    def _structure(self) -> Any:
        cells = self._full((self._cells(),), 0)
        cells[:, 1 : 1 + _TEXT] = [1, 2]
        return cells

    def _size(self) -> Any:
        height, width = self.shape[1:]
        if self.table:
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
        return self._rows(np.stack([ones] * int(self.head.get("num_heads", 8))))
