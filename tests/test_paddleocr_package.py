"""What export_model.py wrote of a pruned model, loaded by the package ``paddleocr``.

That package and PaddleOCR's training code do not share an environment: name the Python of one that
has it (docs/deployment.md says how to make it) in ``PADDLEOCR_PACKAGE_PYTHON``.
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

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not PYTHON, reason="PADDLEOCR_PACKAGE_PYTHON does not name a Python with paddleocr"
    ),
]

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]

# Prints the results for one image as JSON, on the last line.
_PREDICT = """
import json, sys
import paddleocr
kind, image, options = sys.argv[1:]
model = getattr(paddleocr, kind)(device="cpu", **json.loads(options))
print(json.dumps([result.json["res"] for result in model.predict(image)]))
"""


def predict(kind: str, image: Path, home: Path, **options: Any) -> dict[str, Any]:
    """The package's result, with an empty cache: nothing but ``model_dir`` can serve."""
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
        [PYTHON, "-c", _PREDICT, kind, str(image), json.dumps(options)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (result,) = json.loads(done.stdout.splitlines()[-1])
    return result


def prune(tools: Tools, folder: Path) -> None:
    """Prune a twentieth of every layer's filters and train for an epoch, into ``folder``."""
    log = tools.train(
        folder, f"Global.pretrained_model={tools.weights}", "Prune.ratio=0.05", "Prune.round_to=4"
    )
    assert right_after(log)


def export(tools: Tools, folder: Path, name: str) -> Path:
    """Export what :func:`prune` trained under the package's name for it; the model's folder."""
    done = tools(
        "export_model",
        f"Global.pretrained_model={folder / 'latest'}",
        f"Global.save_inference_dir={folder / 'inference'}",
        f"Global.model_name={name}",
        "Global.export_with_pir=True",
    )
    assert done.returncode == 0, output(done)
    return folder / "inference"


def infer(tools: Tools, tool: str, folder: Path, image: Path) -> str:
    """What PaddleOCR's tool logs of an image; what it saves is in ``predicts.txt``."""
    done = tools(
        tool,
        f"Global.pretrained_model={folder / 'latest'}",
        f"Global.infer_img={image}",
        f"Global.save_res_path={folder / 'predicts.txt'}",
    )
    assert done.returncode == 0, output(done)
    return output(done)


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


def test_the_package_reads_the_texts_that_infer_rec_reads(
    run_tool: RunTool, tree: Path, ctc_config: Path, ctc_weights: Path, lines: Path, tmp_path: Path
) -> None:
    # The exported model carries the transforms of the config, and the package knows this one alone.
    yaml = ctc_config.read_text(encoding="utf-8")
    assert "CTCLabelEncode: null" in yaml
    config = tmp_path / "rec.yml"
    encode = "MultiLabelEncode: {gtc_encode: NRTRLabelEncode}"
    config.write_text(yaml.replace("CTCLabelEncode: null", encode), encoding="utf-8")
    tools = Tools(run_tool, tree, ctc_config, ctc_weights)
    prune(tools, tmp_path)
    model = export(replace(tools, config=config), tmp_path, "PP-OCRv4_mobile_rec")
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
