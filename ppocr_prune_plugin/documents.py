"""Our JSON files: what is written is signed, and what is read has the shape that it should have.

Whoever reads one gets finite numbers of known size, lists and mappings as deep as they should be,
and nothing that the schema does not name; everything else is one :class:`PruneError`.
"""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from .errors import PruneError, quoted
from .files import read_file, write_atomically

Check: TypeAlias = Callable[[Any, str], None]
"""Raises :class:`Misfit` where a value, at a place in the document, is not what it should be."""

_DIGITS = 19  # of whole numbers: 64 bits
_HUGE = sys.float_info.max
LARGEST = 2**53  # the largest whole number that every reader of JSON keeps exactly


class Misfit(ValueError):
    """A value that should be something else."""

    def __init__(self, place: str, expected: str, found: Any) -> None:
        super().__init__(f"{place or 'the whole'}: should be {expected}, found {quoted(found)}")


def write(path: Path, content: Mapping[str, Any]) -> None:
    """Write a document with its checksum; the file is complete or as it was before."""
    write_atomically(path, json.dumps(signed(content), indent=1, allow_nan=False))


def signed(content: Mapping[str, Any]) -> dict[str, Any]:
    """The document with a checksum over the rest."""
    return {**content, "checksum": checksum(content)}


def checksum(content: Mapping[str, Any]) -> str:
    """What a document's ``checksum`` has to be."""
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]


def read(path: Path, what: str, format: str, schema: Check, mend: str) -> dict[str, Any]:
    """Read a document.

    Args:
        path: the file.
        what: what it is, for messages: "the pruning plan".
        format: what its ``format`` has to be.
        schema: what it has to look like, without ``format`` and ``checksum``.
        mend: what to do about a file that cannot be used, a sentence.

    Raises:
        PruneError: it is not there, cut off, changed since it was written, or of another format.
    """
    data = read_file(path, what)
    try:
        content = parsed(data)
    except ValueError as error:
        raise PruneError(f"{path}: {what} is not complete JSON ({error}). {mend}") from error
    found = content.get("format") if isinstance(content, dict) else type(content).__name__
    if not isinstance(content, dict) or found != format:
        raise PruneError(
            f"{path}: format is {quoted(found)}, but this version reads {format!r}. {mend}"
        )
    if content.pop("checksum", None) != checksum(content):
        raise PruneError(
            f"{path}: {what} was changed after it was written (its checksum does not fit). {mend}"
        )
    del content["format"]
    try:
        schema(content, "")
    except Misfit as error:
        raise PruneError(f"{path}: {what} lacks or misspells {error}. {mend}") from error
    return content


def parsed(data: bytes) -> Any:
    """JSON of finite numbers, not too deep, no key twice. Raises ValueError."""

    def whole(digits: str) -> int:
        if len(digits) > _DIGITS + 1:
            raise ValueError(f"a number of {len(digits)} digits")
        return int(digits)

    def real(digits: str) -> float:
        number = float(digits)
        if not math.isfinite(number):
            raise ValueError(f"the number {digits[:40]} is too large")
        return number

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no finite number")

    def mapping(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
        content = dict(pairs)
        if len(content) < len(pairs):
            names = [name for name, _ in pairs]
            twice = next(name for name in names if names.count(name) > 1)
            raise ValueError(f"the key {quoted(twice)} is there twice")
        return content

    try:
        return json.loads(
            data.decode("utf-8"),
            parse_int=whole,
            parse_float=real,
            parse_constant=constant,
            object_pairs_hook=mapping,
        )
    except RecursionError:
        raise ValueError("too deep") from None


def record(required: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A mapping with these keys and no others."""
    optional = optional or {}

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Misfit(place, f"a mapping of {', '.join([*required, *optional])}", value)
        for name in required:
            if name not in value:
                raise Misfit(_inside(place, name), "there", None)
        for name, item in value.items():
            own = required.get(name) or optional.get(name)
            if own is None:
                raise Misfit(place, f"a mapping of {', '.join([*required, *optional])}", value)
            own(item, _inside(place, name))

    return check


def mapping(each: Check, key: Check | None = None) -> Check:
    """A mapping of any names."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, dict):
            raise Misfit(place, "a mapping", value)
        for name, item in value.items():
            if key is not None:
                key(name, _inside(place, name))
            each(item, _inside(place, name))

    return check


def listed(each: Check) -> Check:
    """A list."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list):
            raise Misfit(place, "a list", value)
        for index, item in enumerate(value):
            each(item, f"{place}[{index}]")

    return check


def row(*each: Check) -> Check:
    """A list of so many items."""

    def check(value: Any, place: str) -> None:
        if not isinstance(value, list) or len(value) != len(each):
            raise Misfit(place, f"a list of {len(each)}", value)
        for index, (own, item) in enumerate(zip(each, value, strict=True)):
            own(item, f"{place}[{index}]")

    return check


def maybe(inner: Check) -> Check:
    """That, or null."""

    def check(value: Any, place: str) -> None:
        if value is not None:
            inner(value, place)

    return check


def text(value: Any, place: str) -> None:
    """Text."""
    if not isinstance(value, str):
        raise Misfit(place, "text", value)


def boolean(value: Any, place: str) -> None:
    """true or false."""
    if not isinstance(value, bool):
        raise Misfit(place, "true or false", value)


def whole(least: int, most: int = LARGEST) -> Check:
    """A whole number of a range, both ends in it."""

    def check(value: Any, place: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise Misfit(place, f"a whole number from {least} to {most}", value)

    return check


def number(least: float = -math.inf, most: float = math.inf) -> Check:
    """A finite number of a range, both ends in it."""

    def check(value: Any, place: str) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise Misfit(place, "a number", value)
        if not max(least, -_HUGE) <= value <= min(most, _HUGE):
            raise Misfit(place, f"a finite number from {least:g} to {most:g}", value)

    return check


def either(*checks: Check) -> Check:
    """What one of these accepts; the last one complains."""

    def check(value: Any, place: str) -> None:
        for own in checks[:-1]:
            try:
                return own(value, place)
            except Misfit:
                pass
        return checks[-1](value, place)

    return check


def _inside(place: str, name: str) -> str:
    return f"{place}.{name}" if place else name
