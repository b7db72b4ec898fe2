"""What a model's ``forward`` takes, as it trains and as it is deployed, read off its config."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import paddle

from ...errors import PruneError
from .algorithms import algorithm_of, require_prunable
from .calls import call_arguments
from .decisions import exported_size
from .labels import BATCH, training_labels
from .tree import tree_in_use

Inputs = list[Any]
Size = list[int]

_AXES = ("channels", "height", "width")
_STATED = "Global.d2s_train_image_shape"


@dataclass(frozen=True)
class _Resize:
    """How a transform that gives every image one size states it.

    Attributes:
        option: the name of the option.
        axes: what its items are, one word for each (``_``: something else); several are told apart
            by the number of items. ``side`` is a single number.
        otherwise: sizes of axes that the option does not state.
    """

    option: str = "image_shape"
    axes: tuple[str, ...] = ("channels height width",)
    otherwise: Mapping[str, int] = field(default_factory=dict)


_CHANNELS_FIRST = _Resize()
_SCALE = _Resize(axes=("scale",))
_HEIGHT_WIDTH = _Resize(axes=("height width",))
_WIDEST = _Resize(axes=("channels height _ width",))
# All but SRResize, which states the size of the network's result.
_RESIZES: dict[str, _Resize] = {
    **dict.fromkeys(
        (
            *("RecResizeImg", "ClsResizeImg", "SVTRRecResizeImg", "ABINetRecResizeImg"),
            *("RecResizeImgForMultiHead", "SRNRecResizeImg", "VLRecResizeImg", "RFLRecResizeImg"),
            "SSLRotateResize",
        ),
        _CHANNELS_FIRST,
    ),
    "GrayRecResizeImg": _Resize(axes=("width height", "channels height width")),
    "SPINRecResizeImg": _Resize(axes=("width height",)),
    "PRENResizeImg": _HEIGHT_WIDTH,
    "SARRecResizeImg": _WIDEST,
    "RobustScannerRecResizeImg": _WIDEST,
    "EastRandomCropData": _Resize("size", ("width height",), {"height": 640, "width": 640}),
    "RandomCropImgMask": _Resize("size", ("height width",)),
    "EASTProcessTrain": _HEIGHT_WIDTH,
    "SASTProcessTrain": _HEIGHT_WIDTH,
    "SquareResizePad": _Resize("target_size", ("side",)),
    "PaddingTableImage": _Resize("size", ("height width",)),
    "UniMERNetImgDecode": _Resize("input_size", ("height width",), {"channels": 1}),
}
# Sizes where neither the config nor the exporter states one, by type.
_SIZES: dict[str, Size] = {
    "rec": [3, 48, 320],
    "cls": [3, 48, 192],
    "det": [3, 640, 640],
    "e2e": [3, 640, 640],
    "table": [3, 488, 488],
    "kie": [3, 512, 512],
    "sr": [3, 16, 64],
}


def example_inputs(config: Mapping[str, Any]) -> Inputs:
    """What the deployed model takes for one image: the size that FLOPs are counted at.

    Images are ``(shape, dtype)``; what else the model takes (masks, positions) are arrays. Raises
    as :func:`image_shape` does.
    """
    shape = image_shape(config)
    image = ([1, *shape], "float32")
    architecture = config["Architecture"]
    deployed = algorithm_of(architecture).deployed
    if not deployed or (architecture.get("Transform") or {}).get("infer_mode", False):
        return [image]
    labels = training_labels(config, tuple(shape), 1)
    batch = [image, *(labels[name] for name in deployed if name in labels)]
    # In one list where training gives the model one.
    whole = isinstance(call_arguments(batch, config)[0], list)
    return [batch] if whole else [image, batch[1:]]


def training_inputs(config: Mapping[str, Any]) -> Inputs:
    """What the model takes in PaddleOCR's training loop: two images, and labels as arrays.

    The same whether or not there is a training set, so that channel groups never depend on one.
    Raises as :func:`image_shape` and :func:`.labels.training_labels` do.
    """
    shape = image_shape(config)
    image = ([BATCH, *shape], "float32")
    if call_arguments([image], config) == [image]:
        return [image]
    return call_arguments([image, *training_labels(config, tuple(shape), BATCH).values()], config)


def image_shape(config: Mapping[str, Any], source: str | None = None) -> Size:
    """``[channels, height, width]`` of an image.

    Each of the three is the first that is stated and not left free (-1 or nothing): by
    ``Global.d2s_train_image_shape``, by the transforms of the evaluation and then of the training
    set, by the exporter of the PaddleOCR tree in use, by what is usual for the model. ``source``
    names the config in messages; by default it is the one that the running tool was given.

    Raises:
        PruneError: a size is stated that is none, or the model is not for pruning.
    """
    from ..patches.config import section_source

    where = source or section_source()
    require_prunable(config, where)
    found: dict[str, int] = {}
    for sizes in _candidates(config, where):
        for axis, size in sizes.items():
            found.setdefault(axis, size)
        if len(found) == len(_AXES):
            break
    return [found[axis] for axis in _AXES]


def _candidates(config: Mapping[str, Any], source: str) -> Iterator[dict[str, int]]:
    """Sizes by axis, as far as each place states them, in the order in which they count."""
    stated = (config.get("Global") or {}).get("d2s_train_image_shape")
    if stated is not None:
        yield _sizes(f"{source}: {_STATED}", stated, _CHANNELS_FIRST)
    for name, options, place in _transforms(config):
        if name == "SRResize":
            yield _low_resolution(f"{source}: {place}.{name}", options)
        elif name in _RESIZES:
            resize = _RESIZES[name]
            value = options.get(resize.option)
            if value is not None:
                yield _sizes(f"{source}: {place}.{name}.{resize.option}", value, resize)
            yield dict(resize.otherwise)
    architecture = config["Architecture"]
    usual = algorithm_of(architecture).size
    if usual is not None:
        yield dict(zip(_AXES, usual, strict=True))
    channels = architecture.get("in_channels")
    yield _sizes(f"{source}: Architecture.in_channels", channels, _Resize(axes=("channels",)))
    exported = exported_size(tree_in_use(), architecture) or []
    yield {axis: size for axis, size in zip(_AXES, exported, strict=False) if size is not None}
    kind = str(architecture.get("model_type"))
    yield dict(zip(_AXES, _SIZES.get(kind, _SIZES["det"]), strict=True))


def _sizes(key: str, value: Any, resize: _Resize) -> dict[str, int]:
    """What an option of a config states; axes that it leaves free are left out."""
    items = list(value) if isinstance(value, list | tuple) else [value]
    for words in resize.axes:
        axes = ["height", "width"] if words == "side" else words.split()
        if words == "side" and len(items) == 1:
            items *= 2
        if len(axes) == len(items) and all(map(_is_size_or_free, items)):
            return {
                axis: int(size)
                for axis, size in zip(axes, items, strict=True)
                if axis != "_" and size is not None and size > 0
            }
    forms = [f"[{words.replace(' ', ', ')}]" if " " in words else words for words in resize.axes]
    raise PruneError(
        f"{key} is {value!r}, which is no size. Allowed: {' or '.join(forms)}, in whole numbers "
        "above 0, or -1 for what is left free."
    )


def _is_size_or_free(size: Any) -> bool:
    if size is None:
        return True
    if isinstance(size, bool) or not isinstance(size, int | float):
        return False
    return float(size).is_integer() and (size > 0 or size == -1)


def _low_resolution(key: str, options: Mapping[str, Any]) -> dict[str, int]:
    """Super-resolution states the size of its result, and by how much the image is smaller."""
    found: dict[str, int] = {}
    for option, axis in (("imgH", "height"), ("imgW", "width")):
        found |= _sizes(f"{key}.{option}", options.get(option), _Resize(axes=(axis,)))
    scale = _sizes(f"{key}.down_sample_scale", options.get("down_sample_scale"), _SCALE)
    return {axis: max(1, size // scale.get("scale", 2)) for axis, size in found.items()}


def _transforms(config: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any], str]]:
    for part in ("Eval", "Train"):
        dataset = (config.get(part) or {}).get("dataset") or {}
        for transform in dataset.get("transforms") or []:
            for name, options in transform.items():
                if options is None or isinstance(options, Mapping):
                    yield name, options or {}, f"{part}.dataset.transforms"


@contextmanager
def built_to_train(model: paddle.nn.Layer) -> Iterator[None]:
    """Let a model that was built for export (``infer_mode``: images alone) take a training batch
    as well, so that its channel groups are those of the model that was trained."""
    built = [layer for layer in model.sublayers() if getattr(layer, "infer_mode", False) is True]
    for layer in built:
        layer.infer_mode = False
    try:
        yield
    finally:
        for layer in built:
            layer.infer_mode = True
