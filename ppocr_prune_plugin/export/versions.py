"""Exported programs of one Paddle release for another, where only the tags of numbers differ.

Paddle 3.3 writes the scale of a resize as 64-bit numbers, earlier ones as 32-bit, and neither reads
the other's: a graph of the same operations, unreadable for a tag.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import PruneError
from .program_file import ProgramFile, load_program

# From this release on scales are 64-bit numbers, and files say version 4 instead of 3.
_SINCE = (3, 3)
_RESIZES = ("nearest_interp", "bilinear_interp", "bicubic_interp", "linear_interp")
_TAGS = {False: "0.a_f32", True: "0.a_f64"}
_VERSIONS = {False: 3, True: 4}


def convert(source: Path, target: Path, paddle_version: str) -> int:
    """Write an exported program so that another release of Paddle reads it.

    Args:
        source: path without an extension.
        target: the same.
        paddle_version: of the release, such as ``3.2.2``.

    Returns:
        How many attributes were written otherwise.

    Raises:
        PruneError: the version is none that this is known for, or the program cannot be read.
    """
    release = _release(paddle_version)
    if not (3, 0) <= release < (3, 4):
        raise PruneError(
            f'--paddle is "{paddle_version}"; exports can be written for Paddle 3.0 to 3.3, such '
            "as --paddle 3.2.2."
        )
    program = load_program(source)
    changed = retag(program, release >= _SINCE)
    program.save(target)
    return changed


def reads_wide_tags(paddle_version: str) -> bool:
    """Whether a release of Paddle writes and reads 64-bit scales."""
    return _release(paddle_version) >= _SINCE


def _release(version: str) -> tuple[int, int]:
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found is not None else (0, 0)


def retag(program: ProgramFile, wide: bool) -> int:
    """Give the scales of resizes 64-bit tags (``wide``) or 32-bit ones; how many were changed."""
    changed = 0
    for node in program.nodes:
        if node.name not in _RESIZES:
            continue
        for attribute in node.raw.get("A", ()):
            if attribute.get("N") != "scale":
                continue
            for item in attribute["AT"].get("D") or ():
                if item.get("#") == _TAGS[not wide]:
                    item["#"] = _TAGS[wide]
                    changed += 1
    program.content.setdefault("base_code", {})["version"] = _VERSIONS[wide]
    return changed
