"""Hooks PaddleOCR in the processes that import it from a PaddleOCR tree.

The start-up files in site-packages are read by every Python process of the environment. They put a
class on ``sys.meta_path`` that waits for the import of ``ppocr`` or ``tools.program``, the first
that any program imports of a tree, and then calls :func:`imported`. Which program that is, and
where its script lies, does not matter: PaddleOCR's tools, those under ``deploy/``, a user's own, a
notebook. Until then nothing of this package is imported, and what is here is the standard library's
alone, without output, without an exception, and done once. ``PPOCR_PRUNE=0`` switches it off.
"""

import os
import sys

TYPE_CHECKING = False  # `typing` has not been imported yet, and takes its time
if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

# What waits has this name; the line in the ``.pth`` file spells both out.
WAITING = "PPOCRPruneWaiting"
FIRST = ("ppocr", "tools.program")


def wait() -> None:
    """Wait for a PaddleOCR tree, as the line in the ``.pth`` file does (Python 3.15 and later read
    the ``.start`` file instead, which names this function)."""

    def find_spec(
        name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        return imported(name, path) if name in FIRST else None

    if not any(getattr(finder, "__name__", "") == WAITING for finder in sys.meta_path):
        waiting = type(WAITING, (), {"find_spec": staticmethod(find_spec)})
        sys.meta_path.insert(0, waiting)  # type: ignore[arg-type]


def imported(name: str, path: "Sequence[str] | None" = None) -> "ModuleSpec | None":
    """Hook PaddleOCR if this module of :data:`FIRST` is one of a tree; nobody waits from then on.

    Returns what the hooks want to be imported for it; None leaves that to the other finders.
    """
    if tree_of(name, path) is None:
        return None
    try:
        from .hooks.finder import install, stop_waiting

        stop_waiting()
        if switched_off():
            from .hooks.request import warn_if_switched_off

            warn_if_switched_off(sys.argv)
            return None
        return install().find_spec(name, path)
    except Exception:
        return None  # a half-removed package must not break the user's program


def switched_off() -> bool:
    """Whether the environment says ``PPOCR_PRUNE=0``."""
    return os.environ.get("PPOCR_PRUNE", "").strip() == "0"


def tree_of(name: str, path: "Sequence[str] | None" = None) -> "str | None":
    """The PaddleOCR tree that a module of :data:`FIRST` is going to be imported from.

    None where it is another project's: a tree has a ``tools/program.py`` beside its ``ppocr``.
    """
    try:
        from importlib.machinery import PathFinder

        spec = PathFinder.find_spec(name, path)
        if spec is None:
            return None
        found = list(spec.submodule_search_locations or ())
        if spec.origin:
            found.append(os.path.dirname(spec.origin))
        for tree in map(os.path.dirname, found):
            if os.path.isfile(os.path.join(tree, "tools", "program.py")) and os.path.isdir(
                os.path.join(tree, "ppocr")
            ):
                return tree
    except Exception:  # whatever other projects' packages do when they are looked for
        pass
    return None
