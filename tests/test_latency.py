"""Latency: networks are timed and fitted to, the table is kept, and choices are measured."""

from __future__ import annotations

import functools
import importlib.util
import json
import logging
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import build
from paddle import nn
from plain_search import PlainSearch

from ppocr_prune_plugin.documents import signed
from ppocr_prune_plugin.engines.paddle import OFF, Predictor
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.export import converter
from ppocr_prune_plugin.graph.inference_mode import in_inference_mode, reparameterises
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.latency.fit import Terms, _solve
from ppocr_prune_plugin.latency.model import NetworkLatency
from ppocr_prune_plugin.latency.table import LatencyTable, open_table
from ppocr_prune_plugin.latency.timer import Timer
from ppocr_prune_plugin.latency.write import export
from ppocr_prune_plugin.network import Network, inspect
from ppocr_prune_plugin.plan import load_plan
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


@functools.cache
def inspected() -> Network:
    return inspect(Small(), SMALL_INPUTS)


def measured(path: Path, options: LatencyOptions | None = None) -> NetworkLatency:
    """The latency of :class:`Small`, with its table at ``path``."""
    network = inspected()
    few = {group.name: narrowest(group.size, 0.8, 8) for group in network.graph.groups}
    options = options or LatencyOptions(engine="onnxruntime")
    return NetworkLatency(network, options, few, path, LOGGER)


_RUN = """
import sys
sys.path[:0] = {path!r}
from test_latency import measured
from pathlib import Path
measured(Path(sys.argv[1])).close()
"""


def networks_in(table: Path) -> dict[str, Any]:
    """Times of every network that is in a table; none where there is no file."""
    return json.loads(table.read_text())["networks"] if table.exists() else {}


@dataclass(frozen=True)
class Table:
    """A table at ``path``: what a process left there that was killed while it measured."""

    path: Path
    survived: dict[str, Any]


@pytest.fixture(scope="module")
def killed(tmp_path_factory: pytest.TempPathFactory) -> Table:
    table = tmp_path_factory.mktemp("latency") / "latency.json"
    program = _RUN.format(path=[str(Path(__file__).parent), *sys.path])
    process = subprocess.Popen([sys.executable, "-c", program, table], stderr=subprocess.DEVNULL)
    while process.poll() is None and len(networks_in(table)) < 3:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    return Table(table, networks_in(table))


@pytest.fixture(scope="module")
def small(killed: Table) -> Iterator[NetworkLatency]:
    """The latency of :class:`Small`; the table is finished here."""
    latency = measured(killed.path)
    yield latency
    latency.close()


def test_a_killed_measurement_goes_on_where_it_was(killed: Table, small: NetworkLatency) -> None:
    whole = networks_in(killed.path)
    assert 3 <= len(killed.survived) < len(whole), "killed too early or too late to show anything"
    assert {key: whole[key] for key in killed.survived} == killed.survived


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


class Looks(nn.Layer):
    """What it does depends on values."""

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if x.mean() > 0:
            y = 2 * x
        else:
            y = 3 * x
        return y


def test_code_that_looks_at_values_is_exported_with_both_its_branches(tmp_path: Path) -> None:
    model = Looks()
    model.eval()
    export(model, [([2, 2], "float32")], tmp_path / "looks")
    predictor = Predictor(tmp_path / "looks", onednn=OFF)
    for sign, factor in ((1, 2), (-1, 3)):
        (found,) = predictor(np.full([2, 2], sign, "float32"))
        np.testing.assert_array_equal(found, sign * factor)


def made_up(latency: NetworkLatency, widths: Mapping[str, int], block: int) -> float:
    """Milliseconds on a machine where no two layers are equally fast: not what FLOPs say, and in
    steps of so many channels."""
    random = np.random.default_rng(3)
    terms = Terms(latency._flops, latency._sizes, latency._changing, block)
    whole = terms.row(latency._sizes)
    speeds = 10.0 ** random.uniform(-0.3, 0.3, len(whole))
    expected = np.concatenate([[20.0], terms._whole / 1e5, terms._activations / 1e5])
    return float(terms.row(widths) @ (speeds * expected))


def test_the_terms_are_the_nearest_that_are_not_negative() -> None:
    """No term can be changed for the better: the gradient is zero, or points below zero."""
    random = np.random.default_rng(0)
    rows = np.concatenate([random.random((20, 50)), 0.03 * np.eye(50)])
    targets, weights = 10 * random.random(70), random.uniform(0.5, 2, 70)
    found = _solve(rows, targets, weights)
    gradient = (rows * np.square(weights)[:, None]).T @ (rows @ found - targets)
    used = found > 0
    assert 5 < used.sum() < 50 and (found >= 0).all()
    assert np.abs(gradient[used]).max() < 1e-6 and gradient[~used].min() > -1e-6


