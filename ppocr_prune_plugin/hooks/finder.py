"""Post-import hooks: runs our patches right after a module of PaddleOCR was executed.

The tools bind names with ``from tools.program import …``, so a wrapper has to be in place when
the import of the module ends, not later. Standard library only; the patch functions are imported
when their module is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

from .points import CONFIG, TABLE, Point, check_module, misfit, pruned_weights

# Patches that could not be applied, with the reason. A run that neither prunes nor loads pruned
# weights goes on as if nothing were installed; any other stops (patches.config looks here).
failures: list[tuple[str, Exception]] = []


class PostImportFinder:
    """A meta-path finder that lets the others find a module and adds the hooks to its loader."""

    def __init__(self, table: Iterable[Point]) -> None:
        self._points: dict[str, list[Point]] = {}
        for point in table:
            if point.patch:
                self._points.setdefault(point.module, []).append(point)

    @property
    def modules(self) -> list[str]:
        """The modules that are patched."""
        return list(self._points)

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._points:
            return None
        spec = self._found_by_others(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self.hook)  # type: ignore[assignment]
        return spec

    def hook(self, module: ModuleType) -> None:
        """Apply the patches of a module; keep what goes wrong in ``failures``."""
        points = self._points[module.__name__]
        for patch in dict.fromkeys(point.patch for point in points):
            own = [point for point in points if point.patch == patch]
            try:
                unfit = [check for check in check_module(module, own) if not check.fits]
                if unfit:
                    raise misfit(_tree(module), [check.lacks for check in unfit])
                module_name, _, function = patch.partition(":")
                getattr(importlib.import_module(module_name), function)(module)
            except Exception as error:
                failures.append((patch, error))
                _note(patch, error)
                _stop_if_asked(patch)
                _guard(module, own)

    def _found_by_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        for finder in list(sys.meta_path):
            if isinstance(finder, PostImportFinder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                return spec
        return None


class _HookedLoader:
    """Stands in for a module's loader until the module is executed, then steps out of the way."""

    def __init__(self, loader: Any, hook: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._hook = hook

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its real loader: inspect, pickle and tracebacks see nothing of us.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        self._hook(module)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def install(table: Iterable[Point] = TABLE) -> PostImportFinder:
    """Put the finder first on ``sys.meta_path`` (once) and patch what is imported already."""
    for there in sys.meta_path:
        if isinstance(there, PostImportFinder):
            return there
    finder = PostImportFinder(table)
    sys.meta_path.insert(0, finder)
    for name in finder.modules:
        if name in sys.modules:
            finder.hook(sys.modules[name])
    return finder


def stop_waiting() -> None:
    """In this process nobody hooks PaddleOCR by its import any more (see ``_startup``): that is
    done, or what runs here are our own functions, which say themselves what goes wrong."""
    waiting = "PPOCRPruneWaiting"
    sys.meta_path[:] = [f for f in sys.meta_path if getattr(f, "__name__", "") != waiting]


def describe_failures() -> str:
    """One message about every patch that failed."""
    from ..errors import PruneError

    stated = [error for _, error in failures if isinstance(error, PruneError)]
    if stated:
        return str(stated[0])  # a tree that does not fit says so in full
    listed = "; ".join(f"{name} ({type(error).__name__}: {error})" for name, error in failures)
    return (
        f"cannot hook this PaddleOCR tree: {listed}. Run `ppocr-prune doctor` to see what is"
        " supported, or set PPOCR_PRUNE=0 to run without pruning."
    )


def _note(patch: str, error: Exception) -> None:
    """One line for who looks for it; nobody else sees it."""
    import logging

    logging.getLogger("ppocr_prune_plugin").debug("%s was not applied: %s", patch, error)


def _stop_if_asked(patch: str) -> None:
    """After a failure: exit where it matters and nobody will look at it later."""
    config = sys.modules.get(CONFIG.partition(":")[0])
    # A patch of the config that failed itself watches nothing.
    if patch != CONFIG and getattr(config, "is_watching", lambda: False)():
        return
    if _asked(patch):
        _stop()


def _asked(patch: str, arguments: Any = ()) -> bool:
    """Whether this run prunes, or loads pruned weights, as far as anybody can tell by now."""
    config = sys.modules.get(CONFIG.partition(":")[0])
    involved = getattr(config, "involves_pruning", lambda: None)() if patch != CONFIG else None
    if involved is None:
        from .request import section_requested

        involved = section_requested(sys.argv)
    stated = [word.partition("=")[2] for word in sys.argv]
    return bool(
        involved
        or any(word.startswith("--prune-plan") for word in sys.argv)
        or pruned_weights([stated, arguments])
    )


def _stop() -> None:
    from ..errors import PruneError, exiting_on_error

    with exiting_on_error():
        raise PruneError(describe_failures()) from failures[-1][1]


def _guard(module: ModuleType, points: Iterable[Point]) -> None:
    """Wrap functions whose patch was not applied: to call them is an error where the call names
    pruned weights or the run prunes, and as before where not."""
    import functools

    for point in points:
        original = getattr(module, point.name, None)
        if not isinstance(original, FunctionType):
            continue

        def guarded(*args: Any, _point: Point = point, _call: Any = original, **kwargs: Any) -> Any:
            if _asked(_point.patch, [*args, kwargs]):
                _stop()
            return _call(*args, **kwargs)

        setattr(module, point.name, functools.wraps(original)(guarded))


def _tree(module: ModuleType) -> Path:
    """The tree of a module, ``tools.program`` say."""
    return Path(module.__file__ or ".").resolve().parents[module.__name__.count(".")]
