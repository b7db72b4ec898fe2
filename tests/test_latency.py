"""Latency: operations follow the widths, the table is kept, and what is chosen is measured."""

from __future__ import annotations

import json
import logging
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import paddle
import pytest
from architectures import DETECTORS
from fixtures_networks import INPUTS, Detector, build
from paddle import nn
from plain_search import PlainSearch

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.documents import signed
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import ChannelGraph, find_groups
from ppocr_prune_plugin.graph.inference_mode import (
    in_inference_mode,
    parameter_axes,
    reparameterises,
)
from ppocr_prune_plugin.graph.rep_sizes import follow_rep
from ppocr_prune_plugin.graph.trace import trace
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.latency.grid import Interpolated, points
from ppocr_prune_plugin.latency.layers import build as build_layer
from ppocr_prune_plugin.latency.model import NetworkLatency
from ppocr_prune_plugin.latency.operations import Operation, operations_of
from ppocr_prune_plugin.latency.table import LatencyTable, open_table
from ppocr_prune_plugin.latency.timer import NoAnswer, Timer
from ppocr_prune_plugin.network import inspect
from ppocr_prune_plugin.plan import GroupPlan, load_plan
from ppocr_prune_plugin.ratios.budget import OutOfReach, widths_by_budget
from ppocr_prune_plugin.ratios.curves import Curve
from ppocr_prune_plugin.ratios.rounding import narrowest
from ppocr_prune_plugin.ratios.search import Search
from ppocr_prune_plugin.report.data import load_report
from ppocr_prune_plugin.section import LatencyOptions

LOGGER = logging.getLogger("test")


