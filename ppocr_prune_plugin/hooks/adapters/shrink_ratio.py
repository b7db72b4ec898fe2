"""Which shrink ratio a DB-like detector was trained towards, measured on its own maps.

DB maps the inside of a line of text: its polygon, with every side moved inwards by
``area * (1 - ratio**2) / perimeter`` (Liao et al., AAAI 2020). The share of the labelled polygons
that the model's maps cover, beside the share that the label maps of the config cover, tells the
ratio: these cover more than the formula says, since whole pixels are drawn, the more so the smaller
the text is.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from ...chance import chance_of_its_own
from ...errors import quoted
from ...moments import evaluating

Array = npt.NDArray[Any]

_MAKER = "MakeShrinkMap"
_DEFAULT = 0.4  # of it
_GROWS_BY = 0.2  # over the epochs, where MakeShrinkMap has total_epoch
_THRESHOLD = 0.3  # of a map, as PaddleOCR's post-process takes it by default
_APART = 0.1  # ratios; text of other sizes shows others, by half as much
_LINES, _ENOUGH = 12, 50  # fewer say nothing; more say no more
_SMALLEST = 10.0  # pixels of a line's height; below it a pixel more or less counts too much
_RECTANGULAR = 0.8  # share of the rectangle around it that a line fills
_AT_ONCE = 8  # images that run through the network together
_COVERED = 0.05  # share of a line from which on there is a map of it


@dataclass(frozen=True)
class Target:
    """What a training set teaches: the ratios at its beginning and its end, and the transforms
    that make its maps, with what they state (None: nothing)."""

    first: float
    last: float
    stated: Mapping[str, float | None]


def target_of(config: Mapping[str, Any], grows: bool) -> Target | None:
    """The shrink ratio that a config trains towards; None where it trains no DB-like detector.

    ``grows``: the tree's ``MakeShrinkMap`` knows ``total_epoch``.
    """
    options = {
        name: value or {}
        for transform in _transforms(config)
        for name, value in transform.items()
        if name in (_MAKER, "MakeBorderMap")
    }
    if _MAKER not in options:
        return None
    stated = {name: _number(value.get("shrink_ratio")) for name, value in options.items()}
    first = stated[_MAKER] or _DEFAULT
    later = _GROWS_BY if grows and options[_MAKER].get("total_epoch") else 0.0
    return Target(first, first + later, stated)


def grows_in(tree: Path) -> bool:
    """Whether a tree's ``MakeShrinkMap`` lets the ratio grow over the epochs (since 2.7)."""
    try:
        source = (tree / "ppocr/data/imaug/make_shrink_map.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return "total_epoch" in source


def measured(model: paddle.nn.Layer, dataset: Any, images: int) -> tuple[float, int] | None:
    """The ratio of the labels that a model's maps are like, and on how many lines; None where that
    cannot be said.

    Args:
        model: the detector.
        dataset: its training set, as PaddleOCR builds it.
        images: how many are looked at, at most.
    """
    makers = [op for op in dataset.ops if type(op).__name__ == _MAKER]
    taught = _number(getattr(makers[0], "shrink_ratio", None)) if makers else None
    if taught is None:
        return None
    found: list[float] = []
    with chance_of_its_own(), evaluating(model), paddle.no_grad():
        for start in range(0, images, _AT_ONCE):
            shown = _labelled(dataset, range(start, start + _AT_ONCE))
            answers = model(paddle.to_tensor(np.stack([one.image for one in shown])))
            maps = answers.get("maps") if isinstance(answers, Mapping) else None
            if maps is None:
                return None
            for own, one in zip(maps[:, 0].astype("float32").numpy(), shown, strict=True):
                labelled = _ratios(one.label > 0, one.polygons)
                pairs = zip(_ratios(own > _THRESHOLD, one.polygons), labelled, strict=True)
                found += [of_model - of_label for of_model, of_label in pairs]
            if len(found) >= _ENOUGH:
                break
    seen = [value for value in found if not np.isnan(value)]
    if len(seen) < max(_LINES, len(found) // 2):
        return None
    return taught + float(np.median(seen)), len(seen)


@dataclass(frozen=True)
class _Labelled:
    """A training image ``[channels, height, width]``, the polygons ``[points, 2]`` of its text that
    is not to be ignored, and its shrink map ``[height, width]``."""

    image: Array
    polygons: list[Array]
    label: Array


def _labelled(dataset: Any, images: Iterable[int]) -> list[_Labelled]:
    found: list[_Labelled] = []
    polygons: list[Array] = []

    def note(data: Any) -> Any:
        marked = zip(data["polys"], data["ignore_tags"], strict=True)
        # Copies, of before lines that leave the image are clipped to it.
        polygons[:] = [np.array(polygon, "float32") for polygon, ignored in marked if not ignored]
        return data

    def collect(data: Any) -> Any:
        found.append(_Labelled(data["image"], list(polygons), data["shrink_map"]))
        return data

    twin = copy.copy(dataset)
    twin.ops = []
    for op in dataset.ops:
        name = type(op).__name__
        if name not in ("MakeBorderMap", "KeepKeys"):
            twin.ops += [note, op] if name == _MAKER else [op]
    twin.ops.append(collect)
    for index in images:  # beyond the last, other crops of the first
        twin[index % len(dataset)]
    return found


def warning(target: Target, ratio: float, lines: int) -> str | None:
    """What to say where a config trains towards another ratio than the model's; None if it does
    not."""
    if abs(target.last - ratio) < _APART:
        return None
    better = round(20 * max(0.1, ratio - (target.last - target.first))) / 20
    change = " and ".join(
        f"Train.dataset.transforms.{name}.shrink_ratio: {better} (now {_shown(value)})"
        for name, value in target.stated.items()
    )
    return (
        f"the loaded detector was trained towards maps shrunk by a ratio of about {ratio:.2f} "
        f"(measured on {lines} lines of training images), and this config trains towards "
        f"{target.last:g}: boxes come out {'narrower' if target.last < ratio else 'wider'} than "
        f"the text, which hmean at IoU 0.5 hardly shows. Set {change}"
    )


def _ratios(shown: Array, polygons: Sequence[Array]) -> list[float]:
    """For every line of an image the ratio that a map shows; NaN where it has none there."""
    import cv2

    found = []
    for polygon in polygons:
        _, size, _ = cv2.minAreaRect(polygon)
        area = abs(float(cv2.contourArea(polygon)))
        inside = polygon.min() >= 0 and (polygon.max(axis=0) < shown.shape[::-1]).all()
        if min(size) < _SMALLEST or area < _RECTANGULAR * size[0] * size[1] or not inside:
            continue
        mask = np.zeros(shown.shape, np.uint8)
        cv2.fillPoly(mask, [np.round(polygon).astype(np.int32)], 1)
        covered = float(shown[mask > 0].mean())
        found.append(_ratio_of(covered, *size) if covered > _COVERED else np.nan)
    return found


def _ratio_of(covered: float, width: float, height: float) -> float:
    """The ratio at which a rectangle shrinks to a share of its area."""
    ratios = np.linspace(0.05, 1.0, 191)
    distance = width * height * (1 - ratios**2) / (2 * (width + height))
    left = np.maximum(width - 2 * distance, 0) * np.maximum(height - 2 * distance, 0)
    return float(np.interp(covered, left / (width * height), ratios))


def _transforms(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return list(((config.get("Train") or {}).get("dataset") or {}).get("transforms") or [])


def _number(value: Any) -> float | None:
    usable = isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < 1
    return float(value) if usable else None


def _shown(value: float | None) -> str:
    return f"{_DEFAULT} by default" if value is None else quoted(value)
