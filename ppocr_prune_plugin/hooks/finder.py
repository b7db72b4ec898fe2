"""Post-import hooks: runs our patch right after a module of PaddleOCR was executed.

The tools bind names with ``from tools.program import …``, so a wrapper has to be in place when
the import of the module ends, not later. Standard library only; the patch functions are imported
when their module is.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

from .registry import HOOKS

# Patch functions that did not succeed, with what they raised. A run without a Prune section goes
# on as if nothing were installed; one with a section stops (hooks.config looks here).
failures: list[tuple[str, Exception]] = []


class PostImportFinder:
    """A meta-path finder that lets the others find a module and adds the hooks to its loader."""

    def __init__(self, hooks: Mapping[str, Sequence[str]]) -> None:
        self._hooks = hooks

    def find_spec(
        self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name not in self._hooks:
            return None
        spec = self._found_by_others(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _HookedLoader(spec.loader, self._hooks[name])  # type: ignore[assignment]
        return spec

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

    def __init__(self, loader: Any, functions: Sequence[str]) -> None:
        self._loader = loader
        self._functions = functions

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # The module keeps its real loader: inspect, pickle and tracebacks see nothing of us.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        self._loader.exec_module(module)
        run_hooks(module, self._functions)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)


def install(hooks: Mapping[str, Sequence[str]] = HOOKS) -> None:
    """Put the finder first on ``sys.meta_path`` (once) and patch what is imported already."""
    if any(isinstance(finder, PostImportFinder) for finder in sys.meta_path):
        return
    sys.meta_path.insert(0, PostImportFinder(hooks))
    for name, functions in hooks.items():
        if name in sys.modules:
            run_hooks(sys.modules[name], functions)


def run_hooks(module: ModuleType, functions: Sequence[str]) -> None:
    """Call patch functions, named ``module:function``, with a module; keep their failures."""
    for name in functions:
        try:
            module_name, _, function_name = name.partition(":")
            getattr(importlib.import_module(module_name), function_name)(module)
        except Exception as error:
            failures.append((name, error))
            _stop_if_pruning(name)


def _stop_if_pruning(hook: str) -> None:
    """After a failure: exit where pruning is asked for and nobody will look at it later."""
    from ..errors import PruneError, exiting_on_error

    config = sys.modules.get("ppocr_prune_plugin.hooks.patches.config")
    # A hook of the config that failed itself watches nothing.
    status = None if hook.startswith("ppocr_prune_plugin.hooks.patches.config:") else config
    pruning = getattr(status, "is_pruning", lambda: None)()
    if pruning is None and not getattr(status, "is_watching", lambda: False)():
        from .request import section_requested

        pruning = section_requested(sys.argv)
    if pruning:
        with exiting_on_error():
            raise PruneError(describe_failures()) from failures[-1][1]


def describe_failures() -> str:
    """One message about every hook that failed."""
    listed = "; ".join(f"{name} ({type(error).__name__}: {error})" for name, error in failures)
    return (
        f"cannot hook this PaddleOCR tree: {listed}. Run `ppocr-prune doctor` to see what is"
        " supported, or set PPOCR_PRUNE=0 to run without pruning."
    )
