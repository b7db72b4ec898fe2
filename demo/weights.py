"""Recover trainable PP-OCR weights from published inference models (:mod:`.published`).

What an inference model lacks is initialised. DB's threshold head takes the features of
the trained binarize head and starts with the same threshold everywhere: in the first training
steps its loss was 1.4, against 4.0 with random weights and 5.4 as a full copy. The recogniser's
NRTR head, used in training only, stays random.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from tqdm import tqdm

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import replacing
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree

from .architectures import Kind, Release, architecture
from .mapping import assign
from .published import published_model, read_parameters
from .statistics import calibrate

Array = npt.NDArray[np.float32]

_LONG_SIDE = 640  # of detector inputs, pixels; a multiple of 32 like every input of the detector
# Where DB's threshold map starts: inside the range of its labels, 0.3 to 0.7.
_THRESHOLD = 0.35
_LINE_SHAPE: dict[Kind, tuple[int, int]] = {"rec": (48, 320), "cls": (48, 192)}


def build(kind: Kind, conv_kxk_num: int = 1, release: Release = "v4") -> Any:
    """Return PaddleOCR's model of that kind, in eval mode, with its default initial weights.

    Raises:
        PruneError: no PaddleOCR tree is found, or it does not have the model's networks.
    """
    tree = find_tree()
    use_tree(tree)
    import paddle
    from ppocr.modeling.architectures import build_model

    # The classifier names a parameter itself, and Paddle refuses a name that is taken: the guard
    # gives each model a name space of its own.
    section = architecture(kind, conv_kxk_num, release)
    try:
        with paddle.utils.unique_name.guard():
            model = build_model(section)
    except AssertionError as error:  # how PaddleOCR says that it does not know a name
        backbone = section["Backbone"]["name"]
        raise PruneError(
            f"{tree} cannot build the {release} {kind} model, which has the backbone {backbone}:"
            " name a PaddleOCR that has it with PADDLEOCR_ROOT (PP-OCRv6 is in its main branch)"
        ) from error
    model.eval()
    return model


def network_input(kind: Kind, path: Path) -> Array:
    """Read an image as the network's input (1, 3, H, W), scaled and normalised as in training.

    ``det``: long side 640, both sides multiples of 32. ``rec`` and ``cls``: one line of text, 48
    pixels high, cut or padded to 320 and 192 pixels.

    Raises:
        PruneError: the file is no image.
    """
    import cv2

    image = cv2.imread(str(path))
    if image is None:
        raise PruneError(f"{path} cannot be read as an image")
    if kind == "det":
        scale = _LONG_SIDE / max(image.shape[:2])
        height, width = (max(32, round(side * scale / 32) * 32) for side in image.shape[:2])
        resized = cv2.resize(image, (width, height)).astype(np.float32) / 255
        mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
        x = (resized - mean) / std
    else:
        height, width = _LINE_SHAPE[kind]
        fitting = min(width, max(1, round(image.shape[1] * height / image.shape[0])))
        x = np.zeros((height, width, 3))
        x[:, :fitting] = cv2.resize(image, (fitting, height)).astype(np.float32) / 127.5 - 1
    return x.transpose(2, 0, 1)[None].astype(np.float32)


def recovered_model(
    kind: Kind,
    images: Sequence[Path],
    conv_kxk_num: int = 1,
    calibrated: bool = True,
    release: Release = "v4",
) -> Any:
    """Return PaddleOCR's model with the recovered weights, in eval mode.

    ``images`` are training images for the calibration (lines of text for ``rec``); some tens
    are enough, 64 at most are used. ``cls`` has no fused layers and needs none.

    Raises:
        PruneError: the package or the PaddleOCR tree is missing, or there is no image.
    """
    arrays = read_parameters(published_model(kind, release))
    model = build(kind, conv_kxk_num, release)
    height, width = _LINE_SHAPE.get(kind, (64, 64))
    x = np.zeros((1, 3, height, width), np.float32)
    norms = assign(model, lambda: build(kind, conv_kxk_num, release), arrays, x)
    if calibrated and norms:
        if not images:
            raise PruneError("recovering weights needs some training images for calibration")
        calibrate(model, norms, _inputs(kind, images[:64]))
    if kind == "det":
        _initialise_threshold_head(model.head)
    return model


def recover(
    kind: Kind,
    out: Path,
    images: Sequence[Path],
    conv_kxk_num: int = 1,
    release: Release = "v4",
) -> Path:
    """Write the recovered, calibrated weights as PaddleOCR saves them; return the file.

    ``out`` may or may not end in ``.pdparams``. See :func:`recovered_model` for the rest.

    Raises:
        PruneError: the package or the PaddleOCR tree is missing, or there is no image.
    """
    import paddle

    target = out if out.suffix == ".pdparams" else Path(f"{out}.pdparams")
    model = recovered_model(kind, images, conv_kxk_num, release=release)
    with replacing(target) as temporary:
        paddle.save(model.state_dict(), temporary.name)
    return target


def _inputs(kind: Kind, images: Sequence[Path]) -> Iterator[Array]:
    for path in tqdm(images, desc=f"calibrating {kind}", unit="image"):
        yield network_input(kind, path)


def _initialise_threshold_head(head: Any) -> None:
    head.thresh.set_state_dict(
        {name: value.clone() for name, value in head.binarize.state_dict().items()}
    )
    last = head.thresh.conv3
    last.weight.set_value(np.zeros(list(last.weight.shape), np.float32))
    last.bias.set_value(np.full(list(last.bias.shape), _logit(_THRESHOLD), np.float32))


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
