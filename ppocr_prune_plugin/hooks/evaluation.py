"""Evaluate a live model with PaddleOCR's own ``eval`` on cached batches."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ..errors import PruneError
from ..section import SensitivityOptions
from ..sensitivity.batches import CachedBatches
from .calls import takes_labels

# What tools/eval.py calls these algorithms when it evaluates them.
_MODEL_TYPES = {
    "CAN": "can",
    "LaTeXOCR": "latexocr",
    "UniMERNet": "unimernet",
    "PP-FormulaNet-S": "pp_formulanet",
    "PP-FormulaNet-L": "pp_formulanet",
}


class PaddleOCREvaluation:
    """The config's main indicator on its evaluation set (or a fixed sample of it).

    Args:
        program: the module ``tools.program``.
        arguments: what ``program.train`` was called with, by name.
        options: number of images and memory for batches.
        folder: where batches spill to that do not fit into memory.

    Raises:
        PruneError: the evaluation set is empty.
    """

    def __init__(
        self,
        program: ModuleType,
        arguments: Mapping[str, Any],
        options: SensitivityOptions,
        folder: Path,
    ) -> None:
        self._program = program
        self._arguments = arguments
        self.metric: str = arguments["eval_class"].main_indicator
        loader = arguments["valid_dataloader"]
        if loader is None or len(loader) == 0:
            raise PruneError(
                "Eval: the evaluation set is empty, so sensitivity cannot be measured. Check "
                "Eval.dataset.data_dir and label_file_list, or prune by Prune.ratio."
            )
        self._batches = CachedBatches(loader, options.samples, options.cache_mb, folder)
        self.images = self._batches.images
        self.data = f"{self.images} images, checksum {self._batches.checksum:08x}"

    def __call__(self) -> float:
        """Evaluate; the model is left in training mode, as PaddleOCR's ``eval`` leaves it."""
        arguments = self._arguments
        architecture = arguments["config"]["Architecture"]
        algorithm = architecture.get("algorithm")
        amp = {
            key: arguments[key]
            for key in ("scaler", "amp_level", "amp_custom_black_list")
            if key in arguments
        }
        with _without_bars(self._program):
            metrics = self._program.eval(
                arguments["model"],
                self._batches,
                arguments["post_process_class"],
                arguments["eval_class"],
                _MODEL_TYPES.get(str(algorithm), architecture.get("model_type")),
                takes_labels(arguments["config"]),
                **amp,
            )
        return float(metrics[self.metric])

    def close(self) -> None:
        """Free the batches."""
        self._batches.close()


@contextmanager
def _without_bars(program: ModuleType) -> Iterator[None]:
    """One bar for the analysis is enough; PaddleOCR draws another in every evaluation."""
    original = program.tqdm
    program.tqdm = functools.partial(original, disable=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        program.tqdm = original  # type: ignore[attr-defined]
