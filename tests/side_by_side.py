"""Tests in several processes: the longest files begin first, and some tests want to be alone."""

from __future__ import annotations

import fcntl
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

# Files of tests that take longest, longest first: what begins last decides how long one process
# waits for another. --dist loadfile --no-loadscope-reorder takes files in this order.
_LONGEST = (
    *("tools", "configs", "receipts", "tools_lines", "latency", "training_modes", "demo"),
    *("bad_input", "distillation", "kills", "exporting", "processes", "today", "tools_tree"),
)


class Places:
    """A lock that tests share, and that one marked ``alone`` has to itself.

    It waits at a gate where no later test gets past it. Consecutive tests that want to be alone
    keep the lock between them.
    """

    def __init__(self, run: str) -> None:
        folder = Path(tempfile.gettempdir())
        self._gate = open(folder / f"ppocr-prune-{run}.gate", "a")
        self._lock = open(folder / f"ppocr-prune-{run}.lock", "a")
        self._alone = False

    def take(self, alone: bool) -> None:
        if self._alone:
            return
        fcntl.flock(self._gate, fcntl.LOCK_EX)
        fcntl.flock(self._lock, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(self._gate, fcntl.LOCK_UN)
        self._alone = alone

    def leave(self, next_alone: bool) -> None:
        if self._alone and next_alone:
            return
        fcntl.flock(self._lock, fcntl.LOCK_UN)
        self._alone = False


_places: Places | None = None  # where several processes run


def pytest_configure(config: pytest.Config) -> None:
    worker: dict[str, Any] = getattr(config, "workerinput", {})  # of pytest-xdist
    if worker:
        global _places
        _places = Places(worker["testrunuid"])


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}.py": position for position, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(
    item: pytest.Item, nextitem: pytest.Item | None
) -> Generator[None, object, object]:
    if _places is None:
        return (yield)
    _places.take(_is_alone(item))
    try:
        return (yield)
    finally:
        _places.leave(nextitem is not None and _is_alone(nextitem))


def _is_alone(item: pytest.Item) -> bool:
    return item.get_closest_marker("alone") is not None
