"""From trained weights to a pruned model: decide, apply, report.

Knows nothing of PaddleOCR: a network, an evaluation and a section go in.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

from .alphabet import Alphabet
from .criteria import Arrays, Context, Ranker
from .decision import Decision, decide, decide_by_ratio
from .errors import PruneError
from .further import together
from .graph.groups import ChannelGroup
from .measuring import Measuring
from .moments import ReadMoments, collect
from .network import Network, apply_checked, make_plan, plan_of
from .plan import PruningPlan, WeightsFile, load_plan
from .ratios.targets import FLOPS, MeasuredTarget, Ratio, target_of
from .recovery.recovery import Recovery
from .recovery.sharing import load_state, save_state
from .report.build import build_report
from .report.html import write_report
from .report.lines import frozen_lines, known, latency_line, plan_table, summary
from .section import PruneSection
from .sensitivity.outputs import FEW, OutputEvaluation
from .sensitivity.ranks import ENDINGS, FAILED, FINISHED, Ranks
from .sensitivity.sequential import Evaluation, Figures, spread


@dataclass(frozen=True)
class Choice:
    """A plan, why it is this one, the groups that could be pruned, and what cures its cut."""

    plan: PruningPlan
    decision: Decision
    groups: Sequence[ChannelGroup]
    recovery: Recovery


@dataclass(frozen=True)
class PruningRun:
    """One pruning of one live model.

    ``evaluation`` is None where there is no evaluation set; every item of ``calibration`` runs one
    training batch through the model, to re-estimate batch norms; every item of ``shown`` runs a
    batch of images, to see what its layers read; ``gradients`` gives, for each of
    some training batches, parameter name → gradient, for criteria that ask for them; ``folder``
    takes the sensitivity file, the plan and the report; ``source`` names where the section is
    written, for messages; ``versions`` are those of the caller's software, for the report;
    ``settings`` are what else losses depend on, by name, where the criterion looks at the network
    (True) or at weights alone; ``ranks``: who else works on it; ``widths`` are the channels that
    groups keep where that was decided before, on a network of the same structure: nothing is
    analysed then; ``unpruned`` is the file of the network's weights, for the plan; ``alphabet``
    are the characters that a recogniser was left with before, ``lost`` what went with them, which
    the report counts as well, and ``whole_metric`` the metric with the whole dictionary (None: not
    known). A section without a target cuts nothing more.
    """

    network: Network
    section: PruneSection
    source: str
    evaluation: Evaluation | None
    calibration: Sequence[Callable[[], object]]
    shown: Sequence[Callable[[], object]]
    gradients: Callable[[], Sequence[Arrays]]
    folder: Path
    logger: logging.Logger
    versions: Mapping[str, str] = field(default_factory=dict)
    settings: Callable[[bool], Mapping[str, str]] = lambda looks: {}
    ranks: Ranks = field(default_factory=Ranks)
    widths: Mapping[str, int] | None = None
    unpruned: WeightsFile | None = None
    alphabet: Alphabet | None = None
    lost: PruningPlan | None = None
    whole_metric: float | None = None

    def run(self) -> PruningPlan:
        """Do what the section asks for; with ``dry_run`` a target that is missed is only warned of.

        Raises:
            PruneError: the target cannot be reached, files do not fit, or the pruned model fails.
        """
        if not self.section.has_target:
            return self._without_target()
        target = target_of(self.section)
        if self.ranks.rank != 0:
            return self._as_worker(target)
        try:
            plan = self._as_rank_0(target)
        except BaseException:
            self.ranks.post_failure()
            raise
        self.ranks.post(FINISHED)
        return plan

    def choose(self) -> Choice:
        """What to do, on the unpruned network, which is left as it was.

        Raises:
            PruneError: the target cannot be reached, or would prune nothing (with ``dry_run`` that
                is only warned of), or files do not fit.
        """
        network, section, target = self.network, self.section, target_of(self.section)
        groups = network.prunable(section, self.source)
        self._log_frozen()
        moments = self._moments()
        ranker = self._ranker(moments)  # what is wrong is said before hours of measuring
        recovery = self._recovery(moments)

        decision = self._decide(target, groups, ranker, recovery)
        if decision.problem is not None and not section.dry_run:
            raise PruneError(f"{self.source}: {decision.problem}")
        if decision.problem is not None:
            self.logger.warning(f"prune: {decision.problem}")
        plan = make_plan(network, decision.widths, ranker)
        if self.unpruned is not None:
            plan = replace(plan, unpruned={"": self.unpruned})
        return Choice(plan, decision, groups, recovery)

    def _as_rank_0(self, target: Ratio | MeasuredTarget) -> PruningPlan:
        network, evaluation = self.network, self.evaluation
        choice = self.choose()
        plan, decision, groups = choice.plan, choice.decision, choice.groups
        plan.save(self._plan_path)
        for line in plan_table(groups, plan, decision.predicted_losses(groups)):
            self.logger.info(line)

        undo = apply_checked(network, plan)
        self.logger.info(f"prune: {choice.recovery.finish(network.graph, plan.groups, undo)}")
        if self.ranks.size > 1:
            save_state(network.model, self._state_path)

        after = evaluation.figures() if evaluation is not None else None
        self._report(target.key, target.value, groups, decision, plan, after, target.counted)
        return plan

    def _without_target(self) -> PruningPlan:
        """Say what the network is as it is; its plan has no groups."""
        plan = plan_of(self.network, "none", [])
        if self.ranks.rank == 0:
            after = self.evaluation.figures() if self.evaluation is not None else None
            share = 0.0
            if self.alphabet is not None:
                share = 1 - len(self.alphabet.lines) / self.alphabet.whole
            groups = self.network.graph.groups
            decision = Decision({}, baseline=self.whole_metric)
            self._report("characters", share, groups, decision, plan, after)
        return plan

    def _as_worker(self, target: Ratio | MeasuredTarget) -> PruningPlan:
        """What the other ranks do: help to measure, then do as rank 0 did."""
        network = self.network
        groups = network.prunable(self.section, self.source)
        if self.widths is None and isinstance(target, MeasuredTarget):
            moments = self._moments()
            ranker, recovery = self._ranker(moments), self._recovery(moments)
            with self._measuring(target, groups, ranker, recovery) as measuring:
                measuring.work()
        if self.ranks.wait(*ENDINGS) == FAILED:
            raise PruneError("rank 0 could not prune the model; its message says why")
        plan = load_plan(self._plan_path)
        apply_checked(network, plan)
        load_state(network.model, self._state_path)
        return plan

    def _decide(
        self,
        target: Ratio | MeasuredTarget,
        groups: Sequence[ChannelGroup],
        ranker: Ranker,
        recovery: Recovery,
    ) -> Decision:
        if self.widths is None and isinstance(target, MeasuredTarget):
            with self._measuring(target, groups, ranker, recovery) as measuring:
                decision = decide(target, measuring, self.folder / "latency.json")
            if not measuring.unit:
                return decision
            decision = replace(decision, unit=measuring.unit, baseline=None, spread=None)
        elif self.widths is not None:
            decision = Decision(self.widths)
        else:
            assert isinstance(target, Ratio)
            decision = decide_by_ratio(target, groups, self.section.round_to)
        if self.evaluation is None:
            return decision
        return replace(
            decision,
            baseline=self.evaluation.baseline(),
            spread=spread(self.evaluation),
            beside=self.evaluation.beside(),
        )

    @contextmanager
    def _measuring(
        self,
        target: MeasuredTarget,
        groups: Sequence[ChannelGroup],
        ranker: Ranker,
        recovery: Recovery,
    ) -> Iterator[Measuring]:
        """What measures the curves; what only that needs is freed at the end of the block."""
        by_output = self.section.sensitivity.by == "output"
        outputs = self._output_evaluation() if by_output else None
        evaluation = self.evaluation if outputs is None else outputs
        if evaluation is None:
            raise PruneError(
                f"{self.source}: Prune.{target.key} needs an evaluation set to measure "
                "sensitivity, and Eval is empty. Fill the Eval section, set "
                "Prune.sensitivity.by: output, or prune by Prune.ratio."
            )
        try:
            yield Measuring(
                self.network, groups, self.section, self.source, evaluation, ranker,
                recovery, len(self.calibration), self.settings, self.folder, self.logger,
                self.ranks, "" if outputs is None else outputs.unit,
            )  # fmt: skip
        finally:
            if outputs is not None:
                outputs.close()

    def _output_evaluation(self) -> OutputEvaluation:
        options, model = self.section.sensitivity, self.network.model
        few = options.samples or FEW
        return OutputEvaluation(model, self.shown, options.cache_mb, self.folder, few)

    def _moments(self) -> Callable[[], ReadMoments]:
        """What the layers of the unpruned network read; looked at once, when it is asked for."""
        network = self.network
        return functools.cache(functools.partial(collect, network.model, network.graph, self.shown))

    def _recovery(self, moments: Callable[[], ReadMoments]) -> Recovery:
        compensate = self.section.recovery.compensate
        read = moments() if compensate else None
        for layer, why in (read.left if read is not None else {}).items():
            self.logger.info(f"prune: {layer} cannot be compensated: {why}")
        if read is not None and read.remark:
            self.logger.info(
                "prune: all positions count alike for compensation, since the outputs have no "
                f"gradient: {read.remark}"
            )
        model, graph = self.network.model, self.network.graph
        return Recovery(model, graph, self.calibration, read, self.shown)

    def _ranker(self, moments: Callable[[], ReadMoments]) -> Ranker:
        """The criterion, shown the unpruned network."""
        network, ranker = self.network, Ranker(self.section.criterion)
        groups = network.graph.groups
        ranker.prepare(Context(network.model, network.inputs, groups, self.gradients, moments))
        return ranker

    def _report(
        self,
        target: str,
        value: float | Mapping[str, float],
        groups: Sequence[ChannelGroup],
        decision: Decision,
        plan: PruningPlan,
        after: Figures | None,
        counted: str = FLOPS,
    ) -> None:
        """Say what was done and write the report; ``after`` is what the pruned model reaches."""
        evaluation, network = self.evaluation, self.network
        metric = evaluation.metric if evaluation is not None else None
        if self.lost is not None:
            plan = together(self.lost, plan)
        found = after.metric if after is not None else None
        beside = {
            name: (decision.beside.get(name), value)
            for name, value in (after.beside if after is not None else {}).items()
        }
        self.logger.info(f"prune: {summary(plan, metric, decision.baseline, found, beside)}")
        read = (self.whole_metric, decision.baseline if self.section.has_target else found)
        if self.whole_metric is not None and self.section.has_target:
            self.logger.info(
                f"prune: with the whole dictionary {metric} is {known(read[0])}, with the "
                f"characters that stay {known(read[1])} before channels go"
            )
        if decision.latency is not None:
            self.logger.info(f"prune: {latency_line(decision.latency)}")
        files = {
            "Plan": self._plan_path if self.section.has_target else None,
            "Sensitivity": decision.file.path if decision.file is not None else None,
            "Latency table": decision.latency_table,
        }
        report = build_report(
            network.graph, groups, network.training_only, self.section, target, value,
            self.source, plan, decision.file,
            feasibility_of=counted,
            alphabet=self.alphabet,
            read=read,
            feasibility=decision.feasibility,
            metric=metric, before=decision.baseline, after=found, beside=beside,
            images=evaluation.images if evaluation is not None else None,
            spread=decision.spread,
            latency=decision.latency,
            loss_of=decision.unit,
            files={name: str(path) for name, path in files.items() if path is not None},
            versions=self.versions,
        )  # fmt: skip
        self.logger.info(f"prune: report in {write_report(report, self.folder)}")

    def _log_frozen(self) -> None:
        if self.network.unseen:
            self.logger.warning(f"prune: {self.network.unseen}")
        for line in frozen_lines(self.network.graph, self.network.training_only):
            self.logger.info(f"prune: frozen: {line}")
        for op, count in self.network.graph.unknown.items():
            self.logger.warning(
                f"prune: operation {op} ({count}x) has no rule; what reaches it is frozen"
            )

    @property
    def _plan_path(self) -> Path:
        return self.folder / "plan.prune.json"

    @property
    def _state_path(self) -> Path:
        assert self.ranks.folder is not None
        return self.ranks.folder / "state.npz"
