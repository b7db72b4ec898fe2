"""Convert an exported model to ONNX and check the result in ONNX Runtime."""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from ..errors import PruneError, quoted
from ..export.converter import OPSET
from ..export.onnx_file import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder", type=Path, metavar="INFERENCE_DIR", help="what tools/export_model.py has written"
    )
    parser.add_argument(
        "-o", "--output", type=Path, required=True, metavar="FILE", help="the .onnx file to write"
    )
    parser.add_argument(
        "--opset",
        type=int,
        default=OPSET,
        metavar="N",
        help="operator set (default: %(default)s)",
    )
    parser.add_argument(
        "--size",
        action="append",
        default=[],
        metavar="HEIGHTxWIDTH",
        help="of images that the result is checked on; may be given twice (default: what the "
        "model states, or 320x320 and 480x640)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and say how well it agrees. Raises :class:`PruneError`."""
    if args.output.suffix != ".onnx":
        raise PruneError(f"-o {args.output}: an ONNX file is called .onnx, such as model.onnx.")
    if not 7 <= args.opset <= 25:
        raise PruneError(f"--opset is {args.opset}; operator sets are 7 to 25 (14 is a good one).")
    sizes = [_size(text) for text in args.size]
    result = convert(args.folder, args.output, args.opset, sizes)
    shapes = " and ".join("x".join(map(str, shape)) for shape in result.shapes)
    if result.difference is None:
        print(f"{args.output}: runs on {shapes}; whether it agrees cannot be seen: {result.why}")
    else:
        print(
            f"{args.output}: agrees with Paddle to {result.difference:.1e} of what each output "
            f"varies by, on {shapes}"
        )
    if result.characters:
        print(f"{args.output}: carries {result.characters} characters")
    if result.unreadable:
        print(f"{args.output}: carries no characters, which are one a line: {result.unreadable}")
    return 0


def _size(text: str) -> tuple[int, int]:
    found = re.fullmatch(r"(\d{1,5})x(\d{1,5})", text)
    if found is None or "0" in found.groups():
        raise PruneError(f"--size is {quoted(text)}; a size is HEIGHTxWIDTH, such as 48x320.")
    return int(found[1]), int(found[2])
