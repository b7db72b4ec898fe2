"""Draw a receipt with the boxes of the demo's detector before and after pruning, and their times.

Run after `make demo`, whose exported models it uses, on an idle machine. The receipt is rendered;
--image takes one of your own.

    python benchmarks/before_after.py --work demo_output --out docs/images/before_after.png
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import yaml
from PIL import Image, ImageDraw, ImageFont

from demo.detector import Detector
from demo.render import Canvas, find_fonts
from ppocr_prune_plugin.errors import PruneError, exiting_on_error
from ppocr_prune_plugin.files import write_atomically

_TEXT = (
    ("CORNER BAKERY", "", 30), ("12 Mill Street, Green Harbour", "", 15),
    ("Tel. 555-0134   Tax No. 20 481 77", "", 15), ("", "", 8),
    ("RECEIPT No. 004217", "25/11/2026  08:41", 15), ("", "", 8),
    ("2 x Rye bread", "7.80", 18), ("1 x Butter croissant", "1.95", 18),
    ("3 x Cinnamon roll", "8.25", 18), ("1 x Coffee, large", "3.40", 18),
    ("1 x Apple juice 0.5 l", "2.70", 18), ("Paper bag", "0.20", 18), ("", "", 6),
    ("SUBTOTAL", "24.30", 18), ("Discount 5%", "-1.22", 18), ("TOTAL", "23.08", 26), ("", "", 6),
    ("Cash", "30.00", 18), ("Change", "6.92", 18), ("", "", 8),
    ("Thank you, see you tomorrow!", "", 16), ("open daily 6.30 - 18.00", "", 15),
)  # fmt: skip
_BEFORE, _AFTER = (196, 84, 30), (46, 125, 50)  # blue, green, red are the other way round in PIL


def receipt(path: Path, width: int = 480, height: int = 720) -> Path:
    """Render a receipt, a little turned, on a dark table; the same every time."""
    random = np.random.default_rng(7)
    names = {font.name: font for font in find_fonts()}
    mono, bold = names["DejaVuSansMono.ttf"], names["DejaVuSansMono-Bold.ttf"]
    table = np.full((height, width, 3), (38, 48, 62), np.float32)
    table += cv2.GaussianBlur(random.normal(0, 60, table.shape).astype(np.float32), (0, 0), 9)
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), 2.2, 1.0)
    paper = np.array([[48, 26], [432, 26], [432, 694], [48, 694]], np.float64)
    corners = (paper @ turn[:, :2].T + turn[:, 2]).astype(np.int32)
    shade = np.linspace(236, 214, height, dtype=np.float32)[:, None, None]
    mask = np.zeros((height, width), np.uint8)
    cv2.fillConvexPoly(mask, corners, 1)
    canvas = Canvas(np.where(mask[..., None] > 0, np.broadcast_to(shade, table.shape), table))
    y = 44.0
    for left, right, size in _TEXT:
        font = ImageFont.truetype(
            str(bold if size > 20 else mono),
            min(size, 22) if right else size,
            layout_engine=ImageFont.Layout.BASIC,
        )
        scale = 1.0 if right else min(1.0, 350 / max(font.getlength(left), 1))
        if scale < 1:
            font = font.font_variant(size=int(size * scale))
        x = 66.0 if right else 240 - font.getlength(left) / 2
        for text, at in ((left, x), (right, 414 - font.getlength(right))):
            if text:
                canvas.write(text, font, _placed(turn, at, y), (52, 48, 46))
        y += 1.72 * size
    pixels = cv2.GaussianBlur(canvas.pixels, (0, 0), 0.6) + random.normal(0, 4, table.shape)
    encoded = cv2.imencode(".png", np.clip(pixels, 0, 255).astype(np.uint8))[1]
    write_atomically(path, encoded.tobytes())
    return path


def _placed(turn: np.ndarray, x: float, y: float) -> np.ndarray:
    placement = turn.copy()
    placement[:, 2] = turn[:, :2] @ np.array([x, y]) + turn[:, 2]
    return placement


def measured(work: Path, engine: str, side: int) -> list[dict[str, Any]]:
    """``{"hmean": …, "ms": …}`` of the unpruned and the pruned model.

    Raises:
        PruneError: the demo has not run, or the engine cannot run its models.
    """
    folders = [work / "inference" / name for name in ("unpruned", "pruned")]
    stamps = [work / "stamps" / f"eval_{when}.json" for when in ("before", "after")]
    missing = [path for path in (*folders, *stamps) if not path.exists()]
    if missing:
        raise PruneError(f"{missing[0]} is not there; run `make demo` first")
    words = ["bench", *map(str, folders), "--engine", engine, "--shape", f"3x{side}x{side}"]
    command = "import sys; from ppocr_prune_plugin.cli import main; sys.exit(main())"
    done = subprocess.run(
        [sys.executable, "-c", command, *words, "--json"], stdout=subprocess.PIPE, text=True
    )
    if done.returncode:
        raise PruneError(f"ppocr-prune bench ended with code {done.returncode}")
    times = json.loads(done.stdout)
    hmeans = [json.loads(path.read_text(encoding="utf-8"))["result"]["hmean"] for path in stamps]
    return [
        {"hmean": hmean, "ms": row["median"], "engine": row["engine"]}
        for hmean, row in zip(hmeans, times, strict=True)
    ]


def draw(image: Path, boxes: list[Any], numbers: list[dict[str, Any]], notes: list[str]) -> Image:
    """Both panels, with their titles, bars for the times, and a line below."""
    pixels = cv2.cvtColor(cv2.imread(str(image)), cv2.COLOR_BGR2RGB)
    height, width = pixels.shape[:2]
    names = {font.name: font for font in find_fonts()}

    def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
        return ImageFont.truetype(str(names[f"DejaVuSans{'-Bold' * bold}.ttf"]), size)

    head, foot, gap = 104, 34, 24
    page = Image.new("RGB", (2 * width + 3 * gap, head + height + foot), "white")
    pen = ImageDraw.Draw(page)
    longest = max(number["ms"] for number in numbers)
    titles = ("before", notes[0])
    for place, (title, number, found) in enumerate(zip(titles, numbers, boxes, strict=True)):
        x, colour = gap + place * (width + gap), (_BEFORE, _AFTER)[place][::-1]
        panel = pixels.copy()
        for box in found:
            corners = np.asarray(box, np.int32).reshape(-1, 1, 2)
            cv2.polylines(panel, [corners], True, colour, 2, cv2.LINE_AA)
        page.paste(Image.fromarray(panel), (x, head))
        pen.text((x, 8), title, fill="#222222", font=font(20, True))
        text = f"{len(found)} lines found · hmean {number['hmean']:.3f}"
        pen.text((x, 38), text, fill="#444444", font=font(17))
        length = round((width - 90) * number["ms"] / longest)
        pen.rectangle((x, 66, x + length, 90), fill=colour)
        pen.text(
            (x + length + 8, 67), f"{number['ms']:.1f} ms", fill="#222222", font=font(18, True)
        )
    pen.text((gap, head + height + 8), notes[1], fill="#666666", font=font(14))
    return page


def parser() -> argparse.ArgumentParser:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=Path("demo_output"), help="of the demo")
    parser.add_argument("--image", type=Path, help="default: a rendered receipt")
    parser.add_argument("--engine", default="onnxruntime")
    parser.add_argument("--side", type=int, default=640, help="of the timed image, pixels")
    parser.add_argument("--out", type=Path, default=Path("before_after.png"))
    return parser


def main() -> int:
    """Measure, draw and write."""
    args = parser().parse_args()
    with exiting_on_error():
        numbers = measured(args.work, args.engine, args.side)
        image = args.image or receipt(args.work / "receipt.png")
        config = yaml.safe_load((args.work / "det.yml").read_text(encoding="utf-8"))
        folders = [args.work / "inference" / name for name in ("unpruned", "pruned")]
        boxes = [Detector(folder, config).boxes(image) for folder in folders]
        plan_file = args.work / "output" / "best_accuracy.prune.json"
        flops = json.loads(plan_file.read_text(encoding="utf-8"))["flops"]
        notes = [
            f"after: {1 - flops['after'] / flops['before']:.0%} of the FLOPs gone",
            f"PP-OCRv4 mobile detector · {numbers[0]['engine']}, one thread, "
            f"1×3×{args.side}×{args.side} · hmean: the demo's evaluation images",
        ]
        page = draw(image, boxes, numbers, notes)
        args.out.parent.mkdir(parents=True, exist_ok=True)
        page.quantize(128).save(args.out, optimize=True)
    print(
        f"{args.out}: {numbers[0]['ms']:.1f} -> {numbers[1]['ms']:.1f} ms,"
        f" {len(boxes[0])} and {len(boxes[1])} lines"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
