"""Read pickles from elsewhere without Python's unpickler.

A pickle is a program for a small stack machine. This is that machine with everything left out that
could run code, reach memory, or take more of it than the file is long: names are looked up in a
closed list and never imported, arrays become their shapes, NumPy's numbers become Python's, keys
are text or numbers. ``pickletools`` of the standard library takes the program apart.
"""

from __future__ import annotations

import math
import os
import pickletools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

import numpy as np

from .errors import quoted
from .files import open_regular

# NumPy's types of plain numbers. No other type is made from a file: the state of a forged one says
# where in memory its values lie.
_NUMBERS = {name: np.dtype(name) for name in "b1 i1 i2 i4 i8 u1 u2 u4 u8 f2 f4 f8 c8 c16".split()}
_LINE = 2**16  # bytes of a line in a pickle that is text
_LARGEST = 2**40  # of the sizes of an array
_LONGEST_TUPLE = 16

T = TypeVar("T")


class Unreadable(ValueError):
    """What does not belong in such a file."""


@dataclass
class Array:
    """What is read of an array: its shape."""

    shape: tuple[int, ...]


@dataclass
class Object:
    """An object whose class is not looked up: its name, and its fields as they were stored."""

    name: str
    fields: dict[str, Any]


def read_pickle(path: Path, what: str, objects: frozenset[str] = frozenset()) -> Any:
    """What a pickle holds: dicts, lists, tuples, text, bytes, numbers, :class:`Array`.

    Args:
        path: the file.
        what: what it should be, for messages: "a weights file".
        objects: names (``module.Class``) of which an :class:`Object` may be.

    Raises:
        PruneError: it cannot be read.
        ValueError: it is damaged, or holds anything else.
    """
    with open_regular(path, what) as file:
        return _Machine(_Bounded(file), what, objects).run()


