"""Latency of a network for any widths: a table of its operations, fitted to whole networks.

The times of the operations alone do not add up to that of the network: layouts change between
them, some run together, others are not in the table. So a few networks, pruned in different ways,
are exported and timed as they are, and say what an operation counts inside a network:

    latency = a * (convolutions and matrix products) + b * (element by element) + c

with a, b and c not negative.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import logging
import platform
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from tqdm import tqdm

from .. import surgery
from ..errors import PruneError
from ..graph.inference_mode import in_inference_mode
from ..graph.trace import is_spec, trace
from ..network import Network
from ..plan import GroupPlan
from ..ratios.costs import Cost, Part, Widths
from ..section import LatencyOptions
from .grid import Interpolated
from .layers import build
from .operations import Operation, operations_of
from .table import open_table
from .timer import NoAnswer, Timer

_WEIGHTED = ("conv", "depthwise", "linear")
# An operation that takes less than this share of the network is measured at its ends only.
_SMALL = 0.004
# One measurement does not say more than that predicted savings are so many times the real ones.
_GAINS = (0.5, 2.0)
# On an idle machine the runs of a network differ by a few percent.
_BUSY = 0.25
# Of how far each layer can be cut: networks that the model is fitted to.
_DEPTHS = (0.35, 0.7, 1.0)


# Milliseconds: predictions are added up in whole picoseconds.
_UNIT = 1e-9


def _is_weighted(operation: Operation) -> bool:
    return operation.kind.startswith(_WEIGHTED)


@dataclass(frozen=True)
class _Rounded:
    """Milliseconds of an operation inside the network, in whole units."""

    times: Interpolated
    factor: float

    def __call__(self, sizes: tuple[Any, ...]) -> Any:
        found = np.rint(self.times(sizes) * (self.factor / _UNIT)).astype(np.int64)
        return found if found.ndim else int(found)


class NetworkLatency:
    """Predicts and measures the latency of a network with any widths. :meth:`close` it.

    ``before`` is that of the unpruned network in milliseconds, ``how`` says how it was measured,
    ``path`` is that of the table.
    """

    def __init__(
        self,
        network: Network,
        options: LatencyOptions,
        narrowest: Widths,
        path: Path,
        logger: logging.Logger,
    ) -> None:
        """Measure what the table at ``path`` has not yet.

        Args:
            network: the unpruned network.
            options: how to measure.
            narrowest: how few channels a group may keep; groups that stay whole are left out.
            path: of the table.
            logger: told what is done.

        Raises:
            PruneError: Paddle can neither export nor run the network.
        """
        self._network, self._logger = network, logger
        self._inputs = measured_inputs(network.inputs, options)
        self._sizes = {group.name: group.size for group in network.graph.groups}
        twin = in_inference_mode(network.model)
        operations = operations_of(
            trace(twin, self._inputs, training=False), network.graph, network.costs.axes
        )
        structure = [(op.key, op.widths(self._sizes)) for op in operations]
        few = {**self._sizes, **narrowest}
        # What no choice of widths changes is part of the constant.
        changing = [op for op in operations if op.widths(few) != op.widths(self._sizes)]
        self._operations = Counter(changing)
        self.path = path
        self._timer = Timer(options)
        try:
            self._unpruned = self._timer.exported(twin, self._inputs)
            self._table, problem = open_table(path, self._fingerprint(options, structure))
            if problem:
                logger.warning(f"prune: {path} is measured anew: {problem}")
            self._measure(narrowest, few)
        except BaseException:
            self.close()
            raise
        shape = "x".join(map(str, self._inputs[0][0]))
        threads = f"{options.threads} thread{'s' if options.threads > 1 else ''}"
        self.how = f"Paddle Inference, {self._table.onednn}, {threads}, {shape}"
        self._gain = 1.0

    def close(self) -> None:
        """End the measuring process and remove its files."""
        self._timer.close()

    def __enter__(self) -> NetworkLatency:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __call__(self, widths: Widths) -> float:
        """Predicted milliseconds; ``widths`` has every group."""
        return self.cost(widths)

    @property
    def cost(self) -> Cost:
        """Predicted milliseconds of any widths, by all that was measured so far; every operation
        is a part of them."""
        weighted, others, constant = (self._gain * self._weights).tolist()
        parts = [
            Part(
                operation.sizes,
                _Rounded(times, count * (weighted if _is_weighted(operation) else others)),
            )
            for (operation, count), times in zip(self._operations.items(), self._times, strict=True)
        ]
        rest = self.before - self._gain * self._raw_before + constant
        return Cost(round(rest / _UNIT), tuple(parts), _UNIT)

    def measure(self, widths: Widths) -> tuple[float, float]:
        """Milliseconds of the unpruned and the pruned network, timed in turns; kept in the table.

        The network is pruned for it and put back.
        """
        key = self._key(widths)
        if key not in self._table.networks:
            pruned = [] if key == self._key(self._sizes) else [self._exported(widths)]
            times = self._timer.networks([self._unpruned, *pruned], self._inputs)
            if self._timer.disturbance > _BUSY:
                self._logger.warning(
                    "prune: the machine is busy: half of the runs of a network took over "
                    f"{self._timer.disturbance:.0%} longer than the fastest. Times measured now "
                    "are not to be trusted; stop other programs, and delete "
                    f"{self._table.path} to measure again"
                )
            self._table.networks[key] = (times[0], times[-1])
            self._table.onednn = self._timer.onednn
            self._table.save()
        return self._table.networks[key]

    def achieved(self, widths: Widths) -> float:
        """Measured milliseconds, as they would be beside :attr:`before`."""
        before, after = self.measure(widths)
        return self.before * after / before

    def correct(self, widths: Widths) -> None:
        """Predict from now on what was measured for these widths; others follow in proportion."""
        raw = float(self._weights @ self._features(widths))
        predicted, saved = self._raw_before - raw, self.before - self.achieved(widths)
        if predicted > 0:
            low, high = _GAINS
            self._gain = min(max(saved / predicted, low), high)

    def _fingerprint(self, options: LatencyOptions, structure: object) -> dict[str, str]:
        return {
            "CPU": _cpu(),
            "Paddle version": str(paddle.__version__),
            "Prune.latency.threads": str(options.threads),
            "Prune.latency.onednn": str(options.onednn).lower(),
            "input": str([list(shape) for shape, _ in self._inputs]),
            "network": hashlib.sha256(json.dumps(structure).encode()).hexdigest()[:16],
        }

    def _measure(self, narrowest: Widths, few: Widths) -> None:
        table = self._table
        if table.onednn is not None:
            self._timer.onednn = table.onednn
        variants = list(_variants(self._sizes, narrowest))
        if not table.networks:
            self._logger.info("prune: time the unpruned network with Paddle Inference")
        self.before = self.measure(self._sizes)[0]
        bar = tqdm(total=len(self._operations) + len(variants), desc="latency table", unit="step")
        with bar:
            self._times = []
            for operation in self._operations:
                self._times.append(self._interpolated(operation, few))
                bar.update()
            for widths in variants:
                self.measure(widths)
                bar.update()
        self._fit([self._sizes, *variants])

    def _interpolated(self, operation: Operation, few: Widths) -> Interpolated:
        low, high = operation.widths(few), operation.widths(self._sizes)
        multiple = dict(operation.spec).get("groups", 1) if operation.kind == "conv" else 1
        time = self._timed(operation)
        weighty = time(high) > _SMALL * self.before
        return Interpolated(time, low, high, 9 if weighty else 2, multiple)

    def _timed(self, operation: Operation) -> Callable[[tuple[int, ...]], float]:
        known = self._table.layers.setdefault(operation.key, {})

        def time(sizes: tuple[int, ...]) -> float:
            key = ",".join(map(str, sizes))
            if key not in known:
                try:
                    layer, shapes = build(operation.kind, dict(operation.spec), sizes)
                    known[key] = self._timer.layer(layer, shapes)
                except NoAnswer:
                    raise
                except PruneError:
                    # Alone it does not run; inside the network it does. The fit has to do.
                    known[key] = 0.0
                self._table.save()
            return known[key]

        return time

    def _features(self, widths: Widths) -> Any:
        weighted = others = 0.0
        for (operation, count), times in zip(self._operations.items(), self._times, strict=True):
            time = count * times(operation.widths(widths))
            if _is_weighted(operation):
                weighted += time
            else:
                others += time
        return np.array([weighted, others, 1.0])

    def _fit(self, variants: Sequence[Widths]) -> None:
        rows = np.stack([self._features(widths) for widths in variants])
        times = np.array([self.achieved(widths) for widths in variants])
        # Relative errors count, and the unpruned network most: all is measured from there.
        scale = 1 / times
        scale[0] *= 3
        self._weights = _not_negative(rows * scale[:, None], times * scale)
        self._raw_before = float(self._weights @ rows[0])

    def _exported(self, widths: Widths) -> Path:
        network = self._network
        plans = [
            GroupPlan(name, self._sizes[name], tuple(range(width)), width)
            for name, width in widths.items()
            if width < self._sizes[name]
        ]
        undo = surgery.prune(network.model, network.graph, plans)
        try:
            twin = in_inference_mode(network.model)
        finally:
            surgery.restore(network.model, undo)
        return self._timer.exported(twin, self._inputs)

    def _key(self, widths: Widths) -> str:
        return ",".join(str(widths[name]) for name in self._sizes)


def measured_inputs(inputs: Sequence[Any], options: LatencyOptions) -> list[Any]:
    """The network's inputs with the batch and the image size of the options.

    Raises:
        PruneError: it takes more than plain arrays of any content.
    """
    found = []
    for item in inputs:
        if not is_spec(item):
            raise PruneError(
                "Prune.pruned_latency measures networks that take images alone in "
                "inference mode; this one takes labels or masks as well. Use Prune.pruned_flops."
            )
        shape, dtype = item
        own = list(options.shape) if options.shape is not None and len(shape) == 4 else shape[1:]
        found.append(([options.batch, *own], dtype))
    return found


def _variants(sizes: Widths, narrowest: Widths) -> Iterator[dict[str, int]]:
    """Networks to fit to: all layers cut, more and more; then half of them, the other half."""

    def cut(depth: float, names: Sequence[str]) -> dict[str, int]:
        widths = dict(sizes)
        for name in names:
            wanted = sizes[name] - depth * (sizes[name] - narrowest[name])
            step = 8 if narrowest[name] % 8 == 0 else 1
            widths[name] = max(round(wanted / step) * step, narrowest[name])
            widths[name] = min(widths[name], sizes[name])
        return widths

    names = list(narrowest)
    seen = [dict(sizes)]
    half = len(names) // 2
    for depth, chosen in itertools.chain(
        ((depth, names) for depth in _DEPTHS), ((0.8, names[:half]), (0.8, names[half:]))
    ):
        widths = cut(depth, chosen)
        if widths not in seen:
            seen.append(widths)
            yield widths


def _not_negative(rows: Any, targets: Any) -> Any:
    """Least squares with coefficients >= 0: the best of all choices of those that are not 0."""
    best, weights = np.inf, np.zeros(rows.shape[1])
    for count in range(1, rows.shape[1] + 1):
        for chosen in itertools.combinations(range(rows.shape[1]), count):
            found = np.linalg.lstsq(rows[:, chosen], targets, rcond=None)[0]
            if (found < 0).any():
                continue
            error = float(np.square(rows[:, chosen] @ found - targets).sum())
            if error < best:
                best, weights = error, np.zeros(rows.shape[1])
                weights[list(chosen)] = found
    return weights


def _cpu() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
