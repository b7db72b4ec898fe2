"""The dictionary of a recogniser that lost characters, as it travels with its weights.

It is written into the weights file itself, as one more array, so that the file alone tells what its
classes mean. PaddleOCR's tools build a network before they read its weights, and need the
dictionary for it: it is found in the file by its own mark, without reading the rest.
"""

from __future__ import annotations

import functools
import json
import mmap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from . import documents
from .alphabet import Lines, checksum
from .documents import Misfit, listed, record, text, whole
from .errors import PruneError
from .files import open_regular

KEY = "ppocr_prune.dictionary"
FORMAT = "ppocr-prune-dictionary/1"

_MARK = f"<{FORMAT} ".encode()
_DIGITS = 10  # of the length that follows the mark
_MEND = "Copy the weights file again from where it was trained."
SCHEMA = record({"lines": listed(text), "whole": whole(1), "checksum_of_whole": text})


@dataclass(frozen=True)
class CutDictionary:
    """``lines`` are the characters that are left, in the order of the classes; ``whole`` and
    ``checksum`` tell how many the original dictionary had, and which one it was."""

    lines: Lines
    whole: int
    checksum: str

    @classmethod
    def of(cls, lines: Lines, original: Lines) -> CutDictionary:
        """What is left of a dictionary."""
        return cls(lines, len(original), checksum(original))

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON."""
        return {
            "lines": list(self.lines),
            "whole": self.whole,
            "checksum_of_whole": self.checksum,
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> CutDictionary:
        """Read that form, which fits :data:`SCHEMA`."""
        return cls(tuple(content["lines"]), content["whole"], content["checksum_of_whole"])

    def as_array(self) -> npt.NDArray[np.uint8]:
        """The bytes that a weights file takes under :data:`KEY`."""
        body = json.dumps(documents.signed({"format": FORMAT, **self.as_dict()})).encode()
        return np.frombuffer(_MARK + b"%0*d " % (_DIGITS, len(body)) + body + b">", np.uint8)


def checked(content: Any, place: str) -> None:
    """The schema, and that a cut dictionary is smaller than a whole one."""
    SCHEMA(content, place)
    if not 0 < len(content["lines"]) <= content["whole"]:
        raise Misfit(f"{place}.lines", f"1 to {content['whole']} characters", content["lines"])


def carried_by(path: Path) -> CutDictionary | None:
    """The dictionary in a weights file; None where there is none, or no such file.

    Raises:
        PruneError: it is damaged.
    """
    if not path.is_file() or path.stat().st_size == 0:
        return None
    found = path.stat()
    return _searched(path, (found.st_ino, found.st_size, found.st_mtime_ns))


@functools.lru_cache(maxsize=16)
def _searched(path: Path, _: tuple[int, int, int]) -> CutDictionary | None:
    """The same of a file that was not written since: a run asks several times, and the answer takes
    a search through all of it."""
    with (
        open_regular(path, "the weights file") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        place = content.find(_MARK)
        if place < 0:
            return None
        start = place + len(_MARK) + _DIGITS + 1
        digits = content[place + len(_MARK) : start - 1]
        length = int(digits) if digits.isdigit() else 0
        body, end = content[start : start + length], content[start + length : start + length + 1]
    try:
        found = documents.parsed(body)
        if end != b">" or not isinstance(found, dict) or found.pop("format", None) != FORMAT:
            raise ValueError("it does not end where it should")
        stated = found.pop("checksum", None)
        if stated != documents.checksum({"format": FORMAT, **found}):
            raise ValueError("its checksum does not fit")
        checked(found, "")
    except ValueError as error:
        raise PruneError(
            f"{path}: the dictionary that the weights file carries is damaged ({error}). {_MEND}"
        ) from error
    return CutDictionary.from_dict(found)
