"""Imports point one way: hooks → workflow → what it works with → the graph and the plan."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import ppocr_prune_plugin

PACKAGE = Path(ppocr_prune_plugin.__file__).parent
NAME = PACKAGE.name
# What a user's process starts in; nothing else imports hooks.
ENTRIES = {"_startup", "cli", "commands"}
# What all others stand on; each may import those before it.
FLOORS = ("errors", "structure", "graph", "alphabet", "cut_dictionary", "plan", "surgery")


def imports(path: Path) -> Iterator[str]:
    """Whole names of the modules that a file imports, also inside functions."""
    package = (NAME, *path.relative_to(PACKAGE).parent.parts)
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            start = ".".join([*above, *filter(None, [node.module])])
            yield from (f"{start}.{alias.name}" for alias in node.names)


def unit(path: Path) -> str:
    """The folder, or the file, directly below the package that a file is of."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


@pytest.fixture(scope="module")
def imported() -> dict[str, set[str]]:
    """Which units each unit of the package imports."""
    found: dict[str, set[str]] = {}
    for path in PACKAGE.rglob("*.py"):
        parts = [name.split(".") for name in imports(path)]
        own = {names[1] for names in parts if names[0] == NAME and len(names) > 1}
        found.setdefault(unit(path), set()).update(own - {unit(path)})
    return found


def test_no_unit_imports_what_imports_it(imported: dict[str, set[str]]) -> None:
    assert {"hooks", "workflow", "graph", "plan"} <= imported.keys()
    tuple(TopologicalSorter(imported).static_order())  # raises CycleError, which names the circle


def test_only_entries_import_hooks(imported: dict[str, set[str]]) -> None:
    assert {name for name, others in imported.items() if "hooks" in others} <= ENTRIES
    assert "workflow" in imported["hooks"] and "graph" in imported["workflow"]


@pytest.mark.parametrize("name", FLOORS)
def test_the_lowest_floors_know_nothing_above(imported: dict[str, set[str]], name: str) -> None:
    allowed = {*FLOORS[: FLOORS.index(name)], "documents", "files", "holding"}
    assert imported[name] <= allowed


def test_only_hooks_import_paddleocr() -> None:
    users = {
        unit(path)
        for path in PACKAGE.rglob("*.py")
        if any(name.split(".")[0] in ("ppocr", "tools") for name in imports(path))
    }
    assert users == {"hooks"}
