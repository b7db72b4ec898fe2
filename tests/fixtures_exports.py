"""Exports of PP-OCRv4's models with their published weights, by PaddleOCR's own tool."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path

import paddle
import pytest
from made_once import made_once
from tool_processes import RunTool

from demo.weights import Kind, recovered_model

CONFIGS = Path(__file__).resolve().parent.parent / "configs"
_FILES: dict[Kind, str] = {
    "det": "det/ppocrv4_mobile_det_prune.yml",
    "rec": "rec/ppocrv4_mobile_rec_prune.yml",
    "cls": "cls/cls_mv3_prune.yml",
}


@pytest.fixture(scope="session")
def exported(
    run_tool: RunTool, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[Kind], Path]:
    """``exported("rec")``: the folder that export_model.py wrote, unpruned and not folded. Tests
    leave it as it is."""

    def write(kind: Kind, root: Path) -> None:
        weights = root / f"{kind}.pdparams"
        paddle.save(recovered_model(kind, [], calibrated=False).state_dict(), str(weights))
        options = [f"Global.pretrained_model={weights}", f"Global.save_inference_dir={root / kind}"]
        if kind != "cls":
            options.append("Architecture.Backbone.conv_kxk_num=1")
        if kind == "rec":
            characters = tree / "ppocr" / "utils" / "ppocr_keys_v1.txt"
            options.append(f"Global.character_dict_path={characters}")
        done = run_tool(
            [
                *[tree / "tools" / "export_model.py", "-c", CONFIGS / _FILES[kind], "-o"],
                *["Global.use_gpu=false", "Global.export_with_pir=true", "Prune.enable=false"],
                *options,
            ]
        )
        assert done.returncode == 0, done.stdout + done.stderr

    def export(kind: Kind) -> Path:
        return made_once(tmp_path_factory, f"export-{kind}", partial(write, kind)) / kind

    return lru_cache(maxsize=None)(export)
