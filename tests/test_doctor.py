"""``ppocr-prune doctor`` on good and bad set-ups."""

from __future__ import annotations

import shutil
import sysconfig
from pathlib import Path

from conftest import RunTool

# The console script: unlike -m it leaves the working directory out of sys.path.
DOCTOR = [Path(sysconfig.get_path("scripts"), "ppocr-prune"), "doctor"]


def test_all_is_well(run_tool: RunTool, tree: Path) -> None:
    result = run_tool([*DOCTOR, "--tree", tree])
    assert result.returncode == 0, result.stdout
    assert "FAIL" not in result.stdout
    for point in ("tools.program.train", "ppocr.utils.save_load.load_model", "build_model"):
        assert f"{point}\n" in result.stdout
    assert f" at {tree}" in result.stdout


def test_missing_hook_points_are_named(run_tool: RunTool, tree: Path, tmp_path: Path) -> None:
    shutil.copytree(tree / "tools", tmp_path / "tools")
    (tmp_path / "ppocr" / "utils").mkdir(parents=True)
    save_load = (tree / "ppocr" / "utils" / "save_load.py").read_text()
    assert "def load_model(" in save_load
    (tmp_path / "ppocr" / "utils" / "save_load.py").write_text(
        save_load.replace("def load_model(", "def load_weights(")
    )
    result = run_tool([*DOCTOR, "--tree", tmp_path])
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if "FAIL" in line]
    assert len(failed) == 2  # the renamed one, and the file of build_model that was not copied
    assert "ppocr.utils.save_load.load_model is not in ppocr/utils/save_load.py" in failed[0]
    assert "ppocr.modeling.architectures.build_model" in failed[1]


def test_no_tree_and_switched_off(run_tool: RunTool, tmp_path: Path) -> None:
    result = run_tool(DOCTOR, tmp_path, {"PADDLEOCR_ROOT": str(tmp_path), "PPOCR_PRUNE": "0"})
    assert result.returncode == 1
    assert "PPOCR_PRUNE=0 in this shell" in result.stdout
    assert f"PADDLEOCR_ROOT is {tmp_path}, which is not a PaddleOCR source tree" in result.stdout
    assert "is hooked" in result.stdout  # installed all the same: two separate findings


def test_a_tree_is_found_from_inside_it(run_tool: RunTool, tree: Path) -> None:
    result = run_tool(DOCTOR, tree / "ppocr" / "utils")
    assert result.returncode == 0, result.stdout
    assert f" at {tree}" in result.stdout
