"""Latency of a network for any widths, in the engine that it is going to be deployed in.

A few networks, pruned in different ways, are exported as they are deployed and timed as they are;
a sum over the layers is fitted to that (:mod:`.fit`). What is chosen by it is measured, and becomes
one more network to fit to.
"""

from __future__ import annotations

import hashlib
import json
import logging
import platform
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from .. import surgery
from ..engines.turns import BUSY
from ..errors import PruneError
from ..graph.inference_mode import in_inference_mode
from ..graph.trace import is_spec
from ..network import Network
from ..plan import GroupPlan
from ..ratios.costs import Cost, Widths, flops_of
from ..ratios.rounding import widths as possible_widths
from ..section import LatencyOptions
from .fit import fit
from .table import open_table
from .timer import Timer

# Networks that are timed for the table, by the number of groups whose widths may change.
_LEAST, _MOST = 9, 30
# The runs of one network differ by so much on an idle machine; beyond it they are taken again, so
# often, and the quietest ones count.
_QUIET, _AGAIN = 0.12, 3
# So many of the last measured choices decide how much of what is predicted to be saved is, and
# within these bounds: beyond them it is the measurement that is off.
_LAST, _SAVED = 2, (0.5, 2.0)


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
        round_to: int = 8,
    ) -> None:
        """Measure what the table at ``path`` has not yet.

        Args:
            network: the unpruned network.
            options: how to measure.
            narrowest: how few channels a group may keep; groups that stay whole are left out.
            path: of the table.
            logger: told what is done.
            round_to: what widths are multiples of.

        Raises:
            PruneError: the engine is not installed, or the network can be neither exported nor run.
        """
        self._network, self._logger = network, logger
        self._inputs = measured_inputs(network.inputs, options)
        self._sizes = {group.name: group.size for group in network.graph.groups}
        self._flops = flops_of(network.graph, network.costs)
        self._changing = list(narrowest)
        self.path = path
        self._timer = Timer(options)
        try:
            self._table, problem = open_table(path, self._fingerprint(options))
            if problem:
                logger.warning(f"prune: {path} is measured anew: {problem}")
            self._unpruned: Path | None = None
            self._measured: list[dict[str, int]] = []
            count = min(max(len(narrowest), _LEAST), _MOST)
            self._measure(list(_designs(self._sizes, narrowest, round_to, count)))
        except BaseException:
            self.close()
            raise
        shape = "x".join(map(str, self._inputs[0][0]))
        self.how = f"{self._table.how}, {shape}"
        self._saved = 1.0  # of what the fit says that pruning saves
        self._chosen: list[dict[str, int]] = []

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
        """Predicted milliseconds of any widths, by all that was measured so far; those of the
        unpruned network are :attr:`before`."""
        return self._terms.cost(self._times, self.before, self._saved)

    def measure(self, widths: Widths) -> tuple[float, float]:
        """Milliseconds of the unpruned and the pruned network, timed in turns; kept in the table.

        The network is pruned for it and put back.
        """
        key = self._key(widths)
        if key not in self._table.networks:
            self._table.networks[key] = self._timed(widths)
            self._table.how = self._timer.how
            self._table.save()
        return self._table.networks[key]

    def achieved(self, widths: Widths) -> float:
        """Measured milliseconds, as they would be beside :attr:`before`."""
        before, after = self.measure(widths)
        return self.before * after / before

    def correct(self, widths: Widths) -> None:
        """Learn from what was measured for these widths: it is one more network to fit to, and the
        share of what it was predicted to save that it does save is taken to hold for others."""
        self._chosen.append(dict(widths))
        self._measured.append(dict(widths))
        self._fit()
        fitted = self._terms.cost(self._times, self.before)
        last = self._chosen[-_LAST:]
        promised = sum(self.before - fitted(chosen) for chosen in last)
        kept = sum(self.before - self.achieved(chosen) for chosen in last)
        self._saved = float(np.clip(kept / promised, *_SAVED)) if promised > 0 else 1.0

    def _fingerprint(self, options: LatencyOptions) -> dict[str, str]:
        structure = [[name, list(shape)] for name, shape in self._network.graph.shapes.items()]
        engine = self._timer.engine
        return {
            "CPU": _cpu(),
            "engine": f"{engine.title} {engine.version()}",
            "Prune.latency.threads": str(options.threads),
            "Prune.latency.onednn": str(options.onednn).lower(),
            "input": str([list(shape) for shape, _ in self._inputs]),
            "network": hashlib.sha256(json.dumps(structure).encode()).hexdigest()[:16],
        }

    def _measure(self, designs: Sequence[dict[str, int]]) -> None:
        missing = [d for d in designs if self._key(d) not in self._table.networks]
        if missing:
            self._logger.info(
                f"prune: time {len(missing)} networks in {self._timer.how}; every time is kept in "
                f"{self.path}"
            )
        with tqdm(total=len(designs) + 1, desc="latency table", unit="network") as bar:
            self.before = self.measure(self._sizes)[0]
            bar.update()
            for widths in designs:
                self.measure(widths)
                bar.update()
        self._measured = list(designs)
        self._fit()

    def _fit(self) -> None:
        networks = [self._sizes, *self._measured]
        times = np.array([self.achieved(widths) for widths in networks])
        self._terms, self._times = fit(self._flops, self._sizes, self._changing, networks, times)

    def _timed(self, widths: Widths) -> tuple[float, float]:
        """Milliseconds of the unpruned network, and of one of these widths."""
        if self._unpruned is None:
            self._unpruned = self._exported(self._sizes)
        files = [self._unpruned]
        if self._key(widths) != self._key(self._sizes):
            files.append(self._exported(widths))
        best, noise = None, np.inf
        for _ in range(_AGAIN):
            times = self._timer.milliseconds(files, self._inputs)
            if self._timer.disturbance < noise:
                best, noise = (times[0], times[-1]), self._timer.disturbance
            if noise < _QUIET:
                break
        if noise > BUSY:
            self._logger.warning(
                "prune: the machine is busy: half of the runs of a network took over "
                f"{noise:.0%} longer than the fastest. Times measured now are not to be trusted; "
                f"stop other programs, and delete {self._table.path} to measure again"
            )
        assert best is not None
        return best

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


def _designs(
    sizes: Widths, narrowest: Widths, round_to: int, count: int
) -> Iterator[dict[str, int]]:
    """Networks to fit to: every group is cut by a share of its own, any that is allowed, on average
    more deeply in some networks than in others; always the same ones."""
    random = np.random.default_rng(0)
    choices = {
        name: np.array([w for w in possible_widths(sizes[name], round_to) if w >= least])
        for name, least in narrowest.items()
    }
    seen = {tuple(sizes.values())}
    for number in range(4 * count):
        depth = 0.1 + 0.6 * ((number * 0.618034) % 1)  # spread evenly, whatever the count
        widths = dict(sizes)
        for name, allowed in choices.items():
            share = random.random() ** ((1 - depth) / depth)  # 0 to 1, ``depth`` on average
            widths[name] = int(allowed[np.abs(allowed - sizes[name] * (1 - share)).argmin()])
        if tuple(widths.values()) not in seen:
            seen.add(tuple(widths.values()))
            yield widths
        if len(seen) > count:
            return


def _cpu() -> str:
    """Name of the processor."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
