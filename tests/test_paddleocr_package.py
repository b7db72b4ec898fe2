"""What export_model.py wrote of a pruned model, read by the package ``paddleocr`` and RapidOCR.

These packages and PaddleOCR's training code do not share an environment: name the Python of one
that has the first (docs/deployment.md says how to make it) in ``PADDLEOCR_PACKAGE_PYTHON``, and of
one with ``rapidocr``, ``onnxruntime`` and its models in ``RAPIDOCR_PYTHON``.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training import Tools, output, right_after

PYTHON = os.environ.get("PADDLEOCR_PACKAGE_PYTHON", "")
RAPIDOCR = os.environ.get("RAPIDOCR_PYTHON", "")

pytestmark = pytest.mark.slow
needs_package = pytest.mark.skipif(
    not PYTHON, reason="PADDLEOCR_PACKAGE_PYTHON does not name a Python with paddleocr"
)

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]

# Prints the results for one image as JSON, on the last line.
_PREDICT = """
import json, sys
import paddleocr
kind, image, options = sys.argv[1:]
model = getattr(paddleocr, kind)(device="cpu", **json.loads(options))
print(json.dumps([result.json["res"] for result in model.predict(image)]))
"""


# Prints the text of the image of one line.
_READ = """
import json, sys
from rapidocr import RapidOCR
model, image = sys.argv[1:]
off = {f"Global.use_{part}": False for part in ("det", "cls")}
reader = RapidOCR(params={"Rec.model_path": model, "Global.text_score": 0.0, **off})
print(json.dumps(list(reader(image).txts)))
"""


def alone(python: str, source: str, home: Path, *words: object) -> Any:
    """What a program prints on its last line, as JSON, in an environment of its own."""
    environment = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith(("PYTHON", "PADDLE_PDX", "PADDLEOCR"))
    }
    environment.update(
        HOME=str(home),
        PADDLE_PDX_CACHE_HOME=str(home),
        PADDLE_PDX_DISABLE_MODEL_SOURCE_CHECK="True",
    )
    done = subprocess.run(
        [python, "-c", source, *map(str, words)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def predict(kind: str, image: Path, home: Path, **options: Any) -> dict[str, Any]:
    """The package's result, with an empty cache: nothing but ``model_dir`` can serve."""
    (result,) = alone(PYTHON, _PREDICT, home, kind, image, json.dumps(options))
    return result


def prune(tools: Tools, folder: Path) -> None:
    """Prune a twentieth of every layer's filters and train for an epoch, into ``folder``."""
    log = tools.train(
        folder, f"Global.pretrained_model={tools.weights}", "Prune.ratio=0.05", "Prune.round_to=4"
    )
    assert right_after(log)


def export(tools: Tools, folder: Path, name: str, weights: str = "latest") -> Path:
    """Export weights in ``folder`` under the package's name for the model; the export's folder."""
    done = tools(
        "export_model",
        f"Global.pretrained_model={folder / weights}",
        f"Global.save_inference_dir={folder / 'inference'}",
        f"Global.model_name={name}",
        "Global.export_with_pir=True",
    )
    assert done.returncode == 0, output(done)
    return folder / "inference"


def infer(tools: Tools, tool: str, folder: Path, image: Path, weights: str = "latest") -> str:
    """What PaddleOCR's tool logs of an image; what it saves is in ``predicts.txt``."""
    done = tools(
        tool,
        f"Global.pretrained_model={folder / weights}",
        f"Global.infer_img={image}",
        f"Global.save_res_path={folder / 'predicts.txt'}",
    )
    assert done.returncode == 0, output(done)
    return output(done)


