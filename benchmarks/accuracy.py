"""What pruning costs: PP-OCRv4's detector, recogniser and classifier, on any labelled data.

Every combination of a share of the FLOPs, a way to choose the widths (the same ratio everywhere, or
by sensitivity), a cure (batch norms re-estimated, or readers compensated) and a training (none,
plain, distilled from the unpruned network) is a cell, measured on ``val.txt``, which nothing is
chosen on: widths are chosen by the outputs on training images, without labels. The unpruned model,
as it is and fine-tuned equally (by PaddleOCR as it is, and with batch norms that keep their
statistics), is measured beside them. With ``--weights`` and ``--start`` the model begins with other
weights than the released ones, such as those of a control. Cells are kept in ``WORK/results.json``:
whatever is there is not measured again, so that the benchmark can be run in pieces.

    python benchmarks/accuracy.py --data DIR --work WORK --kinds det --shares 0.2 0.4
    python benchmarks/accuracy.py --data DIR --work WORK --kinds det --train frozen plain distill
    python benchmarks/accuracy.py --data DIR --work WORK --only time    # on an idle machine
    python benchmarks/accuracy.py --data DIR --work WORK --only analysis --by output metric
    python benchmarks/accuracy.py --work WORK --only page               # docs/benchmark_accuracy.md

``DIR`` holds ``det/train.txt``, ``det/val.txt``, ``rec/train.txt`` and ``rec/val.txt``, PaddleOCR's
labels, with image names relative to the folder that each is in.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import paddle
from accuracy_models import KINDS, Data, Kind, Model, seeded
from accuracy_page import write_page

from demo.configs import write_config
from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Context, Ranker
from ppocr_prune_plugin.decision import decide
from ppocr_prune_plugin.files import read_file, write_atomically
from ppocr_prune_plugin.gradients import batch_gradients
from ppocr_prune_plugin.graph.inference_mode import in_inference_mode
from ppocr_prune_plugin.hooks.adapters.calibration_batches import (
    calibration_batches,
    few_images,
    first_images,
)
from ppocr_prune_plugin.hooks.adapters.calls import training_forward
from ppocr_prune_plugin.hooks.adapters.settings import calibration_identity
from ppocr_prune_plugin.hooks.adapters.tree import find_tree
from ppocr_prune_plugin.latency.timer import Timer
from ppocr_prune_plugin.measuring import Measuring
from ppocr_prune_plugin.moments import ReadMoments, collect
from ppocr_prune_plugin.network import apply_checked, make_plan
from ppocr_prune_plugin.plan import PruningPlan, load_plan
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.ratios.targets import PrunedFlops
from ppocr_prune_plugin.recovery.recovery import Recovery
from ppocr_prune_plugin.report.lines import text_table
from ppocr_prune_plugin.section import LatencyOptions, PruneSection, SensitivityOptions
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.outputs import OutputEvaluation
from ppocr_prune_plugin.sensitivity.ranks import Ranks

SHARES = (0.2, 0.3, 0.4, 0.5, 0.6)
CHOICES, CURES, TRAININGS = ("uniform", "sensitivity"), ("norms", "compensation"), ("none",)
_RATES = {"det": 3e-4, "rec": 1e-4, "cls": 1e-4}  # of fine-tuning, on a few hundred images
_FROZEN = Path(__file__).resolve().parent / "frozen_train.py"
_CACHE_MB = 1024


@dataclass(frozen=True)
class Cell:
    """One measurement. ``share`` is what of the FLOPs was asked for, 0 for the unpruned model;
    ``by`` what the widths are chosen by, ``draw`` numbers the calibration images; ``epochs`` and
    learning ``rate`` are the training's; ``start`` names the weights of the unpruned model.
    """

    kind: str
    share: float
    choice: str = ""
    cure: str = ""
    train: str = "none"
    criterion: str = "obs"
    by: str = "output"
    draw: int = 0
    epochs: int = 0
    rate: float = 0.0
    start: str = "released"

    @property
    def name(self) -> str:
        """Its key in the file of results."""
        return " ".join(str(value) for value in asdict(self).values())

    @property
    def plan(self) -> str:
        """The name of its widths."""
        parts = (self.choice, self.share, self.criterion, self.by, self.draw)
        return "-".join(str(part) for part in parts)


class Results:
    """Cells that were measured: name → figures, in a file that is whole at any time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.cells: dict[str, dict[str, Any]] = {}
        if path.exists():
            self.cells = json.loads(read_file(path, "the results"))

    def of(self, cell: Cell, measure: Callable[[], Mapping[str, Any]]) -> None:
        """Measure a cell, unless that was done."""
        if cell.name in self.cells:
            return
        begin = time.perf_counter()
        found = dict(measure())
        self.cells[cell.name] = {
            **asdict(cell),
            **found,
            "seconds": round(time.perf_counter() - begin, 1),
        }
        self.save()
        print(f"{cell.name}: {found}", flush=True)

    def save(self) -> None:
        """Write the file."""
        write_atomically(self._path, json.dumps(self.cells, indent=1))