@pytest.fixture(params=[1, 16])
def foreseen(
    small: NetworkLatency, tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[NetworkLatency, Callable[[Mapping[str, int]], float]]]:
    """What is predicted from a table of the made-up machine, and its times; nothing is measured."""
    path = tmp_path / "latency.json"
    table = LatencyTable(path, small._table.fingerprint, small._table.how)

    def true(widths: Mapping[str, int]) -> float:
        return made_up(small, widths, request.param)

    before = true(small._sizes)
    for key in small._table.networks:
        widths = dict(zip(small._sizes, map(int, key.split(",")), strict=True))
        # Measured in turns while the machine had other things to do: both took longer.
        table.networks[key] = (1.2 * before, 1.2 * true(widths))
    table.networks[small._key(small._sizes)] = (before, before)
    table.save()
    latency = measured(path)
    yield latency, true
    assert latency._timer._process._process is None, "something was measured"
    latency.close()


def test_predictions_come_true_of_other_networks(foreseen: Any) -> None:
    latency, true = foreseen
    random, sizes, off = np.random.default_rng(0), latency._sizes, []
    assert latency.before == pytest.approx(true(sizes))
    assert latency(sizes) == pytest.approx(latency.before, rel=1e-6)
    for _ in range(20):
        widths = {
            name: int(random.integers(narrowest(size, 0.8, 8), size + 1) // 8 * 8) or size
            for name, size in sizes.items()
        }
        off.append(abs(latency(widths) / true(widths) - 1))
    assert np.median(off) < 0.02 and max(off) < 0.08


def test_what_was_measured_corrects_the_prediction(foreseen: Any) -> None:
    latency, _ = foreseen
    few = dict.fromkeys(latency._sizes, 16)
    promised = latency(few)
    # It takes much longer than was promised, and so will what is much like it.
    found = 1.3 * promised
    latency._table.networks[latency._key(few)] = (10.0, 10.0 * found / latency.before)
    assert latency.achieved(few) == pytest.approx(found)
    near = {**few, "wide": 24}
    before = latency(near)
    latency.correct(few)
    assert latency(few) == pytest.approx(found, rel=1e-3)
    assert latency(near) > 1.1 * before
    # The search goes for a share of what the unpruned network takes.
    assert latency(latency._sizes) == pytest.approx(latency.before, rel=1e-6)


def test_a_measurement_that_cannot_be_true_corrects_little(foreseen: Any) -> None:
    """Slower than the unpruned network: the machine had other things to do."""
    latency, _ = foreseen
    few = dict.fromkeys(latency._sizes, 16)
    latency._table.networks[latency._key(few)] = (10.0, 11.0)
    latency.correct(few)
    assert latency(few) < latency.before == pytest.approx(latency(latency._sizes), rel=1e-6)


def test_the_search_spends_milliseconds(foreseen: Any) -> None:
    latency, true = foreseen
    sizes = latency._sizes
    curves = {name: Curve((0.4, 0.8), (0.01, 0.1)) for name in sizes}
    search = Search(curves, sizes, latency.cost, 8)
    share = 0.5 * search.most
    chosen = {**sizes, **widths_by_budget(search, share, "pruned_latency")}
    assert 1 - true(chosen) / latency.before == pytest.approx(share, abs=0.04)
    plain = PlainSearch(curves, sizes, latency.cost.total, 8)
    assert chosen == plain.spend(share)
    with pytest.raises(OutOfReach, match=r"Prune.pruned_latency is 0.999, .* hold only 0\.\d+ of"):
        widths_by_budget(search, 0.999, "pruned_latency")


def test_the_machine_is_asked_once(small: NetworkLatency) -> None:
    few = dict.fromkeys(small._sizes, 8)
    before, after = small.measure(few)
    assert before > 0 and after > 0
    assert small.measure(few) == (before, after), "measured twice"


def test_a_finished_table_is_not_measured_again(small: NetworkLatency) -> None:
    path = small._table.path
    content = path.read_bytes()
    again = measured(path)
    try:
        assert again._timer._process._process is None, "something was measured"
        assert again.before == small.before and path.read_bytes() == content
    finally:
        again.close()


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
    assert not fresh.networks and not fresh.how


def test_half_a_file_is_measured_anew(small: NetworkLatency, tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    path.write_bytes(small._table.path.read_bytes()[:200])
    assert "not complete JSON" in open_table(path, small._table.fingerprint)[1]


@pytest.fixture(scope="module")
def timer() -> Iterator[Timer]:
    timer = Timer(LatencyOptions(engine="paddle", threads=2))
    yield timer
    timer.close()


@pytest.fixture(scope="module")
def exported(timer: Timer) -> Path:
    return timer.exported(Small(), SMALL_INPUTS)


def test_a_network_that_cannot_run_is_one_clear_error(timer: Timer, exported: Path) -> None:
    assert timer.milliseconds([exported], SMALL_INPUTS)[0] > 0
    assert re.fullmatch(r"Paddle Inference 3\S+, 2 threads, oneDNN on.*", timer.how)
    with pytest.raises(PruneError, match="takes .* of shape 1x3x64x64, not 1x3x32x32"):
        timer.milliseconds([exported], [([1, 3, 32, 32], "float32")])
    with pytest.raises(PruneError, match="holds no exported model"):
        timer.milliseconds([exported.with_name("absent")], SMALL_INPUTS)
    damaged = exported.with_name("damaged")
    shutil.copy(f"{exported}.json", f"{damaged}.json")
    Path(f"{damaged}.pdiparams").write_bytes(b"nonsense")
    wanted = r"Paddle Inference .* cannot run this network on .*Try Prune\.latency\.engine: .*onnx"
    with pytest.raises(PruneError, match=wanted):
        timer.milliseconds([damaged], SMALL_INPUTS)


def test_a_process_that_hangs_is_ended(timer: Timer, exported: Path) -> None:
    timer.milliseconds([exported], SMALL_INPUTS)
    process = timer._process._process
    assert process is not None
    process.send_signal(signal.SIGSTOP)
    timer._process._patience = 0.2
    with pytest.raises(PruneError, match=r"no answer after 0\.2 s.*Prune\.latency\.onednn=false"):
        timer.milliseconds([exported], SMALL_INPUTS)
    assert process.poll() == -signal.SIGKILL
    timer._process._patience = 120  # the next measurement starts another process
    assert timer.milliseconds([exported], SMALL_INPUTS)[0] > 0


def test_what_a_crash_said_is_in_the_message(timer: Timer, exported: Path) -> None:
    timer.milliseconds([exported], SMALL_INPUTS)
    assert timer._process._process is not None
    timer._process._process.send_signal(signal.SIGSEGV)
    with pytest.raises(PruneError) as raised:
        timer.milliseconds([exported], SMALL_INPUTS)
    message = str(raised.value)
    assert re.search(r"2 threads.*ended by SIGSEGV; it said: .*Segmentation fault", message)
    assert "\n" not in message


def test_a_shape_that_the_network_does_not_take(tmp_path: Path) -> None:
    options = LatencyOptions(engine="paddle", shape=(4, 64, 64))
    with pytest.raises(PruneError, match=r"on 1x4x64x64.*another Prune\.latency\.shape") as raised:
        measured(tmp_path / "latency.json", options)
    assert "\n" not in str(raised.value) and not list(tmp_path.iterdir())


def test_what_converts_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda n, *a: None if n == "paddle2onnx" else find(n, *a)
    )
    for last, advice in (((9, 9), "pip install"), ((3, 9), "There is no paddle2onnx for Python")):
        monkeypatch.setattr(converter, "LAST_PYTHON", last)
        said = rf"engine onnxruntime needs .*: paddle2onnx\. {advice}"
        with pytest.raises(PruneError, match=said):
            Timer(LatencyOptions(engine="onnxruntime"))
    timer = Timer(LatencyOptions())  # nobody asked for an engine: the first that can be used
    timer.close()
    assert timer.engine.name == "paddle"


def test_a_busy_machine_is_warned_of(
    own_engines: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine whose runs take turns in being slow stands for it."""
    network = inspect(nn.Sequential(nn.Conv2D(3, 16, 1), nn.Conv2D(16, 1, 1)), SMALL_INPUTS)
    options, few = LatencyOptions(engine="restless"), {network.graph.groups[0].name: 8}
    with (
        caplog.at_level(logging.WARNING),
        NetworkLatency(network, options, few, tmp_path / "latency.json", LOGGER) as latency,
    ):
        assert "Restless 7" in latency.how
    warned = [record.getMessage() for record in caplog.records]
    assert len(warned) == 2 == len(networks_in(tmp_path / "latency.json"))
    assert re.search(
        r"the machine is busy: half .* over \d+% longer.* delete .*latency.json", warned[0]
    )


@pytest.mark.slow
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
        'Prune.skip=["backbone.*","neck.ins_conv.*"]',
        "Prune.sensitivity.ratios=[0.6]",
        "Prune.sensitivity.samples=1",
        "Prune.latency.shape=[3,256,256]",
        "Prune.latency.engine=onnxruntime",
        "Prune.dry_run=true",
    ]
    done = run_tool([tree / "tools" / "train.py", "-c", det_config, "-o", *options])
    log = done.stdout + done.stderr
    assert done.returncode == 0, log[-3000:]
    assert re.search(r"the unpruned network takes \S+ ms: ONNX Runtime \S+, 1 thread, 1x3x256", log)
    found = re.findall(
        r"latency (\S+) ms -> (\S+) ms \([+-][\d.]+% measured, [+-][\d.]+% predicted\)", log
    )
    report = load_report(tmp_path / "prune" / "report.json")
    assert found and report.latency is not None
    assert float(found[-1][0]) == pytest.approx(report.latency.before, rel=1e-3)
    assert float(found[-1][1]) == pytest.approx(report.latency.after, rel=1e-3)
    assert report.feasibility_of == "latency" and report.target == "pruned_latency"
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
