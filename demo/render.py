"""Render a small labelled detection data set: pages of text and scene-like images.

The labels are PaddleOCR's: one line per image, ``path<TAB>[{"transcription": ..., "points":
[[x, y] * 4]}, ...]``, one quadrilateral per line of text, clockwise from the text's top left
corner, in pixels. The same seed gives the same files.
"""

from __future__ import annotations

import importlib.util
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont
from tqdm import tqdm

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import write_atomically

Pixels = npt.NDArray[np.float32]
Quad = npt.NDArray[np.float32]
Matrix = npt.NDArray[np.float64]
# Blue, green, red, 0–255.
Colour = Sequence[float] | npt.NDArray[np.floating[Any]]

PAGE_SIZE = (480, 640)  # width, height in pixels; scenes are the same size, turned
_FONT_FILES = (
    "DejaVuSans.ttf",
    "DejaVuSans-Bold.ttf",
    "DejaVuSans-Oblique.ttf",
    "DejaVuSansMono.ttf",
    "DejaVuSansMono-Bold.ttf",
    "DejaVuSerif.ttf",
    "DejaVuSerif-Bold.ttf",
    "DejaVuSerif-Italic.ttf",
    "STIXGeneral.ttf",
    "STIXGeneralBol.ttf",
    "STIXGeneralItalic.ttf",
)
_WORDS = (
    "account address amount bakery balance book bread bridge café cash change city coffee daily"
    " date door dry east exit express fax field first floor fresh garden glass gold green harbour"
    " hotel house invoice item kitchen lake level library light line market menu metal mill"
    " morning museum night north number office open orange order paper park payment people phone"
    " place plan price quantity quick rate receipt river road room rounding school service shop"
    " silver single south square station street subtotal sugar table tax tea thank ticket timber"
    " total tower train value visit water west window winter wood yard year yellow zone"
).split()


def render(root: Path, train: int = 48, val: int = 16, seed: int = 0) -> Path:
    """Write ``train.txt``, ``val.txt`` and their images under ``root`` and return ``root``.

    Every other image is a page (480×640 pixels), the rest are scenes (640×480), saved as JPEG.
    The label files are written last, so a set that has them is complete.

    Raises:
        PruneError: no fonts are found.
    """
    fonts = find_fonts()
    for part, (name, count) in enumerate((("train", train), ("val", val))):
        (root / name).mkdir(parents=True, exist_ok=True)
        labels = []
        for index in tqdm(range(count), desc=f"rendering {name}", unit="image"):
            canvas = _render_one(np.random.default_rng([seed, part, index]), fonts, index % 2 == 0)
            path = root / name / f"{index:04d}.jpg"
            quality = [cv2.IMWRITE_JPEG_QUALITY, 90]
            write_atomically(path, cv2.imencode(".jpg", canvas.pixels, quality)[1].tobytes())
            labels.append(f"{name}/{path.name}\t{json.dumps(canvas.labels, ensure_ascii=False)}\n")
        write_atomically(root / f"{name}.txt", "".join(labels).encode())
    return root


def find_fonts() -> list[Path]:
    """Return the TrueType fonts that matplotlib carries (DejaVu, STIX), without importing it.

    Raises:
        PruneError: matplotlib is not installed.
    """
    spec = importlib.util.find_spec("matplotlib")
    if spec is None or spec.origin is None:
        raise PruneError(
            "the images are drawn with the fonts in the package matplotlib, which is not"
            " installed; install it with `pip install matplotlib`"
        )
    folder = Path(spec.origin).parent / "mpl-data" / "fonts" / "ttf"
    return [folder / name for name in _FONT_FILES if (folder / name).is_file()]


