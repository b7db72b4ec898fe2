"""Ways to damage a file, each drawn at random; JSON also by hand, with its checksum made right."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from typing import Any

import numpy as np

from ppocr_prune_plugin.documents import signed

Random = np.random.Generator


def truncated(data: bytes, random: Random) -> bytes:
    return data[: int(random.integers(len(data)))]


def bit_flipped(data: bytes, random: Random) -> bytes:
    changed = bytearray(data)
    changed[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
    return bytes(changed)


def overwritten(data: bytes, random: Random) -> bytes:
    """A block of zeros or noise, as a disk gives it back."""
    begin = int(random.integers(len(data)))
    size = int(random.integers(1, 512))
    block = bytes(size) if random.random() < 0.5 else random.bytes(size)
    return data[:begin] + block[: len(data) - begin] + data[begin + size :]


def repeated(data: bytes, random: Random) -> bytes:
    """A piece of it comes twice."""
    begin, end = sorted(random.integers(len(data), size=2).tolist())
    return data[:end] + data[begin:]


BYTES: list[Callable[[bytes, Random], bytes]] = [truncated, bit_flipped, overwritten, repeated]


def _deep() -> Any:
    value: Any = []
    for _ in range(300):
        value = [value]
    return value


_ODD: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 2**53, 10**18, 10**40, 0.5, -5.0, 1e-300, 1e308),
    *(float("nan"), float("inf"), "", "text", "0.5", "a\nppocr-prune: error: b", "\0", "\ud800"),
    *([], {}, [[]], [1, 2, 3], {"a": 1}, {"": {}}, [None], "x" * 10_000, _deep()),
]


def edited(data: bytes, random: Random) -> bytes:
    """One place of a JSON document changed by hand: a value, a key, an item more or less."""
    content = json.loads(data)
    places = list(_places(content))
    container, key = places[int(random.integers(len(places)))]
    way = random.integers(4)
    if way == 0 and isinstance(container, dict):
        container[str(key) + "x"] = container.pop(key)
    elif way == 1:
        container.pop(key)
    elif way == 2:
        container[key] = _nudged(container[key], random)
    else:
        container[key] = copy.deepcopy(_ODD[int(random.integers(len(_ODD)))])
    return json.dumps(signed(content)).encode()


def _places(content: Any) -> Any:
    """Every container with every key of its; the document's own format and checksum stay."""
    items = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in list(items):
        if key not in ("format", "checksum"):
            yield content, key
        if isinstance(value, dict | list):
            yield from _places(value)


def _nudged(value: Any, random: Random) -> Any:
    """A value of the same kind."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + int(random.integers(-3, 4))
    if isinstance(value, float):
        return value * float(random.choice([-1, 0, 0.5, 1.001, 100]))
    if isinstance(value, str):
        return value[::-1]
    if isinstance(value, list) and value:
        return [*value, value[-1]] if random.random() < 0.5 else value[::-1]
    return None
