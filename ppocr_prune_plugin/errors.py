"""What a user's mistake becomes: one clear message and exit code 2."""

from __future__ import annotations

import difflib
import functools
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

EXIT_CODE = 2

P = ParamSpec("P")
R = TypeVar("R")


class PruneError(Exception):
    """A mistake that the user can mend.

    The message names the file and key, what was found, what is allowed and how to mend it.
    """


def did_you_mean(word: object, allowed: Iterable[str]) -> str:
    """`` (did you mean "x"?)`` for the nearest of ``allowed``, or an empty string."""
    near = difflib.get_close_matches(str(word), list(allowed), n=1, cutoff=0.5)
    return f' (did you mean "{near[0]}"?)' if near else ""


def report_error(error: PruneError) -> None:
    """Write the message once to stderr, and to the log files of PaddleOCR's logger if it has any.

    PaddleOCR's console handlers are passed over: they would show the message a second time.
    """
    message = f"ppocr-prune: error: {error}"
    print(message, file=sys.stderr, flush=True)
    if "ppocr.utils.logging" not in sys.modules:
        return
    logger = logging.getLogger("ppocr")
    for handler in logger.handlers:
        if isinstance(handler, logging.FileHandler):
            handler.handle(
                logger.makeRecord(logger.name, logging.ERROR, __file__, 0, message, (), None)
            )


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
