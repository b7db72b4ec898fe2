"""The command ``ppocr-prune``."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from . import __version__
from .errors import EXIT_CODE, PruneError, did_you_mean, report_error

COMMANDS = ("run", "doctor", "groups", "sensitivity", "report", "onnx", "convert", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Run a subcommand and return the exit code; a user's mistake gives its message and 2.

    Only the module of the command that was asked for is imported.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser(
        prog="ppocr-prune", description="Structured pruning for PaddleOCR's own tools."
    )
    parser.add_argument("--version", action="version", version=f"ppocr-prune-plugin {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    asked = next((word for word in arguments if not word.startswith("-")), None)
    try:
        if asked is not None and asked not in COMMANDS:
            hint = did_you_mean(asked, COMMANDS)
            raise PruneError(f'unknown command "{asked}"{hint}. Commands: {", ".join(COMMANDS)}.')
        for name in COMMANDS:
            summary = _summary(name)
            if summary is None:
                continue
            subparser = subparsers.add_parser(name, help=summary, description=summary)
            if name == asked:
                command = importlib.import_module(f"{__package__}.commands.{name}")
                command.add_arguments(subparser)
                subparser.set_defaults(run=command.run)
        args = parser.parse_args(arguments)
        return int(args.run(args))
    except PruneError as error:
        report_error(error)
        return EXIT_CODE


def _summary(name: str) -> str | None:
    """The first line of a command module's docstring, without importing it."""
    spec = importlib.util.find_spec(f"{__package__}.commands.{name}")
    if spec is None or spec.origin is None:
        return None
    docstring = ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or name
    return docstring.splitlines()[0].rstrip(".")


if __name__ == "__main__":
    sys.exit(main())
