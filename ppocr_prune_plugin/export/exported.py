"""The files of one exported model, and what is in them."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from ..engines.paddle import OFF, Predictor
from ..errors import PruneError

Array = npt.NDArray[Any]

_PROGRAMS = (".json", ".pdmodel")
_WEIGHTS = ".pdiparams"
_ASIDE = "wrong_"


class CannotRun(PruneError):
    """The files are there, and Paddle Inference cannot run them."""


class ExportedModel:
    """A program and its weights, ``<prefix>.json`` or ``.pdmodel`` with ``<prefix>.pdiparams``."""

    def __init__(self, prefix: Path) -> None:
        """Raises :class:`PruneError` where there is no program."""
        self.prefix = prefix
        found = [program for program in map(self._file, _PROGRAMS) if program.is_file()]
        if not found:
            raise PruneError(f"{prefix}: the export wrote no model there.")
        self._program = found[0]

    def run(self, inputs: Sequence[Sequence[Any]]) -> list[list[Array]]:
        """What it answers, on the CPU with one thread and without oneDNN.

        Args:
            inputs: some times what the network's ``forward`` takes: arrays in lists of lists, in
                its order. The last may have been left out by the export, if nothing reads them.

        Returns:
            For each of them all outputs.

        Raises:
            CannotRun: Paddle Inference cannot.
        """
        try:
            predictor = Predictor(self.prefix, onednn=OFF)
            return [predictor(*flat(arrays)) for arrays in inputs]
        except PruneError:
            raise
        except Exception as error:  # whatever Paddle raises
            said = [line.strip() for line in str(error).splitlines() if "Error: " in line]
            raise CannotRun(
                f"{self.prefix}: the export was written, but Paddle Inference cannot run it "
                f"({said[-1] if said else type(error).__name__}), so that it could not be compared "
                "with the trained model."
            ) from error

    def weights(self) -> dict[str, Array]:
        """Its numbers, by the names that Paddle had given to the network's tensors. Empty for the
        format of before Paddle 3, which today's Paddle does not load.

        Raises:
            CannotRun: Paddle cannot load them.
        """
        if self._program.suffix != ".json":
            return {}
        # Paddle takes a neighbour whose name begins in the same way for another part of the model.
        with tempfile.TemporaryDirectory(prefix="ppocr-prune-export-") as folder:
            alone = Path(folder) / "model"
            for suffix in (".json", _WEIGHTS):
                os.symlink(self._file(suffix).absolute(), f"{alone}{suffix}")
            try:
                loaded = paddle.jit.load(str(alone))
            except Exception as error:  # whatever Paddle raises
                raise CannotRun(
                    f"{self.prefix}: the export was written, but Paddle cannot load it "
                    f"({type(error).__name__})."
                ) from error
        # Loading makes names unique by a number at their end.
        tensors = loaded.state_dict().values()
        return {tensor.name.rpartition("_")[0]: tensor.numpy() for tensor in tensors}

    def move_aside(self) -> Path:
        """Give the files other names, so that nobody takes them for a good model; what had those
        names is replaced. Returns the new prefix."""
        aside = self.prefix.with_name(_ASIDE + self.prefix.name)
        for suffix in (*_PROGRAMS, _WEIGHTS):
            if self._file(suffix).exists():
                os.replace(self._file(suffix), aside.with_name(aside.name + suffix))
        return aside

    def _file(self, suffix: str) -> Path:
        return self.prefix.with_name(self.prefix.name + suffix)


def flat(inputs: Sequence[Any]) -> list[Array]:
    """Arrays in nested lists as one list."""
    nested = [flat(item) if isinstance(item, list) else [np.asarray(item)] for item in inputs]
    return [array for part in nested for array in part]
