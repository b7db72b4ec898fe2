"""Benchmarks in small, by the commands that the pages show: that they run, and what they print.

What they measure takes minutes to hours; the others are only looked at for their options
(test_docs.py).
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from tool_processes import RunTool

ROOT = Path(__file__).parent.parent
_RUN = """
import runpy, sys
sys.path[:0] = [{folder!r}, {root!r}]
sys.argv = [{script!r}, *sys.argv[1:]]
runpy.run_path({script!r}, run_name="__main__")
"""


def benchmark(run_tool: RunTool, name: str, *words: object, cwd: Path) -> tuple[int, str, str]:
    """Exit code and output of ``python benchmarks/NAME``."""
    folder = ROOT / "benchmarks"
    program = _RUN.format(folder=str(folder), root=str(ROOT), script=str(folder / name))
    done = run_tool(["-c", program, *map(str, words)], cwd=cwd, fresh=False)
    return done.returncode, done.stdout, done.stderr


def test_the_page_of_accuracy(run_tool: RunTool, tmp_path: Path) -> None:
    """It keeps its words; tables and plots are those of the cells."""
    cells = {}
    for kind, share, acc in (("cls", 0.0, 0.95), ("cls", 0.4, 0.9), ("rec", 0.0, 0.5)):
        cells[f"{kind} {share}"] = {
            "kind": kind, "share": share, "choice": "sensitivity" if share else "",
            "cure": "compensation" if share else "", "train": "none", "criterion": "obs",
            "by": "output", "draw": 0, "epochs": 0, "rate": 0.0, "start": "released",
            "flops": share, "acc": acc,
        }  # fmt: skip
    (tmp_path / "results.json").write_text(json.dumps(cells))
    page = tmp_path / "page.md"
    page.write_text("words\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nmore words\n")
    words = ("--work", tmp_path, "--only", "page", "--page", page)
    code, _, errors = benchmark(run_tool, "accuracy.py", *words, cwd=tmp_path)
    assert code == 0, errors
    text = page.read_text()
    assert text.startswith("words\n") and text.endswith("more words\n") and "old" not in text
    assert "| sensitivity, compensated | 40.0% | 0.9 |" in text
    assert "| **unpruned** | 0.0% | 0.5 |" in text
    plot = (tmp_path / "images" / "accuracy_cls_flops.svg").read_text()
    assert "sensitivity, compensated: 0.9000" in plot


def test_compensation_brings_every_group_nearer(
    run_tool: RunTool, cls_weights: Path, lines: Path, tmp_path: Path
) -> None:
    shutil.copy(f"{cls_weights}.pdparams", tmp_path / "ppocr_mobile_cls.pdparams")
    images = [line for line in (lines / "cls_train.txt").read_text().splitlines() if line]
    (tmp_path / "train.txt").write_text("".join(f"{lines / line}\n" for line in images))
    words = ("--weights", tmp_path, "--data", tmp_path, "--lines", tmp_path, "--images", 8)
    code, out, errors = benchmark(
        run_tool, "compensation.py", *words, "--models", "ppocr_mobile_cls", cwd=tmp_path
    )
    found = re.search(r"ppocr_mobile_cls +(\d+) +(\d+) +(\S+) +(\S+)", out)
    assert found, out + errors
    groups, nearer, cut, compensated = map(float, found.groups())
    assert groups > 10 and nearer > 0.8 * groups and compensated < cut
    assert code == (nearer < groups)
