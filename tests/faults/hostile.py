"""Pickles that somebody made to do harm, by what they try."""

from __future__ import annotations

import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_SCALAR = np.float64(1).__reduce__()[0]  # numpy's constructor of scalars


class Call:
    """Pickles as the call of a function, and a state for what it returns."""

    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


class Dtype(Call):
    """A NumPy type with a state of one's own."""

    def __init__(self, code: str, *state: Any) -> None:
        super().__init__(np.dtype, (code, False, True), state)


def _long(opcode: bytes, size: int) -> bytes:
    """An opcode that says how long its argument is, and has none."""
    return b"\x80\x04" + opcode + struct.pack("<Q", size) + b"."


def _nested(opcode: bytes, count: int) -> bytes:
    return b"\x80\x04" + opcode * count + b"a" * (count - 1) + b"."


def _doubled_key(times: int) -> bytes:
    """A dict whose key is a tuple of twice a tuple of twice …: to compare it takes for ever."""
    return b"\x80\x04}(" + b"K\x01" + b"2\x86" * times + b"K\x01u."


def _copies(names: str, size: int, count: int) -> bytes:
    """A file of some hundred kilobytes that asks for many copies of a large list."""
    head = b"\x80\x04](" + b"K\x01" * size + b"e\x94(c" + names.encode() + b"\n\x94"
    return head + b"h\x01h\x00\x85R" * count + b"l."


# The state of a type without parts: of one of objects it hides that they are pointers.
_PLAIN = (3, "|", None, None, None, -1, -1, 0)


def pickles(marker: Path) -> dict[str, bytes]:
    """Name → content. Code that runs leaves ``marker`` behind."""
    run = Call(os.system, (f"touch {marker}",))
    address = struct.pack("<Q", 0x4141414141414141)
    fields = {"f0": (np.dtype("O"), 0)}
    as_object = Dtype("V8", 3, "|", None, ("f0",), fields, 8, 1, 63)
    losses: dict[str, Callable[[Any], Any]] = {
        "loss": lambda value: {"conv2d_0.w_0": {0.5: value}},
        "weight": lambda value: {"0.weight": value},
        "pair": lambda value: {"0.weight": ("conv2d_0.w_0", value)},
        "key": lambda value: {"conv2d_0.w_0": {value: 0.5}} if _hashable(value) else {0: value},
    }
    values: dict[str, Any] = {
        "os.system": run,
        "eval": Call(eval, (f"open({str(marker)!r}, 'w')",)),
        "open": Call(open, (str(marker), "w")),
        "getattr": Call(getattr, (Path(), "exists")),
        "numpy's file": Call(np.save, (str(marker), np.zeros(1))),
        "an address as an object": Call(_SCALAR, (Dtype("O", *_PLAIN), address)),
        "an address in a part": Call(_SCALAR, (as_object, address)),
        "a size that is none": Call(_SCALAR, (Dtype("f8", *_PLAIN[:5], 2**30, 8, 0), address)),
        "a negative size": Call(_SCALAR, (Dtype("f8", *_PLAIN[:5], -8, 1, 0), address)),
        "flags of objects": Call(_SCALAR, (Dtype("f8", *_PLAIN[:7], 63), address)),
        "a type of parts": Call(_SCALAR, (np.dtype([("a", "f4"), ("b", "f4")]), address)),
        "a type of text": Call(_SCALAR, (np.dtype("U2"), address)),
        "an object type": Call(_SCALAR, (np.dtype("O"), address)),
        "too few bytes": Call(_SCALAR, (np.dtype("f8"), address[:4])),
        "no bytes": Call(_SCALAR, (np.dtype("f8"),)),
        "a type as its own bytes": Call(_SCALAR, (np.dtype("f8"), np.dtype("f8"))),
        "an array of objects": np.array([run, None], dtype=object),
        "an array longer than its bytes": Call(
            np.ndarray(0).__reduce__()[0], (np.ndarray, (0,), b"b"),
            (1, (2**40,), np.dtype("f4"), False, b"1234"),
        ),
        "an array of negative length": Call(
            np.ndarray(0).__reduce__()[0], (np.ndarray, (0,), b"b"),
            (1, (-1, -4), np.dtype("f4"), False, b"1234" * 4),
        ),
        "an array subclass": Call(np.ndarray(0).__reduce__()[0], (np.memmap, (0,), b"b")),
        "a bytearray of 2 GiB": Call(bytearray, (2**31,)),
        "a tuple of a text": Call(tuple, ("x" * 10**6,)),
        "not a number": float("nan"),
        "infinity": np.float64("inf"),
        "a number of 5000 digits": 10**5000,
        "a complex number": 1j,
        "a set": {1, 2},
    }  # fmt: skip
    found = {
        f"{name} as a {place}": pickle.dumps(put(value), protocol=protocol)
        for name, value in values.items()
        for place, put in losses.items()
        for protocol in ((2, 4) if place == "loss" else (4,))
    }
    found |= {
        "nothing": b"",
        "no stop": b"\x80\x04}",
        "only a stop": b".",
        "text": b"<html><title>404</title></html>",
        "bytes of 2 GiB": _long(b"\x8e", 2**31),
        "text of 2 GiB": _long(b"\x8d", 2**31),
        "a bytearray of 2 GiB, in the file's words": _long(b"\x96", 2**31),
        "a bytearray of all memory": _long(b"\x96", 2**63 - 1),
        "a frame of 8 EiB": _long(b"\x95", 2**63 - 1),
        "a memo of 16 GiB": b"\x80\x04}r" + struct.pack("<I", 2**31) + b".",
        "a number of 2 GiB": b"\x80\x04\x8b" + struct.pack("<i", 2**31 - 1) + b"1.",
        "lists in lists": _nested(b"]", 50_000),
        "a list in itself": b"\x80\x04]\x94h\x00a.",
        "a dict in itself": b"\x80\x04}\x94X\x01\x00\x00\x00ah\x00s.",
        "a key of 2^60 parts": _doubled_key(60),
        "copies of tuples": _copies("builtins\ntuple", 10**5, 10**4),
        "copies of lists": _copies("collections\nOrderedDict", 10**5, 10**4),
        "a persistent name": b"\x80\x04U\x01xQ.",
        "an extension": b"\x80\x04\x82\x01.",
        "a buffer from outside": b"\x80\x05\x97.",
        "an old class": b"(ios\nsystem\n(lp0\n.",
        "a class by its number": b"\x80\x04K\x01K\x02\x93.",
        "an instance of text": b"\x80\x04U\x01x)\x81.",
        "a state for a number": b"\x80\x04K\x01}b.",
        "a call of a number": b"\x80\x04K\x01)R.",
        "a call of a class": b"\x80\x04cnumpy\nndarray\n)R.",
        "more than there is": b"\x80\x04e.",
        "a mark alone": b"\x80\x04(.",
        "tuple of a mark": b"\x80\x04(\x85.",
        "half a pair": b"\x80\x04}(K\x01u.",
        "an endless line": b"X" * 0 + b"c" + b"a" * 10**7,
        "names of half characters": pickle.dumps({"\ud800": {0.5: 0.1}, "a\nb\x1b[2K": {"x": 1}}),
        "keys of every kind": pickle.dumps({1: 2, None: 3, 10**5000: 4, b"x": 5, (1,): 6}),
    }
    return found


def _hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return not isinstance(value, Call)
