"""Write an exported model so that another release of Paddle reads it."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import PruneError
from ..export.onnx_file import find_model
from ..export.versions import convert
from ..files import write_atomically


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
    settings = prefix.parent / "inference.yml"
    names = [f"{prefix.name}.json", f"{prefix.name}.pdiparams", settings.name]
    there = [name for name in names if (args.output / name).exists()]
    if there:
        raise PruneError(
            f"-o {args.output}: has {', '.join(there)} already, which are left as they are; name "
            "another folder."
        )
    changed = convert(prefix, args.output / prefix.name, args.paddle)
    if settings.is_file():
        write_atomically(args.output / settings.name, settings.read_bytes())
    print(f"{args.output}: for Paddle {args.paddle}; {changed} numbers were tagged otherwise")
    return 0
