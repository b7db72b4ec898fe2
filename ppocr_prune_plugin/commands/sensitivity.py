"""Put together sensitivity files that were measured in different places."""

from __future__ import annotations

import argparse
from pathlib import Path

from ..errors import PruneError
from ..sensitivity.identity import differences
from ..sensitivity.store import load_sensitivity


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    actions = parser.add_subparsers(dest="action", metavar="ACTION", required=True)
    merge = actions.add_parser("merge", help="merge files of the same model, weights and data")
    merge.add_argument(
        "files",
        type=Path,
        nargs="+",
        metavar="FILE",
        help="sen.pickle or sensitivity.json of runs that measured different layers",
    )
    merge.add_argument(
        "-o", "--output", type=Path, required=True, metavar="PICKLE", help="the merged file"
    )


def run(args: argparse.Namespace) -> int:
    """Write the merged pair and print what it holds. Raises :class:`PruneError`."""
    output: Path = args.output
    if output.suffix != ".pickle":
        raise PruneError(f"-o {output}: name a .pickle file; the .json is written beside it.")
    first, *others = [load_sensitivity(path) for path in args.files]
    for path, other in zip(args.files[1:], others, strict=True):
        different = differences(other.fingerprint, first.fingerprint)
        if different:
            raise PruneError(
                f"{path}: cannot be merged with {args.files[0]}: it belongs to {different}. Only "
                "files of the same model, weights, data, criterion, metric and settings can be."
            )
        first.merge(other)
    merged = first
    merged.path = output
    if output.exists() or merged.json_path.exists():
        raise PruneError(f"-o {output}: is there already; nothing was overwritten.")
    merged.save()
    points = sum(len(group) for group in merged.points.values())
    print(f"{output}: {len(merged.points)} layers, {points} points")
    return 0