class _Bounded:
    """A file that is never asked for more than it has left, whatever length stands in it."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._left = file.seek(0, os.SEEK_END)
        file.seek(0)

    def read(self, size: int) -> bytes:
        data = self._file.read(min(size, self._left))
        self._left -= len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(min(_LINE, self._left))
        self._left -= len(data)
        return data

    def tell(self) -> int:
        return self._file.tell()


@dataclass(frozen=True)
class _Name:
    """A name that the pickle asks for."""

    name: str


@dataclass
class _Type:
    """A NumPy type."""

    dtype: np.dtype[Any]


_MARK = object()  # on the stack: a list of arguments begins here


class _Machine:
    def __init__(self, file: _Bounded, what: str, objects: frozenset[str]) -> None:
        self._file, self._what, self._objects = file, what, objects
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        for opcode, argument, _ in pickletools.genops(cast(Any, self._file)):
            name = opcode.name
            if name == "STOP":
                return self._pop()
            if name in _CONSTANTS:
                self._stack.append(_CONSTANTS[name])
            elif name in _PLAIN:
                self._stack.append(argument)
            elif name in _STEPS:
                _STEPS[name](self, argument)
            elif name not in ("PROTO", "FRAME"):
                raise self._foreign(name)
        raise Unreadable("it has no end")

    def _foreign(self, name: str) -> Unreadable:
        return Unreadable(f"{name} does not belong in {self._what}")

    def _pop(self) -> Any:
        if not self._stack or self._stack[-1] is _MARK:
            raise Unreadable("something is missing in it")
        return self._stack.pop()

    def _top(self, kind: type[T]) -> T:
        if not self._stack or not isinstance(self._stack[-1], kind):
            raise Unreadable(f"there is no {kind.__name__} where one should be")
        return self._stack[-1]

    def _drop(self, to_mark: bool = False) -> None:
        if to_mark:
            self._arguments()
        else:
            self._pop()

    def _arguments(self) -> list[Any]:
        """What lies above the last mark."""
        place = len(self._stack) - 1
        while place >= 0 and self._stack[place] is not _MARK:
            place -= 1
        if place < 0:
            raise Unreadable("something is missing in it")
        found = self._stack[place + 1 :]
        del self._stack[place:]
        return found

    def _mark(self, _: Any) -> None:
        self._stack.append(_MARK)

    def _duplicate(self, _: Any) -> None:
        self._stack.append(self._top(object))

    def _remember(self, place: int | None) -> None:
        self._memo[len(self._memo) if place is None else place] = self._top(object)

    def _recall(self, place: int) -> None:
        if place not in self._memo:
            raise Unreadable("something is missing in it")
        self._stack.append(self._memo[place])

    def _list(self, _: Any) -> None:
        self._stack.append(self._arguments())

    def _append(self, _: Any) -> None:
        item = self._pop()
        self._top(list).append(item)

    def _extend(self, _: Any) -> None:
        items = self._arguments()
        self._top(list).extend(items)

    def _tuple(self, _: Any) -> None:
        self._stack.append(tuple(self._arguments()))

    def _short_tuple(self, size: int) -> None:
        items = [self._pop() for _ in range(size)]
        self._stack.append(tuple(reversed(items)))

    def _dict(self, _: Any) -> None:
        self._stack.append(_filled({}, self._arguments()))

    def _set_item(self, _: Any) -> None:
        value, key = self._pop(), self._pop()
        _filled(self._top(dict), [key, value])

    def _set_items(self, _: Any) -> None:
        items = self._arguments()
        _filled(self._top(dict), items)

    def _global(self, name: str) -> None:
        self._named(".".join(name.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self._pop(), self._pop()
        self._named(f"{module}.{name}")

    def _named(self, name: str) -> None:
        if name not in _MADE and name not in _CLASSES and name not in self._objects:
            raise self._foreign(name)
        self._stack.append(_Name(name))

    def _reduce(self, _: Any) -> None:
        arguments = self._pop()
        name = self._pop()
        if not isinstance(name, _Name) or not isinstance(arguments, tuple):
            raise Unreadable("a call of something that is no name")
        make = _MADE.get(name.name)
        if make is None:
            raise self._foreign(f"a call of {name.name}")
        try:
            self._stack.append(make(*arguments))
        except TypeError as error:  # more arguments than it takes, or fewer
            raise Unreadable(f"{name.name} of {len(arguments)} arguments") from error

    def _new_object(self, _: Any) -> None:
        arguments, name = self._pop(), self._pop()
        if not isinstance(name, _Name) or name.name not in self._objects or arguments != ():
            raise Unreadable("an object of something that is no class")
        self._stack.append(Object(name.name, {}))

    def _build(self, _: Any) -> None:
        state = self._pop()
        target = self._top(object)
        if isinstance(target, Array):
            target.shape = _array_state(state)
        elif isinstance(target, _Type):
            target.dtype = _type_state(target.dtype, state)
        elif isinstance(target, Object) and isinstance(state, dict):
            target.fields = state
        else:
            raise Unreadable(f"a state for {type(target).__name__}")


def _filled(target: dict[Any, Any], items: Sequence[Any]) -> dict[Any, Any]:
    if len(items) % 2:
        raise Unreadable("a key without a value")
    for key, value in zip(items[::2], items[1::2], strict=True):
        # Keys are compared by value: a tuple of tuples of … could take for ever.
        if not isinstance(key, str | int | float | bytes | None):
            raise Unreadable(f"{type(key).__name__} as a key")
        target[key] = value
    return target


def _dtype(code: Any, *more: Any) -> _Type:
    name = code.lstrip("<>=|") if isinstance(code, str) else ""
    if name not in _NUMBERS:
        raise Unreadable(f"numbers of the type {quoted(code)}")
    return _Type(_NUMBERS[name].newbyteorder(code[0] if code[0] in "<>" else "="))


def _type_state(dtype: np.dtype[Any], state: Any) -> np.dtype[Any]:
    """``(version, byte order, subarray, names, fields, size, alignment, flags)``, of which a plain
    number has the first two."""
    if not (
        isinstance(state, tuple)
        and len(state) == 8
        and state[1] in ("<", ">", "=", "|")
        and state[2:] == (None, None, None, -1, -1, 0)
    ):
        raise Unreadable("a type with parts")
    return dtype.newbyteorder("=" if state[1] == "|" else state[1])


def _reconstruct(kind: Any, *more: Any) -> Array:
    if kind != _Name("numpy.ndarray"):
        raise Unreadable("an array of another class")
    return Array(())


def _array_state(state: Any) -> tuple[int, ...]:
    """``([version,] shape, type, order, values)``."""
    if not isinstance(state, tuple) or len(state) not in (4, 5):
        raise Unreadable("an array with an unknown state")
    shape, kind, _, values = state[-4:]
    return _shape(shape, kind, values)


def _from_buffer(values: Any, kind: Any, shape: Any, order: Any = None) -> Array:
    return Array(_shape(shape, kind, values))


def _shape(shape: Any, kind: Any, values: Any) -> tuple[int, ...]:
    """The shape of an array that is as long as its values."""
    sizes = shape if isinstance(shape, tuple) else (shape,)
    if not all(type(size) is int and 0 <= size <= _LARGEST for size in sizes):
        raise Unreadable(f"an array of the shape {quoted(shape)}")
    if not isinstance(kind, _Type) or not isinstance(values, bytes | bytearray | str):
        raise Unreadable("an array of something else than numbers")
    if len(values) != math.prod(sizes) * kind.dtype.itemsize:
        raise Unreadable(f"{len(values)} bytes for an array of the shape {list(sizes)}")
    return sizes


def _scalar(kind: Any, values: Any = b"") -> Any:
    if not (
        isinstance(kind, _Type)
        and isinstance(values, bytes | str)
        and len(values) == kind.dtype.itemsize
    ):
        raise Unreadable("a number of another type than its bytes")
    raw = values.encode("latin1") if isinstance(values, str) else values
    return np.frombuffer(raw, kind.dtype)[0].item()


def _encoded(text: Any, encoding: Any = "") -> Any:
    """Bytes that were written as text, one character each. They stay text: a copy for every time
    that a file asks for one could fill the memory."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise Unreadable("bytes in an unknown writing")
    return text


