"""From trained weights to a pruned model: analysis, widths, plan, surgery, check, report.

Knows nothing of PaddleOCR: a network, an evaluation and a section go in.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import paddle

from . import surgery
from .criteria import Arrays, Context, Ranker
from .errors import PruneError
from .graph.groups import ChannelGroup
from .latency.model import NetworkLatency
from .network import Network, apply_checked, make_plan
from .plan import PruningPlan, load_plan
from .ratios.budget import NEAR, Curve, widths_by_budget, widths_by_max_loss
from .ratios.feasibility import feasibility
from .ratios.rounding import narrowest, width_for_ratio
from .ratios.uniform import ratio_of
from .recovery.batch_norm import BatchNormRecalibration, load_statistics, save_statistics
from .report.build import collect, counted_by
from .report.data import Latency
from .report.html import write_report
from .report.lines import (
    feasibility_table,
    frozen_lines,
    latency_line,
    plan_table,
    summary,
)
from .run_lock import own
from .section import PruneSection
from .sensitivity.analysis import Analysis, check_baseline, check_direction
from .sensitivity.identity import fingerprint
from .sensitivity.sequential import CONFIDENCE, Evaluation, spread
from .sensitivity.store import SensitivityFile, open_sensitivity
from .sensitivity.team import ENDINGS, FAILED, FINISHED, Team

# How much loss a layer may show by itself before a budget stops looking at it; each next one is
# used only where the ones before do not leave enough to prune.
_STOP_LOSSES = (0.3, 0.7, float("inf"))

# A latency is predicted, then measured; the search is repeated with what that taught.
_LATENCY_ROUNDS = 4


@dataclass
class PruningRun:
    """One pruning of one live model.

    ``evaluation`` is None where there is no evaluation set; every item of ``calibration`` runs one
    training batch through the model, to re-estimate batch norms; ``gradients`` gives, for each of
    some training batches, parameter name → gradient, for criteria that ask for them; ``folder``
    takes the sensitivity file, the plan and the report; ``source`` names where the section is
    written, for messages; ``versions`` are those of the caller's software, for the report;
    ``settings`` are what else losses depend on, by name, where the criterion looks at the network
    (True) or at weights alone; ``team``: who else works on it; ``widths`` are the channels that
    groups keep where that was decided before, on a network of the same structure: nothing is
    analysed then.
    """

    network: Network
    section: PruneSection
    source: str
    evaluation: Evaluation | None
    calibration: Sequence[Callable[[], object]]
    gradients: Callable[[], Sequence[Arrays]]
    folder: Path
    logger: logging.Logger
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Callable[[bool], Mapping[str, str]] = lambda looks: {}
    team: Team = field(default_factory=Team)
    widths: Mapping[str, int] | None = None
    _latency: NetworkLatency | None = field(init=False, default=None)
    _timed: Latency | None = field(init=False, default=None)
    _targets: Sequence[tuple[float, float | None]] = field(init=False, default=())

    @property
    def _analyses(self) -> bool:
        return self.widths is None and self.section.target[0] != "ratio"

    def run(self, optimizer: paddle.optimizer.Optimizer | None = None) -> PruningPlan:
        """Do what the section asks for; with ``dry_run`` the model is left as it is.

        Args:
            optimizer: its accumulators are cut along.

        Raises:
            PruneError: the target cannot be reached, files do not fit, or the pruned model fails.
        """
        if self.team.rank != 0:
            return self._follow(optimizer)
        try:
            plan = self._lead(optimizer)
        except BaseException:
            self.team.post_failure()
            raise
        finally:
            if self._latency is not None:
                self._latency.close()
        self.team.post(FINISHED)
        return plan

    @functools.cached_property
    def _ranker(self) -> Ranker:
        """The criterion; it has seen the unpruned network."""
        network, ranker = self.network, Ranker(self.section.criterion)
        groups = network.graph.groups
        ranker.prepare(Context(network.model, network.inputs, groups, self.gradients))
        return ranker

    def _follow(self, optimizer: paddle.optimizer.Optimizer | None) -> PruningPlan:
        """What the other ranks do: help to measure, then do as rank 0 did."""
        network, section = self.network, self.section
        recalibration = BatchNormRecalibration(network.model, self.calibration)
        if self._analyses:
            self._analysis(self._sensitivity_file(), recalibration).follow()
        if self.team.wait(*ENDINGS) == FAILED:
            raise PruneError("rank 0 could not prune the model; its message says why")
        plan = load_plan(self.folder / "plan.prune.json")
        if not section.dry_run:
            apply_checked(network, plan, optimizer)
            load_statistics(network.model, self._statistics_path())
        return plan

    def _statistics_path(self) -> Path:
        assert self.team.folder is not None
        return self.team.folder / "statistics.npz"

    def _lead(self, optimizer: paddle.optimizer.Optimizer | None) -> PruningPlan:
        network, section, evaluation = self.network, self.section, self.evaluation
        groups = network.prunable(section, self.source)
        self._log_kept_whole()
        _ = self._ranker  # what is wrong with it is said before hours of measuring
        recalibration = BatchNormRecalibration(network.model, self.calibration)
        baseline, noise, file = None, None, None
        widths: Mapping[str, int]
        if not self._analyses:
            decided = self.widths
            widths = _widths_by_ratio(groups, section) if decided is None else decided
            if evaluation is not None:
                baseline, noise = evaluation.baseline(), spread(evaluation)
        else:
            file = self._measured_baseline()
            baseline, noise = file.baseline, file.spread
            widths = self._widths_by_curves(groups, file, recalibration)
        plan = make_plan(network, widths, self._ranker)
        plan.save(self.folder / "plan.prune.json")
        for line in plan_table(groups, plan, _predicted_losses(groups, widths, file)):
            self.logger.info(line)
        undo = apply_checked(network, plan, None if section.dry_run else optimizer)
        recalibration.apply(network.graph, plan.groups, undo)
        if self.team.size > 1:
            save_statistics(network.model, self._statistics_path())
        after = evaluation() if evaluation is not None else None
        metric = evaluation.metric if evaluation is not None else None
        self.logger.info(f"prune: {summary(plan, metric, baseline, after)}")
        if self._timed is not None:
            self.logger.info(f"prune: {latency_line(self._timed)}")
        report = collect(
            network.graph, groups, network.training_only, section, self.source, plan, file,
            feasibility=self._targets,
            metric=metric, before=baseline, after=after,
            images=evaluation.images if evaluation is not None else None,
            spread=noise,
            latency=self._timed,
            files={
                "Plan": str(self.folder / "plan.prune.json"),
                "Sensitivity": str(file.path) if file is not None else "",
                **({"Latency table": str(self._table_path)} if self._timed is not None else {}),
            },
            versions=self.versions,
        )  # fmt: skip
        self.logger.info(f"prune: report in {write_report(report, self.folder)}")
        if section.dry_run:
            surgery.restore(network.model, undo)
        return plan

    def _log_kept_whole(self) -> None:
        if self.network.unseen:
            self.logger.warning(f"prune: {self.network.unseen}")
        for line in frozen_lines(self.network.graph, self.network.training_only):
            self.logger.info(f"prune: kept whole: {line}")
        for op, count in self.network.graph.unknown.items():
            self.logger.warning(
                f"prune: operation {op} ({count}x) has no rule; what reaches it is kept"
            )

    def _sensitivity_file(self) -> SensitivityFile:
        """The sensitivity file that belongs to this run, with what ranks of earlier runs added."""
        section, evaluation = self.section, self.evaluation
        if evaluation is None:
            raise PruneError(
                f"{self.source}: Prune.{section.target[0]} needs an evaluation set to measure "
                "sensitivity, and Eval is empty. Fill the Eval section, or prune by Prune.ratio."
            )
        check_direction(evaluation.metric)
        stated = section.sensitivity.file
        path = Path(stated) if stated else self.folder / "sen.pickle"
        if stated and self.team.rank == 0:
            own(
                path.with_name(path.name + ".lock"),
                f"{self.source}: Prune.sensitivity.file: {path}",
                "Wait for its end, or name another file.",
            )
        model = self.network.model
        names = {structured: tensor.name for structured, tensor in model.named_parameters()}
        belongs = fingerprint(
            model,
            self._ranker.identity,
            evaluation.metric,
            evaluation.data,
            len(self.calibration),
            self.settings(self._ranker.looks),
        )
        file, remark = open_sensitivity(path, belongs, self.network.graph.groups, names)
        if remark and self.team.rank == 0:
            self.logger.warning(f"prune: {remark}")
        file.merge_ranks(self.folder / "ranks")
        return file

    def _measured_baseline(self) -> SensitivityFile:
        """The sensitivity file, with the metric of the unpruned model in it."""
        file, evaluation = self._sensitivity_file(), self.evaluation
        assert evaluation is not None
        if file.baseline is None:
            self.logger.info(f"prune: evaluate the unpruned model on {evaluation.images} images")
            file.baseline, file.spread = evaluation.baseline(), spread(evaluation)
        check_baseline(file.baseline, evaluation.metric)
        said = f"{file.baseline:.4f}"
        if file.spread is not None:
            low, high = file.spread
            said += (
                f" ({low:.4f} to {high:.4f} on 95 of 100 other sets of {evaluation.images} images)"
            )
        self.logger.info(f"prune: {evaluation.metric} of the unpruned model: {said}")
        return file

    def _analysis(self, file: SensitivityFile, recalibration: BatchNormRecalibration) -> Analysis:
        assert self.evaluation is not None
        section, network = self.section, self.network
        return Analysis(
            network.model, network.graph, file, self.evaluation, self._ranker,
            section.sensitivity.ratios, section.round_to, recalibration, self.team,
            section.sensitivity.exact,
        )  # fmt: skip

    def _widths_by_curves(
        self,
        groups: Sequence[ChannelGroup],
        file: SensitivityFile,
        recalibration: BatchNormRecalibration,
    ) -> dict[str, int]:
        section, network = self.section, self.network
        key, value = section.target
        assert isinstance(value, float)

        analysis = self._analysis(file, recalibration)

        sizes = {group.name: group.size for group in network.graph.groups}

        def measured(bound: float, curve: bool) -> dict[str, Curve]:
            self._announce(groups, file, f"each layer until its loss exceeds {bound:g}")
            analysis.rising(groups, bound, curve)
            curves = {group.name: file.curve(group.name) for group in groups}
            self._show_targets(curves, sizes)
            return curves

        if key == "max_loss":
            curves = measured(value, curve=False)
            return widths_by_max_loss(curves, sizes, value, section.round_to)
        if key == "pruned_latency":
            self._measure_latency(groups)
        # Before hours of measuring: could the target be reached if nothing hurt?
        deepest = {g.name: Curve((section.sensitivity.ratios[-1],), (0.0,)) for g in groups}
        widths_by_budget(deepest, sizes, self._cost, value, section.round_to, key)
        stated = section.sensitivity.stop_loss
        for stop_loss in _STOP_LOSSES if stated is None else (stated,):
            curves = measured(stop_loss, curve=True)
            try:
                return self._spend(curves, sizes, key, value)
            except PruneError as error:
                if stop_loss in (stated, _STOP_LOSSES[-1]):
                    raise
                self.logger.info(f"prune: {key} {value:g} is out of reach so far: {error}")
        raise AssertionError("the last stop loss either returns or raises")

    def _announce(self, groups: Sequence[ChannelGroup], file: SensitivityFile, extent: str) -> None:
        assert self.evaluation is not None
        number = f"all {self.evaluation.images} images"
        if not self.section.sensitivity.exact:
            number = f"at most {number}, as many as it takes to be {CONFIDENCE:.0%} sure of a point"
        self.logger.info(
            f"prune: sensitivity of {len(groups)} layers on {number}, {extent}; every point is "
            f"kept in {file.json_path}"
        )

    def _spend(
        self, curves: Mapping[str, Curve], sizes: Mapping[str, int], key: str, share: float
    ) -> dict[str, int]:
        """Widths for a budget; for one of latency, such that are measured to keep it."""
        if self._latency is None:
            widths = widths_by_budget(curves, sizes, self._cost, share, self.section.round_to, key)
            removed = 1 - self._cost({**sizes, **widths}) / self._cost(sizes)
        else:
            widths, self._timed = self._spend_latency(self._latency, curves, sizes, share)
            removed = self._timed.pruned
        if abs(removed - share) > NEAR:
            self.logger.warning(
                f"prune: {key} is {share:g}; the nearest that these layers allow is {removed:.3f}"
            )
        return widths

    def _spend_latency(
        self,
        latency: NetworkLatency,
        curves: Mapping[str, Curve],
        sizes: Mapping[str, int],
        share: float,
    ) -> tuple[dict[str, int], Latency]:
        tried: list[tuple[dict[str, int], Latency]] = []

        def distance(attempt: tuple[dict[str, int], Latency]) -> float:
            return abs(attempt[1].pruned - share)

        for _ in range(_LATENCY_ROUNDS):
            try:
                widths = widths_by_budget(
                    curves, sizes, latency, share, self.section.round_to, "pruned_latency"
                )
            except PruneError:
                # What was measured says that the prediction had promised too much.
                if not tried or distance(min(tried, key=distance)) > NEAR:
                    raise
                break
            whole = {**sizes, **widths}
            timed = Latency(latency.before, latency(whole), latency.achieved(whole), latency.how)
            self.logger.info(f"prune: {latency_line(timed)}")
            if any(widths == known for known, _ in tried):
                break
            tried.append((widths, timed))
            if distance(tried[-1]) <= NEAR:
                break
            latency.correct(whole)
        return min(tried, key=distance)

    def _measure_latency(self, groups: Sequence[ChannelGroup]) -> None:
        """Open the latency table and measure what it has not."""
        section = self.section
        deepest = section.sensitivity.ratios[-1]
        few = {g.name: narrowest(g.size, deepest, section.round_to) for g in groups}
        self._latency = NetworkLatency(
            self.network, section.latency, few, self._table_path, self.logger
        )
        self.logger.info(
            f"prune: the unpruned network takes {self._latency.before:.4g} ms: {self._latency.how}"
        )

    @property
    def _table_path(self) -> Path:
        return self.folder / "latency.json"

    def _cost(self, widths: Mapping[str, int]) -> float:
        """What the target counts, for any widths: exact, or predicted milliseconds."""
        if self._latency is not None:
            return self._latency(widths)
        costs = self.network.costs
        count = costs.params if self.section.target[0] == "pruned_params" else costs.flops
        return count(surgery.shapes_after(self.network.graph, widths))

    def _show_targets(self, curves: Mapping[str, Curve], sizes: Mapping[str, int]) -> None:
        """Before one target is gone for: what each would cost."""
        self._targets = feasibility(curves, sizes, self._cost, self.section.round_to)
        for line in feasibility_table(self._targets, counted_by(self.section.target[0])):
            self.logger.info(line)


def _widths_by_ratio(groups: Sequence[ChannelGroup], section: PruneSection) -> dict[str, int]:
    assert section.ratio is not None
    return {
        group.name: width_for_ratio(group.size, ratio_of(group, section.ratio), section.round_to)
        for group in groups
    }


def _predicted_losses(
    groups: Sequence[ChannelGroup], widths: Mapping[str, int], file: SensitivityFile | None
) -> dict[str, float]:
    """What each group's curve says of its new width; nothing where nothing was measured."""
    if file is None:
        return {}
    ratios = {group.name: 1 - widths.get(group.name, group.size) / group.size for group in groups}
    return {name: float(file.curve(name).loss(ratio)) for name, ratio in ratios.items()}
