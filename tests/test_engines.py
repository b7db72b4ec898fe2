"""Engines: what one model answers in each, one of one's own, and `ppocr-prune bench`."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import numpy as np
import pytest
from paddle import nn

from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.engines import Engine, choose, engine_class, installed, known
from ppocr_prune_plugin.engines.interface import examples
from ppocr_prune_plugin.engines.process import Process
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.export.converter import to_onnx
from ppocr_prune_plugin.latency.write import export
from ppocr_prune_plugin.section import parse_section

OPENVINO = pytest.mark.skipif("openvino" not in installed(), reason="OpenVINO is not installed")
ENGINES = ["paddle", "onnxruntime", pytest.param("openvino", marks=OPENVINO)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model as PaddleOCR exports it, and as an ONNX file."""
    folder = tmp_path_factory.mktemp("model")
    net = nn.Sequential(nn.Conv2D(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2D(16, 2, 3))
    net.eval()
    export(net, [([-1, 3, -1, -1], "float32")], folder / "inference")
    with contextlib.closing(Process()) as process:
        to_onnx(folder / "inference", folder / "net.onnx", process, 13)
    return folder


def file_of(models: Path, engine: type[Engine]) -> Path:
    return models / ("net.onnx" if engine.takes == "onnx" else "inference")


@pytest.mark.parametrize("name", ENGINES)
def test_every_engine_answers_alike(models: Path, name: str) -> None:
    engine = engine_class(name)
    session = engine(threads=1).load(file_of(models, engine))
    (given,) = session.inputs
    assert given.dtype == "float32" and given.shape == (-1, 3, -1, -1)
    paddle = engine_class("paddle")(onednn=False).load(models / "inference")
    for size in (24, 40):  # sizes are free
        arrays = examples(session.inputs, [[2, 3, size, size]])
        session.prepare(arrays)
        paddle.prepare(arrays)
        session.run()
        (found,), (expected,) = session.outputs(), paddle.outputs()
        # OpenVINO chooses bfloat16 where the processor has it.
        allowed = 0.05 if "bf16" in session.how else 1e-5
        np.testing.assert_allclose(found, expected, atol=allowed)
    with pytest.raises(PruneError, match="takes .* of shape anyx3xanyxany, not 1x4x8x8"):
        examples(session.inputs, [[1, 4, 8, 8]])
    assert engine.version()[0].isdigit()


def test_the_first_that_is_installed_is_taken_and_others_are_named() -> None:
    assert known()[:3] == ["openvino", "onnxruntime", "paddle"]
    assert choose(None).name == installed()[0]
    assert choose("paddle").name == "paddle"
    section = parse_section({"ratio": 0.3, "latency": {"engine": "paddle"}}, "c.yml")
    assert section.latency.engine == "paddle"
    with pytest.raises(
        PruneError, match=r"c.yml: Prune.latency.engine must be one of openvino, .*"
    ):
        parse_section({"ratio": 0.3, "latency": {"engine": "padle"}}, "c.yml")


def test_an_engine_that_is_missing_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_class("onnxruntime")
    monkeypatch.setattr(engine, "module", "a_package_that_is_not_there")
    with pytest.raises(PruneError, match=r'ONNX Runtime is not installed: pip install "ppocr-'):
        engine_class("onnxruntime")
    assert "onnxruntime" not in installed() and "paddle" in installed()


def test_an_engine_of_ones_own(
    own_engines: Path, models: Path, capfd: pytest.CaptureFixture
) -> None:
    assert parse_section({"ratio": 0.3, "latency": {"engine": "phone"}}, "").latency.engine
    assert engine_class("phone").title == "A phone" and "phone" in installed()
    with pytest.raises(PruneError, match=r"the engine broken \(own_engines:nothing\) is no"):
        engine_class("broken")
    code, out, _ = bench(capfd, models, "--engine", "phone", "--shape", "3x32x32")
    assert code == 0 and "A phone 7" in out
    # Alone, for its inputs and its memory, and in turns with others.
    assert (own_engines / "loads").read_text().splitlines() == ["inference"] * 2


def test_bench_warns_of_a_busy_machine(
    own_engines: Path, models: Path, capfd: pytest.CaptureFixture
) -> None:
    """An engine whose runs take turns in being slow stands for it."""
    code, out, err = bench(capfd, models, "--engine", "restless", "--shape", "3x32x32")
    assert code == 0 and "Restless 7" in out
    assert re.search(r"the machine is busy: half of the runs took over \d+% longer", err)


def bench(capfd: pytest.CaptureFixture, *arguments: object) -> tuple[int, str, str]:
    code = main(["bench", *map(str, arguments), "--rounds", "3"])
    out, err = capfd.readouterr()
    return code, out, err


def test_bench_times_models_in_turns(models: Path, capfd: pytest.CaptureFixture) -> None:
    both = ["--engine", "onnxruntime", "--engine", "paddle"]
    code, out, _ = bench(capfd, models, models / "inference", *both, "--shape", "3x48x64", "--json")
    assert code == 0
    rows = json.loads(out)
    assert [row["engine"].rpartition(" ")[0] for row in rows] == (
        ["ONNX Runtime"] * 2 + ["Paddle Inference"] * 2
    )
    for row in rows:
        assert row["shape"] == [1, 3, 48, 64] and 0 < row["median"] <= row["p90"]
        assert row["size"] > 1000 and row["memory"] > 1e7
    assert rows[0]["ratio"] == rows[2]["ratio"] == 1
    assert rows[1]["ratio"] == pytest.approx(rows[1]["median"] / rows[0]["median"])
    code, out, _ = bench(capfd, models / "net.onnx", "--engine", "onnxruntime", "--batch", 2)
    assert code == 0 and "2x3x640x640" in out and "ONNX Runtime" in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.onnx"], "nothing.onnx: there is no such file"),
        (["."], "holds no exported model: inference.json"),
        (["net.onnx", "--engine", "onxruntime"], 'no engine "onxruntime" .did you mean'),
        (["net.onnx", "--engine", "paddle"], "net.onnx: Paddle Inference .* cannot run this model"),
        (
            ["net.onnx", "--engine", "onnxruntime", "--shape", "4x32x32"],
            "net.onnx: the model takes .* not 1x4x32x32",
        ),
        (["net.onnx", "--shape", "32"], '--shape is "32"; write channels, height and width'),
        (["net.onnx", "--threads", "0"], "--threads is 0; it has to be 1 or more"),
        (
            ["bad.onnx", "--engine", "onnxruntime"],
            "bad.onnx: ONNX Runtime .* cannot run this .*Try",
        ),
    ],
)
def test_what_bench_cannot_do_is_one_line(
    models: Path, tmp_path: Path, capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], message: str,
) -> None:  # fmt: skip
    (tmp_path / "net.onnx").write_bytes((models / "net.onnx").read_bytes())
    (tmp_path / "bad.onnx").write_bytes(b"no model")
    monkeypatch.chdir(tmp_path)
    code, _, err = bench(capfd, *arguments)
    (line,) = [line for line in err.splitlines() if line.startswith("ppocr-prune: error: ")]
    assert code == 2 and re.search(message, line), line
