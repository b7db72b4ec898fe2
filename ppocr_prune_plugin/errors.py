"""What a user's mistake becomes: one clear message and exit code 2."""

from __future__ import annotations

import contextlib
import difflib
import functools
import logging
import math
import reprlib
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

EXIT_CODE = 2

P = ParamSpec("P")
R = TypeVar("R")


_LONGEST = 4000  # characters of a message


class PruneError(Exception):
    """A mistake that the user can mend.

    The message names the file and key, what was found, what is allowed and how to mend it. It is
    one line whatever is quoted in it: see :func:`one_line`.
    """

    def __init__(self, message: object) -> None:
        super().__init__(one_line(str(message)))


def one_line(text: str) -> str:
    """The text with line breaks and everything else that does not print written as escapes.

    Names and values in messages come from files; a line break in one of them could forge a second
    message, and a control sequence rewrite the first. What is very long loses its middle.
    """
    if not text.isprintable():
        text = "".join(c if c.isprintable() else _escape(c) for c in text)
    if len(text) > _LONGEST:
        text = f"{text[: _LONGEST * 3 // 4]} […] {text[-_LONGEST // 4 :]}"
    return text


class _Quoted(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict, self.maxlist, self.maxtuple = 3, 8, 16, 16
        self.maxstring = self.maxother = 200
        self.maxlong = 40

    def repr_int(self, x: int, level: int) -> str:
        if abs(x) < 10**self.maxlong:
            return repr(x)
        return f"a whole number of {int(x.bit_length() * math.log10(2)) + 1} digits"


def quoted(value: object) -> str:
    """A value from outside as a message shows it: its ``repr``, cut short where it is long, deep or
    huge."""
    return _Quoted().repr(value)


def _escape(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` for the nearest of ``allowed``, or an empty string."""
    text = word if isinstance(word, str) else quoted(word)
    near = difflib.get_close_matches(text, list(allowed), n=1, cutoff=0.5)
    return f' (did you mean "{near[0]}"?)' if near else ""


def report_error(error: PruneError) -> None:
    """Write the message once to stderr, and to the log files of PaddleOCR's logger if it has any.

    PaddleOCR's console handlers are passed over: they would show the message a second time.
    """
    message = f"ppocr-prune: error: {error}"
    with contextlib.suppress(OSError):  # stderr may be a file on a full disk
        print(message, file=sys.stderr, flush=True)
    if "ppocr.utils.logging" not in sys.modules:
        return
    logger = logging.getLogger("ppocr")
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            with _silent(handler):
                handler.handle(
                    logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None)
                )


@contextmanager
def _silent(handler: logging.Handler) -> Iterator[None]:
    """In this block a handler that cannot write (a full disk) prints no traceback about it."""
    handler.handleError = lambda record: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        del handler.handleError


@contextmanager
def exiting_on_error() -> Iterator[None]:
    """In this block a :class:`PruneError` becomes its message and ``SystemExit(2)``."""
    try:
        yield
    except PruneError as error:
        report_error(error)
        raise SystemExit(EXIT_CODE) from error


def exit_on_error(function: Callable[P, R]) -> Callable[P, R]:
    """Decorator for hooks: the function runs inside :func:`exiting_on_error`."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        with exiting_on_error():
            return function(*args, **kwargs)

    return wrapper
