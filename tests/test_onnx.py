"""``ppocr-prune onnx`` and ``convert``: PP-OCRv4's own networks, and what is wrong with files."""

from __future__ import annotations

import importlib.util
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from demo.weights import Kind
from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.export import onnx_file
from ppocr_prune_plugin.export.onnx_file import Converted
from ppocr_prune_plugin.export.program_file import load_program
from ppocr_prune_plugin.export.versions import convert, reads_wide_tags, retag

onnx = pytest.importorskip("onnx", reason="the extra [onnx] is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra [onnx] is not installed")
pytest.importorskip("paddle2onnx", reason="the extra [onnx] is not installed")

Exported = Callable[[Kind], Path]
SIZE = (32, 64)  # small, for detectors


def failed(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line that a command ends with."""
    capsys.readouterr()
    assert main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if line.startswith("ppocr-prune: error: ")]
    assert len(lines) == 1 and "Traceback" not in out + err
    return lines[0]


def scales(prefix: Path) -> set[str]:
    """Tags of the scales of resizes."""
    return {
        item["#"]
        for node in load_program(prefix).nodes
        if node.name == "nearest_interp"
        for attribute in node.raw["A"]
        if attribute["N"] == "scale"
        for item in attribute["AT"]["D"]
    }


@pytest.fixture(scope="session")
def converted(
    exported: Exported, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind], tuple[Path, Converted]]:
    """The model as an .onnx file, and what was said of it; for each kind once."""
    found: dict[Kind, tuple[Path, Converted]] = {}
    folder = tmp_path_factory.mktemp("onnx")

    def convert(kind: Kind) -> tuple[Path, Converted]:
        if kind not in found:
            target = folder / f"{kind}.onnx"
            sizes = [SIZE, (64, 96)] if kind == "det" else []
            found[kind] = target, onnx_file.convert(exported(kind), target, 14, sizes)
        return found[kind]

    return convert


@pytest.mark.parametrize("kind", ["det", "rec", "cls"])
def test_a_converted_model_agrees_on_two_sizes(
    kind: Kind, converted: Callable[[Kind], tuple[Path, Converted]]
) -> None:
    path, said = converted(kind)
    assert said.difference is not None and 0 < said.difference <= onnx_file.TOLERANCE
    shapes = {
        "det": ((1, 3, *SIZE), (1, 3, 64, 96)),
        "rec": ((1, 3, 48, 320), (1, 3, 48, 640)),
        "cls": ((1, 3, 48, 192), (1, 3, 48, 384)),
    }
    assert said.shapes == shapes[kind]
    onnx.checker.check_model(str(path), full_check=True)
    kinds = [node.op_type for node in onnx.load(str(path)).graph.node]
    assert "Identity" not in kinds and "Constant" not in kinds


def test_runtimes_find_the_characters(
    converted: Callable[[Kind], tuple[Path, Converted]], tree: Path
) -> None:
    """As RapidOCR reads them: the lines of ``character``, then a space, before them the blank."""
    path, said = converted("rec")
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    found = metadata["character"].splitlines()
    wanted = (tree / "ppocr/utils/ppocr_keys_v1.txt").read_text(encoding="utf-8").split("\n")
    assert found == [line for line in wanted if line] and said.characters == len(found) > 6000
    (output,) = session.run(None, {session.get_inputs()[0].name: np.zeros([1, 3, 48, 64], "f")})
    assert output.shape[-1] == len(["blank", *found, " "])
    for kind in ("det", "cls"):
        model = onnxruntime.InferenceSession(
            str(converted(kind)[0]), providers=["CPUExecutionProvider"]
        )
        assert "character" not in model.get_modelmeta().custom_metadata_map


def test_additions_stay_in_blocks(
    converted: Callable[[Kind], tuple[Path, Converted]], exported: Exported, tmp_path: Path
) -> None:
    """Only sums of two maps stay additions; transposed convolutions have their biases."""
    model = onnx.load(str(converted("det")[0]))
    constants = {item.name for item in model.graph.initializer}
    spatial = [
        node
        for node in model.graph.node
        if node.op_type == "Add" and not constants.isdisjoint(node.input)
    ]
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    behind = {makers.get(name) for node in spatial for name in node.input} - {None}
    assert "ConvTranspose" not in behind
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) > 5
    transposed = [node for node in model.graph.node if node.op_type == "ConvTranspose"]
    assert transposed and all(len(node.input) == 3 for node in transposed)


def test_exports_of_paddle_3_3_and_back(
    exported: Exported, converted: Callable[[Kind], tuple[Path, Converted]], tmp_path: Path
) -> None:
    """Their scales have other tags, which neither the other Paddle nor paddle2onnx reads."""
    import paddle

    whole = exported("det")
    wide = reads_wide_tags(paddle.__version__)
    here, there = ("3.3.1", "3.2.2") if wide else ("3.2.2", "3.3.1")
    other, back = tmp_path / "other", tmp_path / "back"
    words = ["convert", whole, "-o", other, "--paddle", there]
    assert main([str(word) for word in words]) == 0
    assert (other / "inference.yml").read_bytes() == (whole / "inference.yml").read_bytes()
    assert convert(other / "inference", back / "inference", here) == 12
    tags = {"0.a_f64"}, {"0.a_f32"}
    assert (scales(whole / "inference"), scales(other / "inference")) == (
        tags if wide else tags[::-1]
    )
    for suffix in (".json", ".pdiparams"):
        first, second = (folder / f"inference{suffix}" for folder in (whole, back))
        if suffix == ".json":
            assert json.loads(first.read_text()) == json.loads(second.read_text())
        else:
            assert first.read_bytes() == second.read_bytes()

    said = onnx_file.convert(other, tmp_path / "other.onnx", 14, [SIZE])
    assert said.difference is not None and said.difference <= onnx_file.TOLERANCE
    outputs = []
    for path in (tmp_path / "other.onnx", converted("det")[0]):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        image = np.random.default_rng(0).standard_normal([1, 3, *SIZE]).astype("f")
        outputs.append(session.run(None, {session.get_inputs()[0].name: image})[0])
    np.testing.assert_array_equal(*outputs)


@pytest.fixture
def copy(exported: Exported, tmp_path: Path) -> Path:
    """The classifier's export, to be damaged."""
    return Path(shutil.copytree(exported("cls"), tmp_path / "copy"))


def test_models_that_cannot_be_read(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    target = tmp_path / "model.onnx"
    empty = tmp_path / "empty"
    empty.mkdir()
    words = ["onnx", empty, "-o", target]
    assert "holds no exported model: inference.json" in failed(capsys, *words)
    monkeypatch.chdir(empty)
    assert "holds no exported model" in failed(capsys, "onnx", ".", "-o", target)
    assert "holds no exported model" in failed(
        capsys, "convert", ".", "-o", tmp_path / "x", "--paddle", "3.3.1"
    )
    program, numbers = copy / "inference.json", copy / "inference.pdiparams"
    for file, damaged in (
        (program, program.read_bytes()[:1000]),
        (program, b"[]"),
        (program, b"\xff" * 100),
        (numbers, numbers.read_bytes()[:-5]),
        (numbers, b""),
    ):
        whole = file.read_bytes()
        file.write_bytes(damaged)
        said = failed(capsys, "onnx", copy, "-o", target)
        assert str(copy / "inference") in said
        words = ["convert", copy, "-o", tmp_path / "x", "--paddle", "3.3.1"]
        assert str(copy / "inference") in failed(capsys, *words)
        file.write_bytes(whole)
    settings = copy / "inference.yml"
    for text in ("PostProcess: {[", "- a list", "PostProcess: 3\nGlobal: [x]\nPreProcess: 1\n"):
        settings.write_text(text)
        assert "inference.yml: " in failed(capsys, "onnx", copy, "-o", target)
    assert not target.exists() and not (tmp_path / "x").exists()


def test_requests_that_are_impossible(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "model.onnx"
    words = ["onnx", copy, "-o", target]
    assert "--opset is 99; operator sets are" in failed(capsys, *words, "--opset", "99")
    assert "--size is '48'; a size is HEIGHTxWIDTH" in failed(capsys, *words, "--size", "48")
    assert "an ONNX file is called .onnx" in failed(capsys, "onnx", copy, "-o", tmp_path / "model")
    words = ["convert", copy, "-o", tmp_path / "x", "--paddle"]
    for version in ("2.6.2", "3.9", "new"):
        assert f'--paddle is "{version}"' in failed(capsys, *words, version)
    words = ["convert", copy, "-o", copy, "--paddle", "3.3.1"]
    assert "is the folder that is read" in failed(capsys, *words)
    assert not target.exists() and not (tmp_path / "x").exists()


def test_nothing_is_overwritten(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target, folder = tmp_path / "model.onnx", tmp_path / "there"
    target.write_text("mine")
    assert "is there already" in failed(capsys, "onnx", copy, "-o", target)
    folder.mkdir()
    (folder / "inference.yml").write_text("mine")
    words = ["convert", copy, "-o", folder, "--paddle", "3.3.1"]
    assert "has inference.yml already" in failed(capsys, *words)
    words = ["convert", copy, "-o", target, "--paddle", "3.3.1"]
    assert f"{target}" in failed(capsys, *words)
    assert target.read_text() == "mine" and len(list(folder.iterdir())) == 1
    said = failed(capsys, "onnx", copy, "-o", target / "model.onnx")
    assert "A folder is needed where a file is" in said


def test_sizes_that_a_model_does_not_take(
    exported: Exported, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    said = failed(capsys, "onnx", exported("det"), "-o", tmp_path / "model.onnx", "--size", "33x64")
    assert "does not take 1x3x33x64: " in said and "--size" in said
    assert not list(tmp_path.iterdir())


def test_packages_that_are_missing(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    find = importlib.util.find_spec
    for name in ("paddle2onnx", "onnx", "onnxruntime"):
        monkeypatch.setattr(
            importlib.util, "find_spec", lambda n, *a, out=name: None if n == out else find(n, *a)
        )
        said = failed(capsys, "onnx", copy, "-o", tmp_path / "model.onnx")
        assert f'not installed: {name}. pip install "ppocr-prune-plugin[onnx]"' in said
    assert not (tmp_path / "model.onnx").exists()


def test_a_conversion_that_differs_is_refused(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: Any
) -> None:
    """Here the converter is given the program with one weight changed."""
    run = onnx_file.to_onnx

    def wrong(prefix: Path, *others: Any) -> None:
        program = load_program(prefix)
        name = next(n for n, a in program.parameters.items() if a.ndim == 4)
        program.parameters[name] = 1.1 * program.parameters[name]
        program.save(tmp_path / "wrong")
        run(tmp_path / "wrong", *others)

    monkeypatch.setattr(onnx_file, "to_onnx", wrong)
    said = failed(capsys, "onnx", copy, "-o", tmp_path / "model.onnx")
    assert "ONNX Runtime gives another result than Paddle: output 0 differs by" in said
    assert not (tmp_path / "model.onnx").exists()


def test_what_the_converter_says(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It ends its process on what it cannot do."""
    said = failed(capsys, "onnx", copy, "-o", tmp_path / "model.onnx", "--opset", "25")
    assert "paddle2onnx cannot convert this model" in said and "between 7 and" in said


def test_characters_that_a_line_cannot_hold(
    copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Runtimes would read other characters than the model was trained with: better none."""
    settings = yaml.safe_load((copy / "inference.yml").read_text())
    settings["PostProcess"]["character_dict"] = ["a", "\u2028", "b"]
    settings["Global"] = {"model_name": "PP-OCRv4_mobile_rec"}
    (copy / "inference.yml").write_text(yaml.safe_dump(settings))
    target = tmp_path / "model.onnx"
    assert main(["onnx", str(copy), "-o", str(target)]) == 0
    assert "carries no characters" in capsys.readouterr().out
    found = {item.key: item.value for item in onnx.load(str(target)).metadata_props}
    assert found == {"model_name": "PP-OCRv4_mobile_rec"}


def test_retagging_leaves_other_models_alone(exported: Exported) -> None:
    program = load_program(exported("cls") / "inference")
    assert retag(program, wide=True) == retag(program, wide=False) == 0
