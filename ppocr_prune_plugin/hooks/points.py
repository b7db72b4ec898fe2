"""The names that this package hooks in a PaddleOCR tree, looked up in its source.

The source is parsed, never imported: the answer comes without Paddle and without side effects.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..errors import PruneError

# file in the tree → names that must be there after its import
_POINTS = {
    "tools/program.py": ("load_config", "merge_config", "ArgsParser", "train", "eval"),
    "ppocr/utils/save_load.py": ("load_model", "save_model"),
    "ppocr/modeling/architectures/__init__.py": ("build_model",),
}


@dataclass(frozen=True)
class HookPoint:
    """One name of the tree: the module that has it, the name, the file, and whether it is there."""

    module: str
    name: str
    file: Path
    found: bool

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


def check_hook_points(tree: Path) -> list[HookPoint]:
    """Look up every hook point in a tree, in a fixed order."""
    points = []
    for file, names in _POINTS.items():
        module = file.removesuffix("/__init__.py").removesuffix(".py").replace("/", ".")
        defined = _top_level_names(tree / file)
        points += [HookPoint(module, name, tree / file, name in defined) for name in names]
    return points


def require_hook_points(tree: Path) -> None:
    """Raise :class:`PruneError` that names the hook points which a tree lacks."""
    missing = [str(point) for point in check_hook_points(tree) if not point.found]
    if missing:
        raise missing_hook_points(tree, missing)


def missing_hook_points(tree: Path, missing: Iterable[str]) -> PruneError:
    """The error about hook points that are not there."""
    return PruneError(
        f"the PaddleOCR tree at {tree} lacks what pruning hooks into: {', '.join(missing)}."
        " Supported are release/2.6 to the current main branch, unmodified; update the tree, or"
        " remove the Prune section to run without pruning."
    )


def _top_level_names(file: Path) -> set[str]:
    try:
        tree = ast.parse(file.read_bytes())
    except (OSError, SyntaxError, ValueError):
        return set()
    return set(_names(tree.body))


def _names(body: list[ast.stmt]) -> Iterator[str]:
    """Names bound by statements at module level, inside ``if``, ``try`` and ``with`` too."""
    for node in body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Import | ast.ImportFrom):
            yield from (alias.asname or alias.name for alias in node.names)
        elif isinstance(node, ast.Assign):
            yield from (target.id for target in node.targets if isinstance(target, ast.Name))
        else:
            for part in ("body", "orelse", "finalbody"):
                yield from _names(getattr(node, part, []))
            for handler in getattr(node, "handlers", []):
                yield from _names(handler.body)
