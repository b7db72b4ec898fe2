"""What a model's ``forward`` takes, as it trains and as it is deployed, read off its config."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle

from .calls import call_arguments
from .labels import BATCH, training_labels

Inputs = list[Any]
Size = list[int]


def _channels_first(options: Mapping[str, Any], channels: int) -> Size | None:
    return options.get("image_shape")


def _width_height(options: Mapping[str, Any], channels: int) -> Size | None:
    width, height = options["image_shape"][-2:]
    return [channels, height, width]


def _gray(options: Mapping[str, Any], channels: int) -> Size | None:
    shape = options["image_shape"]
    return shape if len(shape) == 3 else [channels, shape[1], shape[0]]


def _height_width(options: Mapping[str, Any], channels: int) -> Size | None:
    height, width = options["image_shape"]
    return [channels, height, width]


def _widest(options: Mapping[str, Any], channels: int) -> Size | None:
    depth, height, _, width = options["image_shape"]
    return [depth, height, width]


def _crop(options: Mapping[str, Any], channels: int) -> Size | None:
    width, height = options.get("size") or (640, 640)
    return [channels, height, width]


def _padded(options: Mapping[str, Any], channels: int) -> Size | None:
    height, width = options["size"]
    return [channels, height, width]


def _low_resolution(options: Mapping[str, Any], channels: int) -> Size | None:
    scale = options.get("down_sample_scale") or 2
    return [channels, options["imgH"] // scale, options["imgW"] // scale]


# Transforms that give every picture one size, and how they state it.
_RESIZES: dict[str, Callable[[Mapping[str, Any], int], Size | None]] = {
    **dict.fromkeys(
        (
            *("RecResizeImg", "ClsResizeImg", "SVTRRecResizeImg", "ABINetRecResizeImg"),
            *("RecResizeImgForMultiHead", "SRNRecResizeImg", "VLRecResizeImg", "RFLRecResizeImg"),
        ),
        _channels_first,
    ),
    "GrayRecResizeImg": _gray,
    "SPINRecResizeImg": _width_height,
    "PRENResizeImg": _height_width,
    "SARRecResizeImg": _widest,
    "RobustScannerRecResizeImg": _widest,
    "EastRandomCropData": _crop,
    "PaddingTableImage": _padded,
    "SRResize": _low_resolution,
}
# Sizes that PaddleOCR's exporter takes where the config states none, by algorithm and by type.
_SIZES: dict[str, Size] = {
    "CAN": [1, 64, 256],
    "LaTeXOCR": [1, 64, 256],
    "UniMERNet": [1, 192, 672],
    "PP-FormulaNet-S": [1, 384, 384],
    "PP-FormulaNet-L": [1, 768, 768],
    "TableMaster": [3, 480, 480],
    "SLANeXt": [3, 512, 512],
    "rec": [3, 48, 320],
    "cls": [3, 48, 192],
    "det": [3, 640, 640],
    "e2e": [3, 640, 640],
    "table": [3, 488, 488],
    "kie": [3, 512, 512],
    "sr": [3, 16, 64],
}
_DEPLOYED_LABELS = {
    "SRN": slice(-4, None),
    "SAR": slice(-1, None),
    "RobustScanner": slice(-2, None),
}


def example_inputs(config: Mapping[str, Any]) -> Inputs:
    """What the deployed model takes for one picture: the size that FLOPs are counted at.

    Pictures are ``(shape, dtype)``; what else the model takes (masks, positions) are arrays. The
    size is that of ``Global.d2s_train_image_shape``, of the transforms of the evaluation and
    training sets, or the usual one of the model, in this order.
    """
    shape = image_shape(config)
    picture = ([1, *shape], "float32")
    architecture = config["Architecture"]
    kind, algorithm = architecture.get("model_type"), str(architecture.get("algorithm"))
    labels = training_labels(config, tuple(shape), 1)
    if algorithm in _DEPLOYED_LABELS:
        return [picture, labels[_DEPLOYED_LABELS[algorithm]]]
    alone = (architecture.get("Transform") or {}).get("infer_mode", False)
    if kind == "kie" or algorithm == "CAN" or (kind == "sr" and not alone):
        return call_arguments([picture, *labels], config)
    return [picture]


def training_inputs(config: Mapping[str, Any]) -> Inputs:
    """What the model takes in PaddleOCR's training loop: two pictures, and labels as arrays.

    The same whether or not there is a training set, so that channel groups never depend on one.
    """
    shape = image_shape(config)
    labels = training_labels(config, tuple(shape), BATCH)
    return call_arguments([([BATCH, *shape], "float32"), *labels], config)


def image_shape(config: Mapping[str, Any]) -> Size:
    """``[channels, height, width]`` of a picture."""
    stated = config.get("Global", {}).get("d2s_train_image_shape")
    if stated:
        return [int(size) for size in stated]
    architecture = config["Architecture"]
    channels = int(architecture.get("in_channels", 3))
    for name, options in _transforms(config):
        size = _RESIZES[name](options, channels) if name in _RESIZES else None
        if size:
            return [int(number) for number in size]
    usual = _SIZES.get(str(architecture.get("algorithm")))
    if usual:
        return usual
    return [channels, *_SIZES.get(str(architecture.get("model_type")), _SIZES["det"])[1:]]


def _transforms(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for part in ("Eval", "Train"):
        dataset = (config.get(part) or {}).get("dataset") or {}
        for transform in dataset.get("transforms") or []:
            for name, options in transform.items():
                yield name, options or {}


@contextmanager
def built_to_train(model: paddle.nn.Layer) -> Iterator[None]:
    """Let a model that was built for export (``infer_mode``: pictures alone) take a training batch
    as well, so that its channel groups are those of the model that was trained."""
    built = [layer for layer in model.sublayers() if getattr(layer, "infer_mode", False) is True]
    for layer in built:
        layer.infer_mode = False
    try:
        yield
    finally:
        for layer in built:
            layer.infer_mode = True
