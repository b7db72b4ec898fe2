"""The options ``-c`` and ``-o`` of PaddleOCR's tools, for commands that build a config's model."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_config_options(parser: argparse.ArgumentParser, required: bool, help: str) -> None:
    """Declare them: ``config``, a path, and ``opt``, a list of ``key=value``."""
    parser.add_argument("-c", "--config", required=required, type=Path, metavar="YML", help=help)
    parser.add_argument(
        "-o",
        "--opt",
        nargs="+",
        action="extend",
        default=[],
        metavar="KEY=VALUE",
        help="options of the config, as for PaddleOCR's tools",
    )