class Bench:
    """Measures cells of one model.

    ``images`` is how many calibration images there are; ``draw`` chooses them. ``same_widths``: all
    draws prune by the widths of the first, and choose filters and weights by their own images.
    ``choosing``: training images that a metric is taken on (None: as many as for calibration);
    ``suffix``: of the name of the folder that files are kept in.
    """

    def __init__(
        self,
        model: Model,
        criterion: str,
        by: str,
        draw: int,
        images: int,
        same_widths: bool = False,
        choosing: int | None = None,
        suffix: str = "",
    ) -> None:
        self._model, self._by, self._draw, self._images = model, by, draw, images
        self._criterion, self._same_widths = criterion, same_widths
        self._choosing = images if choosing is None else choosing
        self._network = model.network
        self._folder = model.folder / f"draw{draw}{suffix}"
        self._groups = self._network.prunable(PruneSection(ratio=0.0), "benchmark")
        self._logger = logging.getLogger("benchmark")
        self._looked = 0.0  # seconds that taking the moments took
        self._chose: dict[str, tuple[float, float]] = {}

    @functools.cached_property
    def _batches(self) -> list[Any]:
        seeded(self._draw)
        arguments = self._model.arguments()
        size = self._model.config["Train"]["loader"]["batch_size_per_card"]
        count = max(2, -(-self._images // size))
        return calibration_batches(arguments, count, self._folder, Ranks())

    @functools.cached_property
    def _shown(self) -> list[Callable[[], object]]:
        return [self._run(batch) for batch in first_images(self._batches, self._images)]

    @functools.cached_property
    def _for_norms(self) -> list[Callable[[], object]]:
        return [self._run(few_images(batch)) for batch in self._batches[:2]]

    def _run(self, batch: Any) -> Callable[[], object]:
        return functools.partial(training_forward, self._model.live, batch, self._model.config)

    @functools.cached_property
    def _moments(self) -> ReadMoments:
        shown, begin = self._shown, time.perf_counter()
        found = collect(self._model.live, self._network.graph, shown)
        self._looked = time.perf_counter() - begin
        return found

    @functools.cached_property
    def _ranker(self) -> Ranker:
        network, ranker = self._network, Ranker(self._criterion)
        ranker.prepare(
            Context(
                network.model, network.inputs, network.graph.groups, self._gradients,
                lambda: self._moments,
            )
        )  # fmt: skip
        return ranker

    def _gradients(self) -> list[Any]:
        loss_class = self._model.arguments()["loss_class"]

        def loss(batch: Any) -> Any:
            return loss_class(self._run(batch)(), batch)["loss"]

        losses = [functools.partial(loss, few_images(batch)) for batch in self._batches[:2]]
        return batch_gradients(self._model.live, losses)

    @functools.cached_property
    def _cures(self) -> dict[str, Recovery]:
        live, graph = self._model.live, self._network.graph
        return {
            "norms": Recovery(live, graph, self._for_norms),
            "compensation": Recovery(live, graph, self._for_norms, self._moments, self._shown),
        }

    @property
    def groups(self) -> list[str]:
        """Names of what may be pruned."""
        return [group.name for group in self._groups]

    def plan(self, cell: Cell) -> PruningPlan:
        """What a cell prunes; chosen once, then read."""
        path = self._folder / f"{cell.plan}.prune.json"
        if not path.exists():
            begin, busy = time.perf_counter(), time.process_time()
            widths = self._uniform if cell.choice == "uniform" else self._by_sensitivity
            make_plan(self._network, widths(cell.share), self._ranker).save(path)
            taken = time.perf_counter() - begin, time.process_time() - busy
            self._chose[cell.plan] = taken
        return load_plan(path)

    def _chosen(self, cell: Cell) -> dict[str, float]:
        """Seconds that choosing the widths took, with what had to be measured for it: on the clock,
        and of all cores together. Nothing where that was done before."""
        taken = self._chose.get(cell.plan, ())
        return dict(zip(("chosen in", "chosen in, of cores"), taken, strict=False))

    def _uniform(self, share: float) -> dict[str, int]:
        """The same ratio for every layer, found by bisection; not rounded, to get near enough."""

        def widths(ratio: float) -> dict[str, int]:
            return {group.name: width_for_ratio(group.size, ratio, 1) for group in self._groups}

        low, high, graph, costs = 0.0, 0.95, self._network.graph, self._network.costs
        whole = costs.flops(graph.shapes)
        for _ in range(20):
            middle = (low + high) / 2
            left = costs.flops(surgery.shapes_after(graph, widths(middle)))
            low, high = (low, middle) if 1 - left / whole > share else (middle, high)
        return widths(high)

    def _by_sensitivity(self, share: float) -> dict[str, int]:
        if self._same_widths and self._draw:
            first = Cell(
                self._model.kind, share, "sensitivity", criterion=self._criterion, by=self._by
            )
            path = self._model.folder / "draw0" / f"{first.plan}.prune.json"
            return load_plan(path).kept_channels()
        decision = decide(PrunedFlops(share), self._measuring, self._folder / "latency.json")
        return dict(decision.widths)

    @functools.cached_property
    def _measuring(self) -> Measuring:
        cure = self._cures["compensation"]
        name = f"{self._criterion}-{self._by}.pickle"
        options = SensitivityOptions(by=self._by, file=str(self._folder / name), cache_mb=_CACHE_MB)
        section = PruneSection(criterion=self._criterion, pruned_flops=0.5, sensitivity=options)
        evaluation: Any
        if self._by == "output":
            evaluation = OutputEvaluation(self._model.live, self._shown, _CACHE_MB, self._folder)
        else:
            evaluation = self._model.choosing(self._choosing)
        identity = calibration_identity(self._batches)
        return Measuring(
            self._network, self._groups, section, "benchmark", evaluation, self._ranker, cure,
            len(self._batches), lambda looks: {"calibration batches": identity}, self._folder,
            self._logger, Ranks(), getattr(evaluation, "unit", ""),
        )  # fmt: skip

    @functools.cached_property
    def _analysis(self) -> Analysis:
        return self._measuring.begin()

    def begin(self) -> None:
        """What comes before the first group: batches, moments, the unpruned network."""
        self._analysis  # noqa: B018 - made when it is asked for

    def analyse(self, group: str) -> int:
        """Measure one group as deep as a share of the FLOPs asks for first; its points."""
        depth, *_ = PrunedFlops(0.5).depths(None, distances=bool(self._measuring.unit))
        self._analysis.rising([self._network.graph[group]], depth.bound, depth.curve)
        return len(self._analysis.file.points[group])

    def untrained(self, cell: Cell, judge: Callable[[], dict[str, float]]) -> dict[str, Any]:
        """Prune the live model, cure it, judge it, put it back."""
        if not cell.share:
            return {"flops": 0.0, **judge()}
        plan, cure = self.plan(cell), self._cures[cell.cure]
        undo = apply_checked(self._network, plan)
        try:
            begin = time.perf_counter()
            recovered = cure.finish(self._network.graph, plan.groups, undo)
            cured = time.perf_counter() - begin
            found = judge()
        finally:
            surgery.restore(self._network.model, undo)
        return {
            "flops": plan.flops.pruned,
            **found,
            "distance": recovered.distance,
            "norms": recovered.norms,
            "cured in": round(cured, 1),
            "looked in": round(self._looked, 1),
            **self._chosen(cell),
        }

    def trained(self, cell: Cell, judge: Callable[[], dict[str, float]]) -> dict[str, Any]:
        """Prune and train with PaddleOCR's own ``tools/train.py``; judge what it saves last."""
        plan = self.plan(cell) if cell.share else None
        work = self._folder / "trained" / cell.name.replace(" ", "-")
        path = write_config(self._training_config(cell, plan, work), work / "config.yml")
        train = str(_FROZEN if cell.train == "frozen" else find_tree() / "tools" / "train.py")
        command = [sys.executable, "-m", "ppocr_prune_plugin.cli", "run", train, "-c", str(path)]
        with open(work / "train.log", "wb") as log:
            subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=True)
        state = paddle.load(str(work / "output" / "latest.pdparams"))
        live, graph = self._model.live, self._network.graph
        undo = surgery.prune(live, graph, plan.groups if plan is not None else [])
        before = {name: tensor.numpy() for name, tensor in live.state_dict().items()}
        try:
            live.set_state_dict(state)
            found = judge()
        finally:
            live.set_state_dict({k: paddle.to_tensor(v) for k, v in before.items()})
            surgery.restore(live, undo)
        return {"flops": plan.flops.pruned if plan is not None else 0.0, **found}

    def _training_config(self, cell: Cell, plan: PruningPlan | None, work: Path) -> dict[str, Any]:
        model = self._model
        steps = max(1, len(model.loader("Train")))
        config = {**model.config, "Global": dict(model.config["Global"])}
        config["Optimizer"] = {**config["Optimizer"], "lr": dict(config["Optimizer"]["lr"])}
        config["Global"] |= {
            "epoch_num": cell.epochs,
            "save_model_dir": str(work / "output"),
            # The last weights are judged: none of them is chosen by a metric.
            "eval_batch_step": [0, 10 * cell.epochs * steps],
        }
        config["Optimizer"]["lr"] |= {"learning_rate": cell.rate, "warmup_epoch": 0}
        if plan is None:
            return config
        recovery: dict[str, Any] = {
            "compensate": cell.cure == "compensation",
            "images": self._images,
            "distill": cell.train == "distill",
        }
        config["Prune"] = {
            "criterion": cell.criterion,
            "ratio": {g.name: 1 - g.kept_channels / g.channels for g in plan.groups},
            "round_to": 1,
            "recovery": recovery,
        }
        return config

    def milliseconds(self, plans: Sequence[PruningPlan]) -> list[float]:
        """One run of the unpruned network and of each plan's in Paddle Inference, in turns."""
        timer = Timer(LatencyOptions())
        network = self._network
        try:
            files = []
            for groups in [[], *(plan.groups for plan in plans)]:
                undo = surgery.prune(network.model, network.graph, groups)
                try:
                    twin = in_inference_mode(network.model)
                finally:
                    surgery.restore(network.model, undo)
                files.append(timer.exported(twin, network.inputs))
            return timer.milliseconds(files, network.inputs)
        finally:
            timer.close()


def main() -> int:
    """Measure what is asked for and is not there yet."""
    args = _arguments()
    results = Results(args.work / "results.json")
    if args.only == "page":
        write_page(results.cells, args.page)
        return 0
    data = Data(args.data, args.work)
    for kind in args.kinds:
        model = Model(kind, data, args.work, args.side, args.weights)
        if args.only == "analysis":
            _analyses(model, args)
            continue
        for criterion, by, draw in itertools.product(args.criteria, args.by, args.draws):
            bench = Bench(model, criterion, by, draw, args.images, args.same_widths, args.choosing)
            cells = list(_cells(args, kind, criterion, by, draw))
            if args.only == "time":
                _time(bench, [cell for cell in cells if cell.share], results)
                continue
            judge = model.judge(args.val_images, args.read)
            for cell in cells:
                measure = (
                    functools.partial(bench.untrained, cell, judge)
                    if cell.train == "none"
                    else functools.partial(bench.trained, cell, judge)
                )
                results.of(cell, measure)
    return 0


def _cells(
    args: argparse.Namespace, kind: Kind, criterion: str, by: str, draw: int
) -> Iterator[Cell]:
    for train in args.train:
        how = {"start": args.start}
        if train != "none":
            how |= {"epochs": args.epochs, "rate": args.rate or _RATES[kind]}
        if train != "distill" and draw == args.draws[0]:
            yield Cell(kind, 0.0, train=train, criterion="", by="", **how)
        if train == "frozen":
            continue
        for share, choice, cure in itertools.product(args.shares, args.choices, args.cures):
            yield Cell(kind, share, choice, cure, train, criterion, by, draw, **how)


def _time(bench: Bench, cells: Sequence[Cell], results: Results) -> None:
    """Add milliseconds to cells; those of one plan have the same."""
    plans = {cell.plan: bench.plan(cell) for cell in cells}
    whole, *pruned = bench.milliseconds(list(plans.values()))
    times = dict(zip(plans, pruned, strict=True))
    for cell in cells:
        if cell.name in results.cells:
            results.cells[cell.name] |= {"ms": times[cell.plan], "ms before": whole}
    results.save()
    print({"unpruned": whole, **times})


def _analyses(model: Model, args: argparse.Namespace) -> None:
    """Time the analysis by each measure, group by group in turns, from nothing."""
    draw, benches = args.draws[0], {}
    for by in args.by:
        suffix = f"-time-{by}"
        shutil.rmtree(model.folder / f"draw{draw}{suffix}", ignore_errors=True)
        benches[by] = Bench(
            model, args.criteria[0], by, draw, args.images, choosing=args.choosing, suffix=suffix
        )
    rows: list[list[str]] = []
    sums = dict.fromkeys(args.by, (0.0, 0.0))

    def timed(name: str, run: Callable[[str], object]) -> None:
        row = [name]
        for by in args.by:
            begin, busy = time.perf_counter(), time.process_time()
            points = run(by)
            taken = time.perf_counter() - begin, time.process_time() - busy
            row += [f"{taken[0]:.1f}", f"{taken[1]:.1f}", "" if points is None else str(points)]
            if points is not None:
                sums[by] = (sums[by][0] + taken[0], sums[by][1] + taken[1])
        rows.append(row)
        print(row, file=sys.stderr, flush=True)

    timed("(before)", lambda by: benches[by].begin())
    for group in benches[args.by[0]].groups[:: args.every]:
        timed(group, lambda by, name=group: benches[by].analyse(name))
    rows.append(["all", *(cell for s in sums.values() for cell in (*(f"{v:.1f}" for v in s), ""))])
    head = [f"{by}: {what}" for by in args.by for what in ("seconds", "of cores", "points")]
    print("\n".join(text_table(["group", *head], rows)))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="see above")
    parser.add_argument("--work", type=Path, required=True, help="for results and caches")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=KINDS)
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES, help="of the FLOPs")
    parser.add_argument("--choices", nargs="+", choices=CHOICES, default=CHOICES)
    parser.add_argument("--cures", nargs="+", choices=CURES, default=CURES)
    parser.add_argument(
        "--train",
        nargs="+",
        choices=("none", "plain", "distill", "frozen"),
        default=TRAININGS,
        help="frozen: the unpruned model alone, with batch norms that keep their statistics",
    )
    parser.add_argument("--weights", type=Path, help="of one kind, for the released ones")
    parser.add_argument("--start", help="what --weights are called in the tables")
    parser.add_argument("--criteria", nargs="+", default=["obs"])
    parser.add_argument("--by", nargs="+", choices=("output", "metric"), default=["output"])
    parser.add_argument("--draws", nargs="+", type=int, default=[0], help="of calibration images")
    parser.add_argument(
        "--same-widths", action="store_true", help="of the first draw; it must be there"
    )
    parser.add_argument("--images", type=int, default=32, help="for calibration")
    parser.add_argument("--val-images", type=int, help="to judge on (default: all)")
    parser.add_argument(
        "--read", type=int, default=0, help="of these: to read in a detector's boxes"
    )
    parser.add_argument("--side", type=int, default=960, help="long side of det images, pixels")
    parser.add_argument("--epochs", type=int, default=5, help="of fine-tuning")
    parser.add_argument("--rate", type=float, help="of fine-tuning (default: by the kind)")
    parser.add_argument("--only", choices=("cells", "time", "analysis", "page"), default="cells")
    parser.add_argument("--every", type=int, default=1, help="analysis: only every so many groups")
    parser.add_argument("--choosing", type=int, help="images for a metric (default: --images)")
    parser.add_argument("--page", type=Path, default=Path("docs/benchmark_accuracy.md"))
    args = parser.parse_args()
    if args.only != "page" and args.data is None:
        parser.error("--data is needed")
    if (args.weights is None) != (args.start is None) or (args.weights and len(args.kinds) > 1):
        parser.error("--weights, of one of the --kinds, and --start belong together")
    args.start = args.start or "released"
    return args


if __name__ == "__main__":
    sys.exit(main())
