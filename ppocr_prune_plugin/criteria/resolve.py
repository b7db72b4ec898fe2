"""From the name in the config to the criterion."""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import inspect
import os
import site
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import PruneError, did_you_mean
from ..graph.groups import ChannelGroup
from ..section import CRITERIA, registered_criteria
from .interface import Arrays, Context, Criterion, Prepared, Ranking, Selection
from .norms import FPGM, L1, L2
from .obs import Obs
from .others import BatchNormScale, Random
from .taylor import Taylor

BUILT_IN: dict[str, Callable[[], Criterion]] = {
    "l1": L1,
    "l2": L2,
    "fpgm": FPGM,
    "bn_scale": BatchNormScale,
    "taylor": Taylor,
    "obs": Obs,
    "random": Random,
}
assert tuple(BUILT_IN) == CRITERIA


def resolve(name: str) -> Criterion | Selection:
    """A new criterion.

    Args:
        name: a built-in criterion; the name of an entry point of the group
            ``ppocr_prune_plugin.criteria``; ``package.module:Class`` of a package that is
            installed or on ``PYTHONPATH``; or ``paddleslim.Class``.

    Raises:
        PruneError: there is nothing of that name, it cannot be imported or made, or it is no
            criterion.
    """
    if name in BUILT_IN:
        return BUILT_IN[name]()
    if ":" in name:
        return _made(name, _imported(name))
    if name.startswith("paddleslim."):
        from . import paddleslim

        return paddleslim.PaddleSlimSelection(
            name, paddleslim.pruner_class(name.removeprefix("paddleslim."))
        )
    registered = registered_criteria()
    if name in registered:
        return _made(f"{name} ({registered[name]})", _imported(registered[name]))
    known = [*BUILT_IN, *registered]
    raise PruneError(
        f"Prune.criterion: there is no criterion {name!r}{did_you_mean(name, known)}. There are "
        f"{', '.join(known)}; package.module:Class; and paddleslim.Class."
    )


class Ranker:
    """A criterion with the name that the config gives it.

    Raises:
        PruneError: as :func:`resolve`.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.criterion = resolve(name)

    def prepare(self, context: Context) -> None:
        """Let the criterion look at the network, if it wants to.

        Raises:
            PruneError: the criterion fails.
        """
        if not isinstance(self.criterion, Prepared):
            return
        try:
            self.criterion.prepare(context)
        except PruneError:
            raise
        except Exception as error:  # whatever a criterion from outside raises
            raise PruneError(
                f"Prune.criterion: {self.name} failed in prepare() with "
                f"{type(error).__name__}: {error}."
            ) from error

    def rank(self, group: ChannelGroup, arrays: Arrays) -> Ranking:
        """Which channels of a group stay, for any width."""
        return Ranking(self.name, self.criterion, group, arrays)

    @property
    def looks(self) -> bool:
        """Whether it looks at the network, and may ask for gradients of the training loss there."""
        asks = getattr(self.criterion, "asks_for_gradients", True)
        return isinstance(self.criterion, Prepared) and bool(asks)

    @property
    def identity(self) -> str:
        """What a sensitivity file remembers: the name, for a criterion from outside with a digest
        of its source, which may change under the same name."""
        if self.name in BUILT_IN:
            return self.name
        cls = getattr(self.criterion, "pruner", type(self.criterion))
        try:
            digest = hashlib.sha256(inspect.getsource(cls).encode()).hexdigest()[:8]
        except (OSError, TypeError):  # compiled, or made without a file
            return self.name
        return f"{self.name} (source {digest})"


def _imported(path: str) -> Any:
    """The object at ``package.module:name``."""
    module_name, _, attribute = path.partition(":")
    try:
        module = _module(module_name)
    except Exception as error:  # whatever an import of somebody's module raises
        raise PruneError(
            f"Prune.criterion: the module of {path} cannot be imported: "
            f"{type(error).__name__}: {error}. Install its package, or name the folder that it is "
            "in when you start the tool: PYTHONPATH=folder python tools/train.py … (the current "
            "folder is not looked into by itself)."
        ) from error
    found: Any = module
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [n for n, value in vars(found).items() if inspect.isclass(value)]
            raise PruneError(
                f"Prune.criterion: {path}: {module_name} has no {attribute}"
                f"{did_you_mean(part, names)}."
            )
        found = getattr(found, part)
    return found


def _module(name: str) -> Any:
    """Import a module from where :func:`_places` says."""
    path = sys.path[:]
    sys.path[:] = _places(path)
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        from . import paddleslim

        if error.name not in paddleslim.FORGOTTEN:
            raise
        paddleslim.load()
        return importlib.import_module(name)
    finally:
        sys.path[:] = path


def _places(path: Sequence[str]) -> list[str]:
    """Where Python imports from, without the current folder: a config may name any module, and what
    lies in that folder may have come with the config. It stays where ``PYTHONPATH`` names it, or
    a package was installed from it in editable mode.
    """
    here = os.path.realpath(os.curdir)
    stated = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if sys.flags.ignore_environment:
        stated = []
    if any(entry and os.path.realpath(entry) == here for entry in [*stated, *_editable()]):
        return list(path)
    return [entry for entry in path if os.path.realpath(entry or os.curdir) != here]


def _editable() -> Iterator[str]:
    """Folders that are on the path because a ``.pth`` file of the environment says so."""
    for place in (*site.getsitepackages(), site.getusersitepackages()):
        for file in Path(place).glob("*.pth"):
            with contextlib.suppress(OSError):
                lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
                yield from (line.strip() for line in lines if os.path.isabs(line.strip()))


def _made(name: str, found: Any) -> Criterion | Selection:
    from . import paddleslim

    if inspect.isclass(found):
        if paddleslim.is_pruner(found):
            return paddleslim.PaddleSlimSelection(name, found)
        _require_method(name, found)
        try:
            found = found()
        except Exception as error:
            raise PruneError(
                f"Prune.criterion: {name} cannot be made without arguments: "
                f"{type(error).__name__}: {error}."
            ) from error
    _require_method(name, found)
    checked: Criterion | Selection = found
    return checked


def _require_method(name: str, found: Any) -> None:
    if any(callable(getattr(found, method, None)) for method in ("importance", "keep")):
        return
    own = [n for n in dir(found) if not n.startswith("_") and callable(getattr(found, n, None))]
    raise PruneError(
        f"Prune.criterion: {name} has no method importance(group, arrays)"
        f"{did_you_mean('importance', own)}. A criterion has one that returns a score per channel;"
        " see docs/criteria.md."
    )