class Canvas:
    """An image under construction (H, W, 3, BGR, 0–255), with its labels."""

    def __init__(self, pixels: Pixels) -> None:
        self.pixels = pixels
        self.labels: list[dict[str, Any]] = []
        self._taken = np.zeros(pixels.shape[:2], np.uint8)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.pixels.shape[1], self.pixels.shape[0]

    def write(
        self,
        text: str,
        font: ImageFont.FreeTypeFont,
        placement: Matrix,
        ink: Colour,
        plate: Colour | None = None,
    ) -> bool:
        """Draw one line of text and label it; False where it does not fit or hides another.

        ``placement`` (2, 3) maps the text's own pixels, origin at its top left, to the image.
        ``ink`` is the colour of the text and ``plate`` that of a rectangle behind it.
        """
        mask = _text_mask(text, font)
        height, width = mask.shape
        corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float64)
        quad = (corners @ placement[:, :2].T + placement[:, 2]).astype(np.float32)
        margin = 3.0
        limit = np.array(self.size, np.float32) - margin
        if (quad < margin).any() or (quad > limit).any():
            return False
        footprint = np.zeros_like(self._taken)
        cv2.fillConvexPoly(footprint, np.round(quad).astype(np.int32), 1)
        gap = max(3, round(0.2 * height))
        footprint = cv2.dilate(footprint, np.ones((gap, gap), np.uint8))
        if (footprint & self._taken).any():
            return False
        self._taken |= footprint
        if plate is not None:
            self._blend(cv2.GaussianBlur(footprint.astype(np.float32), (3, 3), 0), plate)
        self._blend(cv2.warpAffine(mask, placement, self.size), ink)
        self.labels.append(
            {"transcription": text, "points": np.round(quad, 1).astype(float).tolist()}
        )
        return True

    def _blend(self, alpha: npt.NDArray[np.float32], colour: Colour) -> None:
        self.pixels += alpha[..., None] * (np.asarray(colour, np.float32) - self.pixels)


def _render_one(rng: np.random.Generator, fonts: Sequence[Path], page: bool) -> Canvas:
    canvas = _page(rng, fonts) if page else _scene(rng, fonts)
    pixels = canvas.pixels
    if rng.random() < 0.5:
        pixels = cv2.GaussianBlur(pixels, (0, 0), float(rng.uniform(0.3, 0.9)))
    noisy = pixels + rng.normal(0, rng.uniform(1, 9), pixels.shape)
    canvas.pixels = np.clip(noisy, 0, 255).astype(np.uint8)
    return canvas


def _page(rng: np.random.Generator, fonts: Sequence[Path]) -> Canvas:
    """A sheet of paper, slightly turned: paragraphs, or rows with a text and an amount."""
    width, height = PAGE_SIZE
    canvas = Canvas(_gradient(rng, width, height, rng.uniform(190, 250), spread=25, tint=8))
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(-4, 4)), 1.0)
    body, ink = _font(rng, fonts, 11, 18), rng.uniform(0, 90) * np.ones(3)
    rows = rng.random() < 0.5
    y = rng.uniform(25, 60)
    if rng.random() < 0.8:  # a title
        title = _font(rng, fonts, 22, 34)
        canvas.write(_phrase(rng, 1, 3).upper(), title, _at(turn, rng.uniform(30, 110), y), ink)
        y += 1.8 * title.size
    left, pitch = rng.uniform(25, 60), body.size * rng.uniform(1.5, 2.1)
    while y < height - 40:
        if rng.random() < 0.12:  # a ruled line, or the gap between two paragraphs
            if rng.random() < 0.5:
                ends = _at(turn, left, y + 0.4 * pitch), _at(turn, width - left, y + 0.4 * pitch)
                start, end = (tuple(int(value) for value in at[:, 2]) for at in ends)
                cv2.line(canvas.pixels, start, end, ink.tolist(), 1, cv2.LINE_AA)
            y += pitch
            continue
        words = int(rng.integers(1, 4)) if rows else int(rng.integers(2, 7))
        canvas.write(_phrase(rng, words, words), body, _at(turn, left, y), ink)
        if rows and rng.random() < 0.7:
            canvas.write(_number(rng), body, _at(turn, width - left - 90, y), ink)
        y += pitch
    return canvas


def _scene(rng: np.random.Generator, fonts: Sequence[Path]) -> Canvas:
    """Signs in front of a coloured, cluttered background, each at its own angle."""
    height, width = PAGE_SIZE
    canvas = Canvas(_gradient(rng, width, height, rng.uniform(40, 210), spread=60, tint=45))
    for _ in range(int(rng.integers(4, 14))):
        _clutter(rng, canvas.pixels)
    canvas.pixels = cv2.GaussianBlur(canvas.pixels, (0, 0), float(rng.uniform(0.8, 2.5)))
    wanted = int(rng.integers(3, 9))
    for _ in range(8 * wanted):
        if len(canvas.labels) == wanted:
            break
        font = _font(rng, fonts, 15, 54)
        angle = float(rng.normal(0, 9)) if rng.random() < 0.8 else float(rng.uniform(-35, 35))
        text = _phrase(rng, 1, 2) if rng.random() < 0.8 else _number(rng)
        text = text.upper() if rng.random() < 0.4 else text
        x, y = rng.uniform(10, width - 60), rng.uniform(10, height - 30)
        placement = _rotation(angle, x, y)
        plate = rng.uniform(0, 255, 3) if rng.random() < 0.4 else None
        behind = plate if plate is not None else canvas.pixels[int(y), int(x)]
        canvas.write(text, font, placement, _contrasting(rng, behind), plate)
    return canvas


