"""Which engines there are."""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util

from ..errors import PruneError, did_you_mean
from .interface import ONNX, Engine
from .onnx_runtime import OnnxRuntime
from .open_vino import OpenVino
from .paddle import PaddleInference

ENTRY_POINTS = "ppocr_prune_plugin.engines"
# In the order in which they are preferred: the fastest on most CPUs first.
_OWN: tuple[type[Engine], ...] = (OpenVino, OnnxRuntime, PaddleInference)


@functools.cache
def registered() -> dict[str, str]:
    """Engines of other installed packages: entry point name → ``package.module:name``."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS)
    return {point.name: point.value for point in found}


def known() -> list[str]:
    """Names of all engines, installed or not."""
    return [*(engine.name for engine in _OWN), *registered()]


def engine_class(name: str) -> type[Engine]:
    """The engine of a name, which is installed.

    Raises:
        PruneError: there is none of that name, it is not installed, or its own code fails.
    """
    for engine in _OWN:
        if engine.name == name:
            if not engine.is_installed():
                raise PruneError(
                    f"{engine.title} is not installed: {engine.install}. Installed: "
                    f"{', '.join(installed())}."
                )
            return engine
    if name not in registered():
        raise PruneError(
            f'there is no engine "{name}"{did_you_mean(name, known())}; known are '
            f"{', '.join(known())}"
        )
    (point,) = importlib.metadata.entry_points(group=ENTRY_POINTS, name=name)
    try:
        found = point.load()
    except Exception as error:  # whatever somebody else's module raises
        raise PruneError(
            f"the engine {name} ({point.value}) cannot be loaded: {type(error).__name__}: {error}"
        ) from error
    if not (isinstance(found, type) and issubclass(found, Engine)):
        raise PruneError(
            f"the engine {name} ({point.value}) is no ppocr_prune_plugin.engines.Engine"
        )
    lacks = [item for item in ("name", "title", "module", "install") if not hasattr(found, item)]
    if lacks or found.name != name:
        problem = f"lacks {', '.join(lacks)}" if lacks else f"calls itself {found.name!r}"
        raise PruneError(f"the engine {name} ({point.value}) {problem}")
    if not found.is_installed():
        raise PruneError(f"{found.title} is not installed: {found.install}.")
    return found


def installed() -> list[str]:
    """Names of the engines that can be used here, those of others included."""
    return [*(engine.name for engine in _OWN if engine.is_installed()), *registered()]


def choose(name: str | None) -> type[Engine]:
    """The engine of a name or, where there is none, the first of our own that is installed, with
    what converts models for it.

    Raises:
        PruneError: as :func:`engine_class`.
    """
    if name is not None:
        return engine_class(name)
    converts = importlib.util.find_spec("paddle2onnx") is not None
    usable = (e for e in _OWN if e.is_installed() and (converts or e.takes != ONNX))
    return next(usable)
