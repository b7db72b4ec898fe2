"""The sweeps: over PaddleOCR's architectures (its table, one row, its page), and over configs."""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE, ROWS = ROOT / "docs" / "coverage.md", ROOT / "benchmarks" / "coverage.json"


def benchmark(name: str) -> Any:
    """A module of ``benchmarks/``; not by its name, which a package of the environment may have."""
    spec = importlib.util.spec_from_file_location(
        f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py"
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(ROOT / "benchmarks"))
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(ROOT / "benchmarks"))
    return module


def test_the_sweep_prunes_trains_saves_loads_and_exports(tree: Path, tmp_path: Path) -> None:
    """One model that goes all the way, and one that PaddleOCR cannot run."""
    page = tmp_path / "coverage.md"
    done = subprocess.run(
        [sys.executable, ROOT / "benchmarks" / "coverage.py", "--tree", tree, "--out", page]
        + [
            "--label",
            "this one",
            "--rows",
            "cls_angle_mv3,rec_vit_parseq",
            "--results",
            tmp_path / "rows.json",
        ],
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
    assert "| this one, 3." in line


def test_rows_of_a_tree_are_read_from_its_own_configs(tmp_path: Path) -> None:
    """With few characters and small images, whatever the config says."""
    table = benchmark("coverage_table")
    name = "rec_ppocrv6_small"
    assert table.names_of(tmp_path) == list(table.CONFIGS)
    file = tmp_path / table.STOCK[name]
    file.parent.mkdir(parents=True)
    heads = [{"CTCHead": {"Head": {"fc_decay": 0.1}}}, {"NRTRHead": {"nrtr_dim": 384}}]
    architecture = {
        "model_type": "rec", "algorithm": "SVTR_LCNet", "Backbone": {"name": "PPLCNetV4"},
        "Head": {"name": "MultiHead", "head_list": heads},
    }  # fmt: skip
    keys = [{"KeepKeys": {"keep_keys": ["image", "label_ctc"]}}]
    whole = {
        "Global": {"max_text_length": 25, "character_dict_path": "none.txt", "use_ema": True},
        "Architecture": architecture,
        "PostProcess": {"name": "CTCLabelDecode"},
        "Train": {"dataset": {"transforms": keys}},
        "Eval": {"dataset": {"transforms": [{"RecResizeImg": {"image_shape": [3, 48, 320]}}]}},
    }
    file.write_text(json.dumps(whole))  # which is YAML
    assert table.names_of(tmp_path) == [*table.CONFIGS, name]
    config = table.config_of(name, tmp_path)
    assert config["Global"] == {"max_text_length": 25}
    sizes = config["Architecture"]["Head"].pop("out_channels_list")
    assert sizes["CTCLabelDecode"] == 97 and sizes["NRTRLabelDecode"] == 100
    assert {**whole, "Global": config["Global"]} == config
    del architecture["Head"]
    whole["Architecture"] = {**architecture, "model_type": "det"}
    file.write_text(json.dumps(whole))
    assert table.config_of(name, tmp_path)["Global"]["d2s_train_image_shape"] == [3, 192, 192]


def test_the_table_has_every_head_and_type_of_model(tree: Path) -> None:
    """All that the tree's own code says it can build."""
    configs = benchmark("coverage_table").CONFIGS
    sections = [config["Architecture"] for config in configs.values()]
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


def test_the_page_is_of_these_rows() -> None:
    """Every architecture of the table was run, and newer ones on trees that have them."""
    text = PAGE.read_text(encoding="utf-8")
    rows = json.loads(ROWS.read_text(encoding="utf-8"))
    assert text == benchmark("coverage").table(rows)
    table = benchmark("coverage_table")
    known = [*table.CONFIGS, *table.STOCK]
    assert list(rows) == [name for name in known if name in rows]
    assert set(table.CONFIGS) <= set(rows)
    assert {name for name in table.STOCK if "v5" in name or "orientation" in name} <= set(rows)
    shown = re.findall(r"^\| (\w+) \| (\*{0,2}[\w ]+\*{0,2}) \|", text, re.MULTILINE)
    pruned = sum(status in ("pruned", "in part") for _, status in shown)
    assert f"{len(rows)} architectures: {pruned} pruned" in text
    failed = sum("failed" in status for _, status in shown)
    assert f"{failed} failed." in text
    assert not re.search(r"/(tmp|home|root|usr)/", text)


def test_the_sweep_over_stock_configs(tree: Path, tmp_path: Path) -> None:
    """What runs, what is refused and why; a second run goes on after the first."""
    own, results, page = tmp_path / "tree", tmp_path / "rows.json", tmp_path / "page.md"
    (own / "configs" / "rec").mkdir(parents=True)
    for part in ("tools", "ppocr"):
        (own / part).symlink_to(tree / part)
    backbone = {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"}
    classifier = {"model_type": "cls", "algorithm": "CLS", "Transform": None, "Neck": None}
    classifier |= {"Backbone": backbone, "Head": {"name": "ClsHead", "class_dim": 2}}
    ok = {"Global": {}, "Architecture": classifier}
    (own / "configs" / "cls.yml").write_text(json.dumps(ok))
    missing = {"name": "CTCLabelDecode", "character_dict_path": "none.txt"}
    (own / "configs" / "rec" / "crnn.yaml").write_text(json.dumps({**ok, "PostProcess": missing}))

    def run(*options: str) -> str:
        command = [sys.executable, ROOT / "benchmarks" / "stock_configs.py", "--tree", own]
        command += ["--results", results, "--out", page, *options]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr[-3000:]
        assert page.read_text() == done.stdout
        return done.stdout

    said = run("--jobs", "2")
    assert "2 configs, 1 ok, 1 refused, 0 failed" in said
    assert re.search(
        r"^\| cls\.yml \| ok \| [\d.]+ \| 26 prunable groups, 16\.32M FLOPs", said, re.M
    )
    assert re.search(
        r"^\| rec/crnn\.yaml \| refused \| [\d.]+ \| cannot read PostProcess\.character_dict_path: "
        r"none\.txt\.",
        said,
        re.M,
    )
    earlier = results.read_text().replace("16.32M", "16.33M")
    results.write_text(earlier)
    assert "16.33M" in run("--configs", "cls*") and results.read_text() == earlier

    judged = benchmark("stock_configs")._judged
    assert judged(1, "", "Traceback:\nKeyError: 'x'\n") == ("failed", "exit code 1: KeyError: 'x'")
    assert judged(2, "", "usage: ppocr-prune\n")[0] == "failed"
    assert judged(0, "Total: nothing\n", "")[0] == "failed"
