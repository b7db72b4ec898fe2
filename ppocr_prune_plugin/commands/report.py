"""Draw report.html again from the report.json of a pruning run."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import PruneError
from ..report.data import load_report
from ..report.html import write_page


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="the report.json of a run, in <save_model_dir>/prune",
    )
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        default=None,
        metavar="HTML",
        help="where to write it (default: FILE with the ending .html)",
    )


def run(args: argparse.Namespace) -> int:
    """Write the page and print its path. Raises :class:`PruneError`."""
    output: Path = args.output or args.file.with_suffix(".html")
    report = load_report(args.file)
    if output.resolve() == args.file.resolve():
        raise PruneError(f"-o {output}: would overwrite the report's data. Name an .html file.")
    write_page(report, output)
    print(output)
    return 0