@needs_package
def test_the_package_finds_the_boxes_that_infer_det_finds(
    det_tools: Tools, rendered: Path, tmp_path: Path
) -> None:
    prune(det_tools, tmp_path)
    model = export(det_tools, tmp_path, "PP-OCRv4_mobile_det")
    image = rendered / "val" / "0000.jpg"
    infer(det_tools, "infer_det", tmp_path, image)
    row = (tmp_path / "predicts.txt").read_text(encoding="utf-8")
    wanted = np.array([box["points"] for box in json.loads(row.split("\t")[1])], float)
    assert len(wanted) > 3

    found = predict(
        "TextDetection",
        image,
        tmp_path,
        model_name="PP-OCRv4_mobile_det",
        model_dir=str(model),
        # The package resizes by its own rule unless told.
        limit_side_len=480,
        limit_type="max",
    )
    boxes = np.array(found["dt_polys"], float)
    assert len(boxes) == len(wanted)
    for box in wanted:
        # Two engines and two roundings: a pixel of the map is one to three of the image.
        assert np.abs(boxes - box).max(axis=(1, 2)).min() <= 3, box


def exporting(tools: Tools, folder: Path) -> Tools:
    """The same tools with a config whose export the package reads: this carries the config's
    transforms, of which the package knows one encoder of labels alone."""
    yaml = tools.config.read_text(encoding="utf-8")
    assert "CTCLabelEncode: null" in yaml
    config = folder / "rec.yml"
    encode = "MultiLabelEncode: {gtc_encode: NRTRLabelEncode}"
    config.write_text(yaml.replace("CTCLabelEncode: null", encode), encoding="utf-8")
    return replace(tools, config=config)


@needs_package
def test_the_package_reads_the_texts_that_infer_rec_reads(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, lines: Path, tmp_path: Path
) -> None:
    tools = Tools(run_tool, tree, ctc_config, ctc_weights)
    prune(tools, tmp_path)
    model = export(exporting(tools, tmp_path), tmp_path, "PP-OCRv4_mobile_rec")
    read = 0
    for image in sorted(lines.glob("rec_val_*.png"))[:2]:
        log = infer(tools, "infer_rec", tmp_path, image)
        text, score = re.findall(r"result: ?(.*)\t([\d.]+)", log)[-1]
        found = predict(
            "TextRecognition",
            image,
            tmp_path,
            model_name="PP-OCRv4_mobile_rec",
            model_dir=str(model),
        )
        assert found["rec_text"] == text
        assert found["rec_score"] == pytest.approx(float(score), abs=0.1)
        read += len(text)
    assert read > 3, "a network that reads nothing agrees with anything"


@pytest.fixture(scope="module")
def cut(
    run_tool: RunTool,
    tree: Path,
    ctc_config: Path,
    ctc_weights: Path,
    lines: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Path, str]:
    """A recogniser that keeps the characters of its labels: its export, an image, and what
    infer_rec reads in it."""
    tools, folder = Tools(run_tool, tree, ctc_config, ctc_weights), tmp_path_factory.mktemp("cut")
    tools.train(
        folder, f"Global.pretrained_model={ctc_weights}", "Prune.characters=auto",
        "Prune.dry_run=true",
    )  # fmt: skip
    weights = "prune/untrained"
    model = export(exporting(tools, folder), folder, "PP-OCRv4_mobile_rec", weights)
    assert len((folder / "prune" / "dict.txt").read_text(encoding="utf-8").splitlines()) < 40
    image = lines / "rec_val_0.png"
    (text,) = re.findall(r"result: ?(.*)\t", infer(tools, "infer_rec", folder, image, weights))
    assert len(text) > 3
    return model, image, text


@needs_package
def test_the_package_reads_with_the_characters_that_are_left(
    cut: tuple[Path, Path, str], tmp_path: Path
) -> None:
    model, image, text = cut
    options = {"model_name": "PP-OCRv4_mobile_rec", "model_dir": str(model)}
    assert predict("TextRecognition", image, tmp_path, **options)["rec_text"] == text


@pytest.mark.skipif(not RAPIDOCR, reason="RAPIDOCR_PYTHON does not name a Python with rapidocr")
def test_rapidocr_reads_with_the_characters_that_are_left(
    cut: tuple[Path, Path, str], run_tool: RunTool, tmp_path: Path
) -> None:
    pytest.importorskip("paddle2onnx")
    model, image, text = cut
    file = tmp_path / "rec.onnx"
    done = run_tool(["-m", "ppocr_prune_plugin.cli", "onnx", model, "-o", file])
    assert done.returncode == 0, output(done)
    assert alone(RAPIDOCR, _READ, tmp_path, file, image) == [text]
