"""The page of trees and Paddles: what a run's report says is what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"

# As test_tools_tree.py reports: everything well, a fault of ours, one of PaddleOCR's, nothing.
TESTS = """
import pytest


OUTCOMES = {
    "cls-train": None,
    "cls-eval": "eval.py: exit 1: KeyError: 'a|b' in /home/me/tree/x.py",
    "newest-rec-train": "unpruned as well: train.py: exit 1: AttributeError: np.int",
    "newest-rec-eval": "unpruned as well: train failed",
    "ema-train": "skip",
}

@pytest.mark.parametrize("name", OUTCOMES)
def test_stage(name, record_property):
    record_property("config", "PP-OCRv9_rec")
    message = OUTCOMES[name]
    if message == "skip":
        pytest.skip("this tree has none")
    if message:
        pytest.fail(message, pytrace=False)
"""


@pytest.fixture(scope="module")
def compatibility() -> ModuleType:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        import compatibility
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return compatibility


def test_a_report_becomes_a_row(compatibility: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "test_rows.py").write_text(TESTS)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_rows.py"]
    report = tmp_path / "report.xml"
    subprocess.run([*command, f"--junitxml={report}"], cwd=tmp_path, capture_output=True)
    outcomes = compatibility.read_report(report.read_text())
    assert outcomes == {
        "cls": {
            "train": ["ok", ""],
            "eval": ["failed", "eval.py: exit 1: KeyError: 'a|b' in /home/me/tree/x.py"],
        },
        "PP-OCRv9_rec": {
            "train": ["unpruned", "train.py: exit 1: AttributeError: np.int"],
            "eval": ["unpruned", "train failed"],
        },
        "ema": {"train": ["skipped", "this tree has none"]},
    }
    versions = {"python": "3.11.7", "numpy": "1.26.4", "paddlepaddle": "3.2.2"}
    for stage in ("infer", "export", "resume"):
        outcomes["cls"][stage] = outcomes["PP-OCRv9_rec"][stage] = ["ok", ""]
    rows = [
        {"tree": tree, "versions": {**versions, "paddlepaddle": paddle}, "outcomes": outcomes}
        for tree, paddle in (("2.6", "3.10.0"), ("main", "3.2.2"), ("2.6", "3.2.2"))
    ]
    page = compatibility.page(rows)
    assert re.findall(r"^\| ([\w.]+) \| ([\d.]+) \|", page, re.M) == [
        ("2.6", "3.2.2"),
        ("2.6", "3.10.0"),
        ("main", "3.2.2"),
    ]
    assert (
        "| 2.6 | 3.2.2 | unpruned too: PP-OCRv9_rec | **fails**: cls; unpruned too: PP-OCRv9_rec |"
        " ok | ok | ok | cls, PP-OCRv9_rec | Python 3.11.7, NumPy 1.26.4 |" in page
    )
    assert "- 2.6, Paddle 3.2.2, **only pruned**: cls eval: `eval.py: exit 1: KeyError" in page
    assert "PP-OCRv9_rec train: `train.py: exit 1: AttributeError: np.int`" in page
    assert "train failed" not in page and "/home" not in page


def test_the_page_has_every_tree_and_every_paddle() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = re.findall(r"^\| ([\w.][^|]*) \| (\d+\.\d+)\.\d+ \|", text, re.M)
    trees = list(dict.fromkeys(tree for tree, _ in rows))
    names = [tree.partition(" ")[0] for tree in trees]
    assert names == ["2.6", "2.7", "2.8", "2.10", "3.0", "main", "main"]
    assert rows == [(tree, paddle) for tree in trees for paddle in ("3.0", "3.2", "3.3")]
    assert "**fails**" not in text
    assert not re.search(r"/(tmp|home|root|usr|work)/", text)
