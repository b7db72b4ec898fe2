"""Convert an exported model to ONNX and check the result in ONNX Runtime."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import PruneError
from ..export.onnx_file import convert

# Two sizes that detectors take, and that recognisers take where only their width is free.
_SIZES = ((320, 320), (480, 640))


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
        default=14,
        metavar="N",
        help="operator set (default: %(default)s)",
    )


def run(args: argparse.Namespace) -> int:
    """Convert and say how well it agrees. Raises :class:`PruneError`."""
    if args.output.suffix != ".onnx":
        raise PruneError(f"-o {args.output}: an ONNX file is called .onnx, such as model.onnx.")
    if not 7 <= args.opset <= 25:
        raise PruneError(f"--opset is {args.opset}; operator sets are 7 to 25 (14 is a good one).")
    result = convert(args.folder, args.output, args.opset, _SIZES)
    shapes = " and ".join("x".join(map(str, shape)) for shape in result.shapes)
    print(
        f"{args.output}: agrees with Paddle to {result.difference:.1e} of the spread of each "
        f"output on {shapes}"
    )
    if result.characters:
        print(f"{args.output}: carries {result.characters} characters")
    return 0
