"""What a model's ``forward`` takes, read off its PaddleOCR config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import paddle

Inputs = list[Any]

# Transforms that give every picture one size, and the key of ``[channels, height, width]``.
_RESIZES = {
    "RecResizeImg": "image_shape",
    "ClsResizeImg": "image_shape",
    "SVTRRecResizeImg": "image_shape",
    "ABINetRecResizeImg": "image_shape",
    "RecResizeImgForMultiHead": "image_shape",
}
_DEFAULTS = {"rec": [3, 48, 320], "cls": [3, 48, 192], "det": [3, 640, 640]}


def example_inputs(config: Mapping[str, Any]) -> Inputs:
    """``[(shape, dtype)]`` of one picture: the size that FLOPs are counted at.

    Taken from ``Global.d2s_train_image_shape``, the transforms of the evaluation and training
    sets, or the usual size of the model type, in this order.
    """
    return [([1, *_image_shape(config)], "float32")]


def _image_shape(config: Mapping[str, Any]) -> list[int]:
    stated = config.get("Global", {}).get("d2s_train_image_shape")
    if stated:
        return [int(size) for size in stated]
    architecture = config["Architecture"]
    kind = str(architecture.get("model_type"))
    channels = int(architecture.get("in_channels", 3))
    for name, options in _transforms(config):
        if name in _RESIZES and options.get(_RESIZES[name]):
            return [int(size) for size in options[_RESIZES[name]]]
        if name == "EastRandomCropData" and options.get("size"):
            width, height = options["size"]
            return [channels, int(height), int(width)]
    return [channels, *_DEFAULTS.get(kind, _DEFAULTS["det"])[1:]]


def _transforms(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for part in ("Eval", "Train"):
        dataset = (config.get(part) or {}).get("dataset") or {}
        for transform in dataset.get("transforms") or []:
            for name, options in transform.items():
                yield name, options or {}


def fused_layers(model: paddle.nn.Layer) -> list[str]:
    """Layers that PaddleOCR's export turns into one convolution (``rep()``)."""
    return [
        name
        for name, layer in model.named_sublayers()
        if callable(getattr(layer, "rep", None)) and not getattr(layer, "is_repped", False)
    ]