def _clutter(rng: np.random.Generator, pixels: Pixels) -> None:
    """Draw one box, disc or line of some colour, in place."""
    height, width = pixels.shape[:2]
    colour = rng.uniform(0, 255, 3).tolist()
    a, b = ((int(rng.integers(width)), int(rng.integers(height))) for _ in range(2))
    kind = rng.integers(3)
    if kind == 0:
        cv2.rectangle(pixels, a, b, colour, -1)
    elif kind == 1:
        cv2.circle(pixels, a, int(rng.integers(10, 90)), colour, -1)
    else:
        cv2.line(pixels, a, b, colour, int(rng.integers(2, 12)))


def _gradient(
    rng: np.random.Generator, width: int, height: int, level: float, spread: float, tint: float
) -> Pixels:
    """A plain whose brightness and colour change slowly across the image."""
    coarse = level + rng.uniform(-spread, spread, (3, 3, 1)) + rng.uniform(-tint, tint, (3, 3, 3))
    smooth = cv2.resize(coarse.astype(np.float32), (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(smooth, 0, 255)


def _text_mask(text: str, font: ImageFont.FreeTypeFont) -> npt.NDArray[np.float32]:
    """Return the text's coverage (H, W) in 0–1, cut to its ink with a margin of a tenth."""
    left, top, right, bottom = font.getbbox(text)
    margin = max(1, round(0.1 * (bottom - top)))
    size = (math.ceil(right - left) + 2 * margin, math.ceil(bottom - top) + 2 * margin)
    image = Image.new("L", size)
    ImageDraw.Draw(image).text((margin - left, margin - top), text, fill=255, font=font)
    return np.asarray(image, np.float32) / np.float32(255)


def _font(
    rng: np.random.Generator, fonts: Sequence[Path], smallest: int, largest: int
) -> ImageFont.FreeTypeFont:
    path = fonts[int(rng.integers(len(fonts)))]
    size = int(rng.integers(smallest, largest + 1))
    # Basic layout is always there; Raqm is not, and places glyphs otherwise.
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)


def _phrase(rng: np.random.Generator, fewest: int, most: int) -> str:
    words = [_WORDS[int(rng.integers(len(_WORDS)))] for _ in range(rng.integers(fewest, most + 1))]
    text = " ".join(words)
    return text.capitalize() if rng.random() < 0.6 else text


def _number(rng: np.random.Generator) -> str:
    kind = rng.integers(4)
    if kind == 0:
        return f"{rng.uniform(0.5, 999):.2f}"
    if kind == 1:
        return f"{rng.integers(1, 29):02d}/{rng.integers(1, 13):02d}/{rng.integers(1990, 2030)}"
    if kind == 2:
        return f"No. {rng.integers(10, 99999)}"
    return f"{rng.integers(100, 999)}-{rng.integers(1000, 9999)}"


def _contrasting(rng: np.random.Generator, behind: Colour) -> list[float]:
    """A colour that is clearly darker or lighter than what is behind it."""
    brightness = float(np.mean(behind))
    level = brightness + rng.uniform(80, 140) * (-1 if brightness > 128 else 1)
    return [float(value) for value in np.clip(level + rng.uniform(-30, 30, 3), 0, 255)]


def _at(turn: Matrix, x: float, y: float) -> Matrix:
    """Place something at (x, y) of a page that was turned as a whole."""
    placement = turn.copy()
    placement[:, 2] = turn[:, :2] @ np.array([x, y]) + turn[:, 2]
    return placement


def _rotation(angle: float, x: float, y: float) -> Matrix:
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    return np.array([[cos, -sin, x], [sin, cos, y]])
