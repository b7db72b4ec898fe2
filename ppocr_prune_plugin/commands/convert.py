"""Write an exported model so that another release of Paddle reads it."""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path

from ..errors import PruneError
from ..export.onnx_file import find_model
from ..export.versions import convert


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "folder", type=Path, metavar="INFERENCE_DIR", help="what tools/export_model.py has written"
    )
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    parser.add_argument(
        "--paddle", required=True, metavar="VERSION", help="the release to write for: 3.0 to 3.3"
    )


def run(args: argparse.Namespace) -> int:
    """Convert. Raises :class:`PruneError`."""
    prefix = find_model(args.folder)
    if not Path(f"{prefix}.json").is_file():
        raise PruneError(
            f"{prefix}.pdmodel: is a program of Paddle's old form, which every release from 3.0 "
            "reads or refuses as it is. Export again with Global.export_with_pir=true."
        )
    if args.output.resolve() == args.folder.resolve():
        raise PruneError(f"-o {args.output}: is the folder that is read; name another one.")
    args.output.mkdir(parents=True, exist_ok=True)
    changed = convert(prefix, args.output / prefix.name, args.paddle)
    settings = prefix.parent / "inference.yml"
    if settings.is_file():
        shutil.copyfile(settings, args.output / settings.name)
    print(f"{args.output}: for Paddle {args.paddle}; {changed} numbers were tagged otherwise")
    return 0
