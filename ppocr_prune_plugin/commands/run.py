"""Run a PaddleOCR tool with pruning hooked in explicitly.

Does what the start-up file does, where that cannot act: under ``-S``, in frozen or vendored
setups, and through ``python -m paddle.distributed.launch $(which ppocr-prune) run tools/…``.
"""

from __future__ import annotations

import argparse
import os
import runpy
import sys
from pathlib import Path

from .._startup import switched_off
from ..errors import PruneError
from ..hooks.adapters.tree import find_tree
from ..hooks.finder import install, stop_waiting


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the tool and what it gets; everything after the tool's name is the tool's."""
    parser.add_argument("tool", metavar="TOOL", help="a tool of PaddleOCR, such as tools/train.py")
    parser.add_argument(
        "arguments", metavar="...", nargs=argparse.REMAINDER, help="the tool's own arguments"
    )


def run(args: argparse.Namespace) -> int:
    """Run the tool in this process as ``__main__``. Raises :class:`PruneError`."""
    if switched_off():
        raise PruneError(
            "PPOCR_PRUNE=0 switches pruning off, and `ppocr-prune run` asks for it. Unset"
            " PPOCR_PRUNE, or start the tool with plain `python`."
        )
    script = _locate(args.tool)
    # As `python SCRIPT` would set them up.
    sys.argv = [script, *args.arguments]
    sys.path[0] = os.path.dirname(os.path.realpath(script))
    stop_waiting()
    install()
    runpy.run_path(script, run_name="__main__")
    return 0


def _locate(tool: str) -> str:
    """The tool's path: as given, or else below the PaddleOCR tree."""
    if os.path.isfile(tool):
        return tool
    tree = find_tree()
    inside: Path = tree / tool
    if inside.is_file():
        return str(inside)
    raise PruneError(f"{tool}: no such file here, nor in the PaddleOCR tree at {tree}.")
