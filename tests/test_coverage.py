"""The sweep over PaddleOCR's architectures: its table of models, one row of it, its page."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "docs" / "coverage.md"]


def configs() -> dict[str, object]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        from coverage_table import CONFIGS
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return dict(CONFIGS)


def test_the_sweep_prunes_trains_saves_loads_and_exports(tree: Path, tmp_path: Path) -> None:
    """One model that goes all the way, and one that PaddleOCR cannot run."""
    page = tmp_path / "coverage.md"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "coverage.py", "--out", page]
        + ["--rows", "cls_angle_mv3,rec_vit_parseq", "--results", tmp_path / "rows.json"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = dict(re.findall(r"^\| (\w+) \| ([\w ]+) \|", page.read_text(), re.MULTILINE))
    assert rows == {"architecture": "status"} | {
        "cls_angle_mv3": "pruned",
        "rec_vit_parseq": "does not run",
    }
    (line,) = [line for line in page.read_text().splitlines() if "cls_angle_mv3 |" in line]
    shares = [int(share) for share in re.findall(r"\b(\d+)%", line)]
    assert shares[0] > 95 and 30 < shares[2] < 60 < shares[3] < 90, line


def test_the_table_has_every_head_and_type_of_model(tree: Path) -> None:
    """All that the tree's own code says it can build."""
    sections = [config["Architecture"] for config in configs().values()]  # type: ignore[index]
    parts = [part for s in sections for part in s.get("Models", {"": s}).values()]
    modeling = tree / "ppocr" / "modeling"
    heads = {
        name.value
        for node in ast.walk(ast.parse((modeling / "heads" / "__init__.py").read_text()))
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "support_dict"
        for name in node.value.elts  # type: ignore[attr-defined]
    }
    types = {
        node.comparators[0].value  # type: ignore[attr-defined]
        for node in ast.walk(ast.parse((modeling / "backbones" / "__init__.py").read_text()))
        if isinstance(node, ast.Compare) and ast.unparse(node.left) == "model_type"
    }
    assert {"DBHead", "CTCHead"} <= heads and {"det", "rec"} <= types, "the tree is read wrongly"
    assert heads <= {(part.get("Head") or {}).get("name") for part in parts}
    assert types <= {section["model_type"] for section in sections}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_the_page_is_of_this_table(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    rows = re.findall(r"^\| (\w+) \| (\*{0,2}[\w ]+\*{0,2}) \|", text, re.MULTILINE)
    rows = [row for row in rows if row[0] != "architecture"]
    assert [name for name, _ in rows] == sorted(
        (name for name, _ in rows), key=list(configs()).index
    )
    assert {name for name, _ in rows} == set(configs())
    pruned = sum(status in ("pruned", "in part") for _, status in rows)
    assert f"{len(rows)} architectures: {pruned} pruned" in text
    failed = sum("failed" in status for _, status in rows)
    assert f"{failed} failed." in text
    assert not re.search(r"/(tmp|home|root|usr)/", text)