def _bytearray(values: Any = b"", encoding: Any = "latin-1") -> Any:
    """Of bytes that are there, never of a length, which could be any."""
    if isinstance(values, str):
        return _encoded(values, encoding)
    if not isinstance(values, bytes):
        raise Unreadable("bytes that are not there")
    return values


def _no_bytes() -> bytes:
    return b""


def _as_tuple(items: Any = ()) -> tuple[Any, ...]:
    """Paddle's ``(name, array)``."""
    if not isinstance(items, list | tuple) or len(items) > _LONGEST_TUPLE:
        raise Unreadable("a tuple of something else")
    return tuple(items)


def _ordered() -> dict[Any, Any]:
    return {}


_MADE: dict[str, Callable[..., Any]] = {
    "numpy.dtype": _dtype,
    "numpy.core.multiarray._reconstruct": _reconstruct,
    "numpy._core.multiarray._reconstruct": _reconstruct,
    "numpy.core.multiarray.scalar": _scalar,
    "numpy._core.multiarray.scalar": _scalar,
    "numpy.core.numeric._frombuffer": _from_buffer,
    "numpy._core.numeric._frombuffer": _from_buffer,
    "_codecs.encode": _encoded,
    "builtins.tuple": _as_tuple,
    "__builtin__.tuple": _as_tuple,
    "builtins.bytes": _no_bytes,
    "__builtin__.bytes": _no_bytes,
    "builtins.bytearray": _bytearray,
    "__builtin__.bytearray": _bytearray,
    "collections.OrderedDict": _ordered,
}
_CLASSES = {"numpy.ndarray"}
_CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": ()}
_PLAIN = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
_STEPS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine._mark,
    "POP": lambda machine, _: machine._drop(),
    "POP_MARK": lambda machine, _: machine._drop(to_mark=True),
    "DUP": _Machine._duplicate,
    **dict.fromkeys(("PUT", "BINPUT", "LONG_BINPUT", "MEMOIZE"), _Machine._remember),
    **dict.fromkeys(("GET", "BINGET", "LONG_BINGET"), _Machine._recall),
    "EMPTY_LIST": lambda machine, _: machine._stack.append([]),
    "LIST": _Machine._list,
    "APPEND": _Machine._append,
    "APPENDS": _Machine._extend,
    "TUPLE": _Machine._tuple,
    "TUPLE1": lambda machine, _: machine._short_tuple(1),
    "TUPLE2": lambda machine, _: machine._short_tuple(2),
    "TUPLE3": lambda machine, _: machine._short_tuple(3),
    "EMPTY_DICT": lambda machine, _: machine._stack.append({}),
    "DICT": _Machine._dict,
    "SETITEM": _Machine._set_item,
    "SETITEMS": _Machine._set_items,
    "GLOBAL": _Machine._global,
    "STACK_GLOBAL": _Machine._stack_global,
    "REDUCE": _Machine._reduce,
    "NEWOBJ": _Machine._new_object,
    "BUILD": _Machine._build,
}
