"""What an engine has to do: load a model from a file, and run it on arrays.

An engine of one's own is a class of this kind, named under the entry-point group
``ppocr_prune_plugin.engines`` of any installed package. It may stand for whatever a model runs on,
a phone at the end of a cable too: all that is measured is how long :meth:`Session.run` takes.
"""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from ..errors import PruneError

Array = npt.NDArray[Any]

PADDLE, ONNX = "paddle", "onnx"


@dataclass(frozen=True)
class Input:
    """One input of a model: its name, its sizes (-1: any), and its type as NumPy calls it."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Session(ABC):
    """A loaded model."""

    inputs: tuple[Input, ...]

    @abstractmethod
    def prepare(self, arrays: Sequence[Array]) -> None:
        """Set what :meth:`run` works on, in the order of the inputs, and run once; what comes last
        and the model does not take is left out."""

    @abstractmethod
    def run(self) -> None:
        """Run on what was prepared."""

    @abstractmethod
    def outputs(self) -> list[Array]:
        """What the last run gave."""

    @property
    def how(self) -> str:
        """Anything special about how it runs, in words."""
        return ""


class Engine(ABC):
    """A way to run models on this machine.

    ``name`` is what ``Prune.latency.engine`` calls it, ``title`` what people do; ``takes`` says
    whether it loads exported Paddle models or ONNX files; ``module`` is the Python package that it
    needs, and ``install`` the command that installs that.

    Args:
        threads: of the CPU that a model may use.
        onednn: whether an engine that can do without uses oneDNN.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    takes: ClassVar[str] = ONNX
    module: ClassVar[str]
    install: ClassVar[str]

    def __init__(self, threads: int = 1, onednn: bool = True) -> None:
        self.threads, self.onednn = threads, onednn

    @classmethod
    def is_installed(cls) -> bool:
        """Whether the package is there; nothing is imported."""
        return importlib.util.find_spec(cls.module.partition(".")[0]) is not None

    @classmethod
    def version(cls) -> str:
        """Of the package."""
        try:
            return metadata.version(cls.module)
        except metadata.PackageNotFoundError:
            return "of unknown version"

    @abstractmethod
    def load(self, model: Path) -> Session:
        """Load a model.

        Args:
            model: an ONNX file or, for an engine that takes Paddle models, the path of one without
                an extension.

        Raises:
            PruneError: there is none, or it is damaged.
            Exception: whatever the engine raises for a model that it cannot run.
        """


def examples(inputs: Sequence[Input], sizes: Sequence[Sequence[int] | None]) -> list[Array]:
    """Numbers between 0 and 1 for the inputs of a model, in the sizes that are asked for.

    Args:
        inputs: of the model.
        sizes: for each input its shape, or None for what the model says; what it leaves open is 1.

    Raises:
        PruneError: the model does not take such a shape.
    """
    random = np.random.default_rng(0)
    found = []
    for position, item in enumerate(inputs):
        wanted = sizes[position] if position < len(sizes) else None
        if wanted is None:
            wanted = [max(size, 1) for size in item.shape]
        fits = len(wanted) == len(item.shape) and all(
            size in (-1, own) for size, own in zip(item.shape, wanted, strict=True)
        )
        if item.shape and not fits:
            raise PruneError(
                f"the model takes {item.name} of shape {_shown(item.shape)}, not {_shown(wanted)}"
            )
        found.append(random.random(tuple(wanted)).astype(item.dtype))
    return found


def _shown(shape: Sequence[int]) -> str:
    return "x".join("any" if size < 0 else str(size) for size in shape)