class Small(nn.Layer):
    """Convolutions of all kinds, a residual sum, a concatenation and a gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2D(3, 32, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2D(32)
        self.wide = nn.Conv2D(32, 64, 1)
        self.depth = nn.Conv2D(64, 64, 3, padding=1, groups=64)
        self.gate = nn.Conv2D(64, 64, 1)
        self.narrow = nn.Conv2D(64, 32, 1, bias_attr=False)
        self.up = nn.Conv2DTranspose(64, 24, 2, stride=2)
        self.last = nn.Conv2D(24, 1, 3, padding=1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = nn.functional.relu(self.norm(self.stem(x)))
        y = nn.functional.hardswish(self.depth(self.wide(x)))
        y = y * nn.functional.hardsigmoid(self.gate(nn.functional.adaptive_avg_pool2d(y, 1)))
        y = self.narrow(y) + x
        y = self.up(paddle.concat([x, y], axis=1))
        return self.last(nn.functional.interpolate(y, scale_factor=2))


SMALL_INPUTS = [([1, 3, 64, 64], "float32")]


def measured(path: Path, options: LatencyOptions | None = None) -> NetworkLatency:
    """The latency of :class:`Small`, with its table at ``path``."""
    network = inspect(Small(), SMALL_INPUTS)
    few = {group.name: narrowest(group.size, 0.8, 8) for group in network.graph.groups}
    return NetworkLatency(network, options or LatencyOptions(), few, path, LOGGER)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NetworkLatency]:
    latency = measured(tmp_path_factory.mktemp("latency") / "latency.json")
    yield latency
    latency.close()


def _operations(model: paddle.nn.Layer, graph: ChannelGraph) -> list[Operation]:
    program = trace(in_inference_mode(model), INPUTS, training=False)
    return operations_of(program, graph, parameter_axes(model, graph))


@pytest.mark.parametrize("name", ["lcnetv3_4_branches_rsefpn", "mv3_se_dbfpn"])
def test_operations_of_a_pruned_network_are_those_foretold(
    detector: Callable[[str], Detector], name: str
) -> None:
    """Every width in turn is another number, so that none can stand for a second one."""
    assert name in DETECTORS
    graph = detector(name).graph
    model = build(name)
    whole = _operations(model, graph)
    random = np.random.default_rng(0)
    widths = {g.name: int(random.integers(max(1, g.size // 3), g.size)) for g in graph.groups}
    plans = [GroupPlan(g.name, g.size, tuple(range(widths[g.name])), 0) for g in graph.groups]
    plans = [GroupPlan(p.name, p.channels, p.kept, len(p.kept or ())) for p in plans]
    surgery.prune(model, graph, plans)
    cut_graph = follow_rep(model, find_groups(trace(model, INPUTS, training=True)))
    cut = _operations(model, cut_graph)
    sizes = {group.name: group.size for group in cut_graph.groups}
    assert [(op.key, op.widths(widths)) for op in whole] == [
        (op.key, op.widths(sizes)) for op in cut
    ]
    changing = [op for op in whole if any(size.parts for size in op.sizes)]
    kinds = {op.kind for op in changing}
    assert {"conv", "depthwise", "conv_transpose", "add", "nearest_interp"} <= kinds
    # Every group is a size of some operation: none is forgotten.
    assert {name for op in changing for size in op.sizes for name, _ in size.parts} >= {
        group.name for group in graph.groups if not group.name.startswith("head.thresh")
    }


def test_the_model_is_not_touched_by_an_export(tree: Path) -> None:
    use_tree(tree)
    model = build("lcnetv3_4_branches_rsefpn")
    before = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    twin = in_inference_mode(model)
    assert reparameterises(model) and not reparameterises(twin)
    assert model.training and not twin.training
    after = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    assert before.keys() == after.keys()
    assert all(np.array_equal(before[name], after[name]) for name in before)


def test_grid_points() -> None:
    assert points(8, 96, 99) == [8, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96]
    assert points(4, 30, 99) == [4, 8, 16, 24, 30]
    assert points(7, 7, 9) == [7] and points(8, 512, 2) == [8, 512]
    few = points(8, 2048, 9)
    assert len(few) == 9 and few[0] == 8 and few[-1] == 2048
    assert all(width % 8 == 0 for width in few)
    assert all(width % 16 == 0 for width in points(16, 96, 99, multiple=16))


def test_interpolation_knows_stairs_and_products() -> None:
    def stairs(sizes: tuple[int, ...]) -> float:
        inputs, outputs = sizes
        blocks = -(-outputs // 16)
        return 0.5 + 0.02 * inputs + 0.3 * blocks + 0.01 * inputs * blocks

    exact = Interpolated(stairs, (8, 16), (96, 96), 99)
    for inputs in (8, 24, 40, 96):
        for outputs in (16, 48, 64, 96):
            assert exact((inputs, outputs)) == pytest.approx(stairs((inputs, outputs)), rel=0.02)
    # A step up, not a slope: as slow as the next block.
    assert exact((96, 72)) == pytest.approx(exact((96, 80)))
    ends = Interpolated(lambda sizes: 2.0 * sizes[0], (8,), (64,), 2)
    assert ends((32,)) == pytest.approx(64)


def test_every_kind_of_layer_runs_alone(small: NetworkLatency) -> None:
    kinds = {operation.kind for operation in small._operations}
    assert {"conv", "depthwise", "conv_transpose", "add", "multiply", "concat"} <= kinds
    assert {"nearest_interp", "global_pool"} <= kinds
    times = [time for known in small._table.layers.values() for time in known.values()]
    assert times and all(time > 0 for time in times), "an operation could not be measured"


@pytest.mark.parametrize("kind", ["relu", "sigmoid", "hardswish", "scale", "softmax"])
def test_functions_run_alone(kind: str) -> None:
    layer, shapes = build_layer(kind, {"batch": 2, "pixels": (5,)}, (8,))
    out = layer(paddle.ones(shapes[0]))[0]
    assert list(out.shape) == [2, 5, 8]


# What a made-up machine takes: milliseconds of an operation alone, and what it counts inside a
# network. Straight along every size, so that nothing is lost between the measured widths.
_ALONE = {"conv": 0.002, "depthwise": 0.05, "conv_transpose": 0.003}
_INSIDE = {True: 0.8, False: 0.3}
_REST = 2.0


def made_up(kind: str, sizes: tuple[int, ...]) -> float:
    return _ALONE.get(kind, 0.01) * float(np.prod(sizes))


def true_latency(latency: NetworkLatency, widths: Mapping[str, int]) -> float:
    """Of a network on the made-up machine, operation by operation."""
    total = _REST
    for operation, count in latency._operations.items():
        weighted = operation.kind.startswith(("conv", "depthwise", "linear"))
        alone = made_up(operation.kind, operation.widths(widths))
        total += count * _INSIDE[weighted] * alone
    return total


@pytest.fixture
def foreseen(small: NetworkLatency, tmp_path: Path) -> Iterator[NetworkLatency]:
    """What is predicted from a table of the made-up machine; nothing is measured."""
    measured_table, path = small._table, tmp_path / "latency.json"
    table = LatencyTable(path, measured_table.fingerprint, measured_table.onednn)
    for key, times in measured_table.layers.items():
        table.layers[key] = {
            sizes: made_up(key.split()[0], tuple(map(int, sizes.split(",")))) for sizes in times
        }
    before = true_latency(small, small._sizes)
    for key in measured_table.networks:
        widths = dict(zip(small._sizes, map(int, key.split(",")), strict=True))
        # Measured in turns while the machine had other things to do: both took longer.
        table.networks[key] = (1.2 * before, 1.2 * true_latency(small, widths))
    table.networks[small._key(small._sizes)] = (before, before)
    table.save()
    latency = measured(path)
    yield latency
    assert latency._timer._process is None, "something was measured"
    latency.close()


def test_predictions_come_true_where_operations_add_up(foreseen: NetworkLatency) -> None:
    """Of networks that the prediction was not fitted to, and of the unpruned one."""
    random = np.random.default_rng(0)
    sizes = foreseen._sizes
    assert foreseen.before == pytest.approx(true_latency(foreseen, sizes))
    assert foreseen(sizes) == pytest.approx(foreseen.before)
    for _ in range(20):
        widths = {
            name: int(random.integers(narrowest(size, 0.8, 8), size + 1))
            for name, size in sizes.items()
        }
        assert foreseen(widths) == pytest.approx(true_latency(foreseen, widths), rel=1e-4)


def test_what_was_measured_corrects_the_prediction(foreseen: NetworkLatency) -> None:
    sizes, few = foreseen._sizes, dict.fromkeys(foreseen._sizes, 16)
    promised = foreseen(few)
    # It saves a quarter less than was promised, and so will others.
    found = foreseen.before - 0.75 * (foreseen.before - promised)
    foreseen._table.networks[foreseen._key(few)] = (10.0, 10.0 * found / foreseen.before)
    assert foreseen.achieved(few) == pytest.approx(found)
    other = {**sizes, "wide": 24}
    saved = foreseen.before - foreseen(other)
    foreseen.correct(few)
    assert foreseen(few) == pytest.approx(found)
    assert foreseen.before - foreseen(other) == pytest.approx(0.75 * saved)
    assert foreseen(sizes) == pytest.approx(foreseen.before)


def test_the_search_spends_milliseconds(foreseen: NetworkLatency) -> None:
    sizes = foreseen._sizes
    curves = {name: Curve((0.4, 0.8), (0.01, 0.1)) for name in sizes}
    search = Search(curves, sizes, foreseen.cost, 8)
    share = 0.5 * search.most
    chosen = {**sizes, **widths_by_budget(search, share, "pruned_latency")}
    assert 1 - true_latency(foreseen, chosen) / foreseen.before == pytest.approx(share, abs=0.02)
    plain = PlainSearch(curves, sizes, foreseen.cost.total, 8)
    assert chosen == plain.spend(share)
    with pytest.raises(OutOfReach, match=r"Prune.pruned_latency is 0.999, .* hold only 0\.\d+ of"):
        widths_by_budget(search, 0.999, "pruned_latency")


def test_the_machine_is_asked_once(small: NetworkLatency) -> None:
    few = dict.fromkeys(small._sizes, 8)
    assert 0 < small(few) < small.before
    before, after = small.measure(few)
    assert 0 < after < before
    assert small.measure(few) == (before, after), "measured twice"


def test_a_finished_table_is_not_measured_again(small: NetworkLatency) -> None:
    path = small._table.path
    content = path.read_bytes()
    again = measured(path)
    try:
        assert again._timer._process is None, "something was measured"
        assert again.before == small.before and path.read_bytes() == content
    finally:
        again.close()


_RUN = """
import sys
sys.path[:0] = {path!r}
from test_latency import measured
from pathlib import Path
measured(Path(sys.argv[1])).close()
"""


def test_a_killed_measurement_goes_on_where_it_was(tmp_path: Path) -> None:
    table = tmp_path / "latency.json"

    def known() -> dict[tuple[str, str], float]:
        if not table.exists():
            return {}
        layers = json.loads(table.read_text())["layers"]
        return {(key, sizes): t for key, times in layers.items() for sizes, t in times.items()}

    program = _RUN.format(path=[str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", program, table], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(known()) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    survived = known()
    assert len(survived) >= 3
    latency = measured(table)
    latency.close()
    whole = known()
    assert len(survived) < len(whole), "killed too late to show anything"
    assert {key: whole[key] for key in survived} == survived


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (
            lambda c: c["fingerprint"].update({"CPU": "Abacus 80"}),
            "another CPU: it says 'Abacus 80'",
        ),
        (
            lambda c: c["fingerprint"].update({"Prune.latency.threads": "7"}),
            "another Prune.latency.threads: it says '7', this run has '1'",
        ),
        (lambda c: c.update({"networks": 3}), "networks: should be a mapping, found 3"),
        (lambda c: c.update({"format": "other/1"}), "format is 'other/1'"),
    ],
)
def test_a_table_of_something_else_is_measured_anew(
    small: NetworkLatency, tmp_path: Path, change: Callable[[dict], None], named: str
) -> None:
    table = small._table
    content = json.loads(table.path.read_text())
    change(content)
    path = tmp_path / "latency.json"
    path.write_text(json.dumps(signed(content)))
    fresh, problem = open_table(path, table.fingerprint)
    assert named in problem
    assert not fresh.layers and not fresh.networks and fresh.onednn is None


def test_half_a_file_is_measured_anew(small: NetworkLatency, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_bytes(small._table.path.read_bytes()[:200])
    assert "not complete JSON" in open_table(path, small._table.fingerprint)[1]


def test_a_network_that_cannot_run_is_one_clear_error() -> None:
    timer = Timer(LatencyOptions(threads=2, onednn=False))
    try:
        prefix = timer.exported(Small(), SMALL_INPUTS)
        assert timer.networks([prefix], SMALL_INPUTS)[0] > 0 and timer.onednn == "oneDNN off"
        prefix.with_name(prefix.name + ".pdiparams").write_bytes(b"nonsense")
        with pytest.raises(
            PruneError, match="Paddle Inference cannot run this network .oneDNN off"
        ):
            timer.networks([prefix], SMALL_INPUTS)
        with pytest.raises(PruneError, match="holds no exported model"):
            timer.networks([prefix.with_name("absent")], SMALL_INPUTS)
    finally:
        timer.close()


def test_a_process_that_hangs_is_ended() -> None:
    timer = Timer(LatencyOptions(), patience=120)
    try:
        prefix = timer.exported(Small(), SMALL_INPUTS)
        timer.networks([prefix], SMALL_INPUTS)
        process = timer._process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        timer._patience = 0.2
        with pytest.raises(NoAnswer, match=r"no answer after 0\.2 s.*Prune\.latency\.onednn=false"):
            timer.networks([prefix], SMALL_INPUTS)
        assert process.poll() == -signal.SIGKILL
        timer._patience = 120  # the next measurement starts another process
        assert timer.networks([prefix], SMALL_INPUTS)[0] > 0
    finally:
        timer.close()


def test_what_a_crash_said_is_in_the_message() -> None:
    timer = Timer(LatencyOptions(threads=2))
    try:
        prefix = timer.exported(Small(), SMALL_INPUTS)
        timer.networks([prefix], SMALL_INPUTS)
        assert timer._process is not None
        timer._process.send_signal(signal.SIGSEGV)
        with pytest.raises(PruneError) as raised:
            timer.networks([prefix], SMALL_INPUTS)
    finally:
        timer.close()
    message = str(raised.value)
    assert re.search(r"2 threads\).*ended by SIGSEGV; it said: .*Segmentation fault", message)
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.alone
def test_train_py_prunes_by_latency(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    det_config: Path,
    det_weights: Path,
    tmp_path: Path,
) -> None:
    options = [
        "Global.use_gpu=false",
        f"Global.pretrained_model={det_weights}",
        f"Global.save_model_dir={tmp_path}",
        "Prune.pruned_latency=0.03",
        'Prune.skip=["backbone.*"]',
        "Prune.sensitivity.ratios=[0.3,0.6]",
        "Prune.sensitivity.samples=2",
        "Prune.latency.shape=[3,256,256]",
        "Prune.dry_run=true",
    ]
    done = run_tool([tree / "tools" / "train.py", "-c", det_config, "-o", *options])
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    assert re.search(
        r"the unpruned network takes \S+ ms: Paddle Inference, .*1 thread, 1x3x256", log
    )
    found = re.findall(r"latency (\S+) ms -> (\S+) ms \(-\S+ measured, -\S+ predicted\)", log)
    report = load_report(tmp_path / "prune" / "report.json")
    assert found and report.latency is not None
    assert float(found[-1][0]) == pytest.approx(report.latency.before, rel=1e-3)
    assert float(found[-1][1]) == pytest.approx(report.latency.after, rel=1e-3)
    assert report.feasibility_of == "latency" and report.target == "pruned_latency"
    assert report.latency.predicted < report.latency.before
    # What the report calls measured is in the table, for exactly the plan's widths.
    table = json.loads((tmp_path / "prune" / "latency.json").read_text())
    kept = load_plan(tmp_path / "prune" / "plan.prune.json").kept_channels()
    assert kept
    matching = [
        after / before
        for key, (before, after) in table["networks"].items()
        if {int(width) for width in kept.values()} <= {int(width) for width in key.split(",")}
    ]
    assert any(ratio == pytest.approx(1 - report.latency.pruned, rel=1e-6) for ratio in matching)
    page = (tmp_path / "prune" / "report.html").read_text(encoding="utf-8")
    assert "Latency, measured" in page and "latency were removed" in page
