"""The sensitivity of one network in one run: the metric of the unpruned model, and the curves."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .criteria import Ranker
from .graph.groups import ChannelGroup
from .network import Network
from .ratios.budget import Curve
from .ratios.targets import Depth
from .recovery.recovery import Recovery
from .run_lock import own
from .section import PruneSection
from .sensitivity.analysis import Analysis, check_baseline, check_direction
from .sensitivity.identity import fingerprint
from .sensitivity.ranks import Ranks
from .sensitivity.sequential import CONFIDENCE, Evaluation, spread
from .sensitivity.store import SensitivityFile, open_sensitivity


@dataclass(frozen=True)
class Measuring:
    """Measures the curves of the groups that may be pruned, with all ranks.

    ``source`` names where the section is written, for messages; ``ranker`` has seen the unpruned
    network; ``unit`` is what losses are where they are not shares of the metric ("" where they
    are); ``batches`` counts those that ``recovery`` runs; ``settings`` are what else losses
    depend on, by name, where the criterion looks at the network (True) or at weights alone;
    ``folder`` takes the sensitivity file where the section names none.
    """

    network: Network
    groups: Sequence[ChannelGroup]
    section: PruneSection
    source: str
    evaluation: Evaluation
    ranker: Ranker
    recovery: Recovery
    batches: int
    settings: Callable[[bool], Mapping[str, str]]
    folder: Path
    logger: logging.Logger
    ranks: Ranks
    unit: str = ""

    def begin(self) -> Analysis:
        """Evaluate the unpruned model, unless the sensitivity file has it; ``file`` of what comes
        back is that file.

        Raises:
            PruneError: the metric falls as models get better, there is nothing to lose, or the
                file does not fit.
        """
        analysis, evaluation = self._analysis(), self.evaluation
        file = analysis.file
        if self.unit:
            file.baseline = evaluation.baseline()
            self.logger.info(
                "prune: a loss is how far the outputs move from the unpruned network's on "
                f"{evaluation.images} training images, without their labels: {self.unit}, from 0 "
                "(the same) to 1"
            )
            return analysis
        if file.baseline is None:
            self.logger.info(f"prune: evaluate the unpruned model on {evaluation.images} images")
            file.baseline, file.spread = evaluation.baseline(), spread(evaluation)
            file.beside = evaluation.beside()
        check_baseline(file.baseline, evaluation.metric)
        said = f"{file.baseline:.4f}"
        if file.spread is not None:
            low, high = file.spread
            said += (
                f" ({low:.4f} to {high:.4f} on 95 of 100 other sets of {evaluation.images} images)"
            )
        self.logger.info(f"prune: {evaluation.metric} of the unpruned model: {said}")
        return analysis

    def curves(self, analysis: Analysis, depth: Depth) -> dict[str, Curve]:
        """Measure what the file lacks; the curve of each group."""
        number = f"all {self.evaluation.images} images"
        if not self.section.sensitivity.exact and not self.unit:
            number = f"at most {number}, as many as it takes to be {CONFIDENCE:.0%} sure of a point"
        self.logger.info(
            f"prune: sensitivity of {len(self.groups)} layers on {number}, each layer until its "
            f"loss exceeds {depth.bound:g}; every point is kept in {analysis.file.json_path}"
        )
        if reused := analysis.reused(self.groups, depth.bound, depth.curve):
            self.logger.info(f"prune: {reused}")
        analysis.rising(self.groups, depth.bound, depth.curve)
        return {group.name: analysis.file.curve(group.name) for group in self.groups}

    def work(self) -> None:
        """What the other ranks do: measure what rank 0 asks for, until it has decided."""
        self._analysis().work()

    def _analysis(self) -> Analysis:
        options, network = self.section.sensitivity, self.network
        return Analysis(
            network.model, network.graph, self._file(), self.evaluation, self.ranker,
            options.ratios, self.section.round_to, self.recovery, self.ranks, options.exact,
        )  # fmt: skip

    def _file(self) -> SensitivityFile:
        """The sensitivity file that belongs to this run, with what ranks of earlier runs added."""
        evaluation, model = self.evaluation, self.network.model
        check_direction(evaluation.metric)
        stated = self.section.sensitivity.file
        path = Path(stated) if stated else self.folder / "sen.pickle"
        if stated and self.ranks.rank == 0:
            own(
                path.with_name(path.name + ".lock"),
                f"{self.source}: Prune.sensitivity.file: {path}",
                "Wait for its end, or name another file.",
            )
        names = {structured: tensor.name for structured, tensor in model.named_parameters()}
        belongs = fingerprint(
            model,
            self.ranker.identity,
            evaluation.metric,
            evaluation.data,
            self.batches,
            self.settings(self.ranker.looks),
            self.section.sensitivity.by,
        )
        file, remark = open_sensitivity(path, belongs, self.network.graph.groups, names)
        if remark and self.ranks.rank == 0:
            self.logger.warning(f"prune: {remark}")
        file.merge_ranks(self.folder / "ranks")
        return file
