"""What detection is for: how many lines a recogniser reads right in the boxes that were found."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.boxes import matches, overlaps_of
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree

from .architectures import Release
from .lines import LINE_HEIGHT, straightened
from .weights import recovered_model

Pixels = npt.NDArray[np.uint8]

IGNORED = ("*", "###")  # PaddleOCR's names for lines that nobody can read
_NARROWEST, _STEP = 320, 32  # widths of what the recogniser is shown, pixels
_AT_ONCE = 8  # lines
_DICTIONARIES: dict[Release, str] = {"v4": "ppocr_keys_v1.txt"}


@dataclass(frozen=True)
class Page:
    """An image with the polygons ``[points, 2]`` of its lines, what they say, and whether they are
    to be ignored."""

    image: Path
    lines: list[Any]
    texts: list[str]
    ignored: list[bool]


def pages(data: Path, labels: Path) -> list[Page]:
    """The images of a label file of PaddleOCR's for detection, names relative to ``data``."""
    found = []
    for row in labels.read_text(encoding="utf-8").splitlines():
        name, _, content = row.partition("\t")
        marked = json.loads(content or "[]")
        texts = [item["transcription"] for item in marked]
        lines = [item["points"] for item in marked]
        found.append(Page(data / name, lines, texts, [text in IGNORED for text in texts]))
    return found


class Reader:
    """PP-OCRv4's mobile recogniser with its published weights.

    Raises:
        PruneError: the package with the weights, or a PaddleOCR tree, is missing.
    """

    def __init__(self, release: Release = "v4") -> None:
        self._model = recovered_model("rec", [], calibrated=False, release=release)
        tree = find_tree()
        use_tree(tree)
        from ppocr.postprocess import build_post_process

        keys = str(tree / "ppocr" / "utils" / _DICTIONARIES[release])
        options = {"character_dict_path": keys, "use_space_char": True}
        self._decode = build_post_process({"name": "CTCLabelDecode"}, options)

    def texts(self, lines: Sequence[Pixels]) -> list[str]:
        """What lines ``[48, width, 3]`` say."""
        import paddle

        found = [""] * len(lines)
        by_width = sorted(range(len(lines)), key=lambda number: lines[number].shape[1])
        for start in range(0, len(lines), _AT_ONCE):
            own = by_width[start : start + _AT_ONCE]
            with paddle.no_grad():
                answer = self._model(paddle.to_tensor(_batch([lines[number] for number in own])))
            for number, (text, _) in zip(own, self._decode(answer), strict=True):
                found[number] = text
        return found

    def right(self, shown: Sequence[Page], boxes: Sequence[Sequence[Any]]) -> int:
        """How many of the lines on some pages are read right in the boxes ``[4, 2]`` found there.

        A line is read in the box that matches it, as the metric matches them; spaces do not count.
        """
        crops: list[Pixels] = []
        wanted: list[str] = []
        for page, own in zip(shown, boxes, strict=True):
            image = cv2.imread(str(page.image))
            if image is None:
                raise PruneError(f"{page.image} cannot be read as an image")
            for line, box in _matched(page, own):
                crop = straightened(image, box)
                if crop is not None:
                    crops.append(crop)
                    wanted.append(page.texts[line])
        return sum(
            _without_spaces(text) == _without_spaces(said)
            for text, said in zip(wanted, self.texts(crops), strict=True)
        )


def countable(shown: Sequence[Page]) -> int:
    """How many lines there are to be read."""
    return sum(len(page.ignored) - sum(page.ignored) for page in shown)


def _matched(page: Page, boxes: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Numbers of lines with the boxes that match them."""
    overlaps, lines, found = overlaps_of(page.lines, page.ignored, boxes)
    for line, box in matches(overlaps):
        yield lines[line], boxes[found[box]]


def _batch(lines: Sequence[Pixels]) -> npt.NDArray[np.float32]:
    """Lines side by side with the widest, filled up with grey, ``[lines, 3, 48, width]``."""
    widest = max(_NARROWEST, *(line.shape[1] for line in lines))
    batch = np.zeros((len(lines), LINE_HEIGHT, -(-widest // _STEP) * _STEP, 3), np.float32)
    for row, line in zip(batch, lines, strict=True):
        row[:, : line.shape[1]] = line / np.float32(127.5) - 1
    return batch.transpose(0, 3, 1, 2)


def _without_spaces(text: str) -> str:
    return "".join(text.split())
