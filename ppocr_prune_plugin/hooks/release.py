"""Which PaddleOCR a tree is: what it states of itself, and what its code shows.

Since release 3.0 no file of a clone states a version (setuptools-scm takes it from git), and
branches keep the one that they began with. So a statement is shown as such, beside the releases
between which the code lies by what it has of the table of hook points.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .points import FIRST, check_tree

TREE_PACKAGE = "unstructured_paddleocr"  # a complete PaddleOCR tree from PyPI
_GIT_SECONDS = 10


@dataclass(frozen=True)
class Release:
    """``stated`` is the version that the tree states and ``where`` it does; ``least`` is the
    newest release whose additions it has, ``before`` the oldest whose additions it lacks (None
    where it lacks none); ``asks`` is the PaddleX that it requires, ``commit`` what git says."""

    stated: str | None = None
    where: str = ""
    least: str = FIRST
    before: str | None = None
    asks: str = ""
    commit: str = ""

    @property
    def contradicted(self) -> bool:
        """Whether the code has what came after the stated version."""
        return self.stated is not None and release_numbers(self.stated) < release_numbers(
            self.least
        )

    @property
    def by_code(self) -> str:
        """Between which releases the code lies."""
        return f"{self.least} or later" + (f", before {self.before}" if self.before else "")

    def __str__(self) -> str:
        said = [f"commit {self.commit}"] if self.commit else []
        if self.contradicted:
            said += [f"{self.where} says {self.stated}"]
        elif self.stated is not None:
            return " ".join([self.stated, *(f"({text})" for text in said)])
        else:
            said += ["it states no version", *([f"asks for PaddleX {self.asks}"] * bool(self.asks))]
        return f"{self.by_code} by its code ({'; '.join(said)})"


def release_of(tree: Path) -> Release:
    """Look at a tree; nothing of it is imported."""
    stated, where = _stated(tree)
    least, before = _bounds(tree)
    return Release(stated, where, least, before, _asked_paddlex(tree), _commit(tree))


def release_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "3.3.1.post2" gives (3, 3, 1)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def _stated(tree: Path) -> tuple[str | None, str]:
    if tree.name == TREE_PACKAGE:
        try:
            package = TREE_PACKAGE.replace("_", "-")
            return metadata.version(TREE_PACKAGE), f"the package {package}"
        except metadata.PackageNotFoundError:
            pass
    constant = r"""^\s*(?:VERSION|__version__|version)\s*=\s*["'](\d[\w.]*)["']"""
    for name, pattern in (
        ("PKG-INFO", r"^Version: (\d[\w.]*)$"),
        ("paddleocr.py", constant),
        ("paddleocr/__init__.py", constant),
        ("setup.py", constant),
        ("pyproject.toml", constant),
    ):
        found = re.search(pattern, _text(tree / name), re.MULTILINE)
        if found:
            return found.group(1), name
    return None, ""


def _bounds(tree: Path) -> tuple[str, str | None]:
    present: set[str] = {FIRST}
    absent: set[str] = set()
    for check in check_tree(tree):
        if not check.file.is_file():
            continue  # a part of a tree, such as the sdist without its networks
        new_place = check.found and check.module == check.point.module
        (present if new_place else absent).add(check.point.since)
        if check.parameters is not None:
            for name, since in check.point.also.items():
                (present if name in check.parameters else absent).add(since)
    least = max(present, key=release_numbers)
    later = [since for since in absent if release_numbers(since) > release_numbers(least)]
    return least, min(later, key=release_numbers, default=None)


def _asked_paddlex(tree: Path) -> str:
    found = re.search(
        r"""["']paddlex(?:\[[^\]]*\])?([=<>~!][^"']*)["']""", _text(tree / "pyproject.toml")
    )
    return found.group(1) if found else ""


def _commit(tree: Path) -> str:
    if not (tree / ".git").exists():
        return ""
    command = ["git", "-C", str(tree), "describe", "--tags", "--always"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
