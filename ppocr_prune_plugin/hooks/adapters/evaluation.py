"""Evaluate a live model with PaddleOCR's own ``eval`` on cached batches."""

from __future__ import annotations

import functools
import inspect
import platform
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import PruneError
from ...section import SensitivityOptions
from ...sensitivity.batches import CachedBatches
from ...sensitivity.sequential import Figures
from ...sensitivity.spill import ArrayStore
from .boxes import WithFits, fits_of
from .calls import takes_labels
from .decisions import evaluation_type
from .metric_states import Both, MetricStates, State
from .polygons import cached_polygons
from .tree import tree_in_use


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
        self.sizes: Sequence[int] = self._batches.sizes
        self.data = f"{self.images} images, checksum {self._batches.checksum:08x}"
        self.activations = ArrayStore(
            self._batches.store.left, folder, disk=options.cache_mb * 2**20
        )
        self.current: int | None = None
        # As training evaluates, under the same mixed precision: whatever both take by one name.
        self._shared = {
            name: arguments[name]
            for name in inspect.signature(program.eval).parameters
            if name in arguments
        }
        self._states = MetricStates(arguments["eval_class"])
        self._unpruned: list[State] | None = None
        self._baseline: Figures | None = None

    def __call__(self) -> float:
        """Evaluate; the model is left in training mode, as PaddleOCR's ``eval`` leaves it."""
        return float(self._run(self._all, self._arguments["eval_class"])[self.metric])

    def figures(self) -> Figures:
        """The same with how well boxes fit, where it is about boxes."""
        return self._counted(self._arguments["eval_class"])

    def baseline(self) -> float:
        """The metric of the unpruned model, which must be live at the first call."""
        if self._baseline is None:
            both = Both(self._arguments["eval_class"], self._states)
            self._baseline = self._counted(both)
            if both.agrees(self._baseline.metric):
                self._unpruned = self._states.collected
        return self._baseline.metric

    def beside(self) -> Mapping[str, float]:
        """What was counted beside that."""
        self.baseline()
        assert self._baseline is not None
        return self._baseline.beside

    def unpruned(self) -> list[State] | None:
        """What each unit adds to the metric of the unpruned model; None where the metric is not
        made of such parts."""
        self.baseline()
        return self._unpruned

    def states(self, units: Sequence[int]) -> list[State]:
        """What each of these units adds to the metric of the live model."""
        self._states.collected = []
        self._run(units, self._states)
        return self._states.collected

    def combined(self, states: Sequence[State], counts: Sequence[int]) -> float:
        """The metric of units with these states, each taken as often as ``counts`` says."""
        return self._states.combined(states, counts)

    def outputs(self, unit: int) -> Any:
        """What the live model answers to one unit."""
        answers: list[Any] = []
        model = self._arguments["model"]
        hook = model.register_forward_post_hook(lambda *call: answers.append(call[-1]))
        try:
            self._run([unit], _NoMetric())
        finally:
            hook.remove()
        return answers

    @property
    def _all(self) -> Sequence[int]:
        return range(len(self.sizes))

    def _counted(self, metric: Any) -> Figures:
        """Evaluate on the whole set."""
        fits = fits_of(self._arguments["eval_class"])
        counted = metric if fits is None else WithFits(metric, fits)
        value = float(self._run(self._all, counted)[self.metric])
        return Figures(value, {} if fits is None else fits.figures())

    def _run(self, units: Sequence[int], metric: Any) -> Mapping[str, Any]:
        """PaddleOCR's ``eval`` on some units."""
        arguments = self._arguments
        architecture = arguments["config"]["Architecture"]
        try:
            with _without_bars(self._program), cached_polygons():
                metrics: Mapping[str, Any] = self._program.eval(
                    **{
                        **self._shared,
                        "valid_dataloader": _EveryBatch(self._batches.select(units, self._start)),
                        "eval_class": metric,
                        "model_type": evaluation_type(tree_in_use(), architecture),
                        "extra_input": takes_labels(arguments["config"]),
                    }
                )
        finally:
            self.current = None
        return metrics

    def _start(self, unit: int) -> None:
        self.current = unit

    def close(self) -> None:
        """Free the batches."""
        self._batches.close()
        self.activations.clear()


class _NoMetric:
    def __call__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def get_metric(self) -> dict[str, float]:
        return {}


class _EveryBatch:
    """A loader whose last batch is not lost: on Windows PaddleOCR's ``eval`` leaves it out."""

    def __init__(self, selection: Any) -> None:
        self._selection = selection

    def __len__(self) -> int:
        return len(self._selection) + (platform.system() == "Windows")

    def __iter__(self) -> Iterator[list[Any]]:
        return iter(self._selection)


@contextmanager
def _without_bars(program: ModuleType) -> Iterator[None]:
    """One bar for the analysis is enough; PaddleOCR draws another in every evaluation."""
    original = getattr(program, "tqdm", None)
    if original is None:
        yield
        return
    program.tqdm = functools.partial(original, disable=True)  # type: ignore[attr-defined]
    try:
        yield
    finally:
        program.tqdm = original  # type: ignore[attr-defined]
