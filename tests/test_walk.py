"""The README's five minutes, word by word, but for the names of the user's files."""

from __future__ import annotations

import re
import shlex
import sysconfig
from pathlib import Path

import yaml
from test_docs import ROOT, commands, inline, text
from tool_processes import RunTool

from demo.configs import write_config
from ppocr_prune_plugin.checkpoint import read_shapes

HOW = ["docs/how_it_works.md", "docs/how_it_works.zh.md"]


def run(run_tool: RunTool, line: str, tree: Path, cwd: Path, **files: Path) -> str:
    """Run a line of a page with the user's files named as they are here, and return its output."""
    words = shlex.split(line)
    if words[0] == "ppocr-prune":
        words = [str(Path(sysconfig.get_path("scripts"), words[0])), *words[1:]]
    else:
        words = [str(tree / words[1]), *words[2:]]
    words = [str(files["config"]) if word == "det.yml" else word for word in words]
    words = [re.sub(r"=(best|unpruned)$", f"={files.get('weights')}", word) for word in words]
    done = run_tool(words, cwd=cwd, env={"PADDLEOCR_ROOT": str(tree)})
    assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return str(done.stdout + done.stderr)


def test_five_minutes(
    run_tool: RunTool, tree: Path, det_config: Path, det_weights: Path, tmp_path: Path
) -> None:
    """The README's, and the folded export of the unpruned model that the guide compares with. The
    user's config asks for a short analysis."""
    config = yaml.safe_load(det_config.read_text(encoding="utf-8"))
    config["Prune"] = {"sensitivity": {"ratios": [0.5, 0.7], "samples": 2}}
    path = write_config(config, tmp_path / "det.yml")
    lines = [line for line in commands("README.md") if "det.yml" in line]
    assert [re.sub(r" .*", "", line.removeprefix("python tools/")) for line in lines] == [
        "ppocr-prune", "train.py", "eval.py", "export_model.py",
    ]  # fmt: skip
    lines += [line for line in commands("docs/deployment.md") if "--fold" in line]
    groups, analysis, evaluation, export, folded = (
        run(run_tool, line, tree, tmp_path, config=path, weights=det_weights) for line in lines
    )
    assert "prunable groups" in groups
    assert "without their labels" in analysis
    assert (tmp_path / "output/prune/report.html").is_file()
    narrow = read_shapes(tmp_path / "output/prune/untrained.pdparams")
    whole = read_shapes(Path(f"{det_weights}.pdparams"))
    assert sum(narrow[name] != whole[name] for name in narrow) > 30
    assert float(re.findall(r"hmean:\s*([\d.]+)", evaluation)[-1]) > 0.5
    assert (tmp_path / "inference/inference.pdiparams").is_file()
    assert "folded" in export and "folded" in folded
    assert (tmp_path / "inference/unpruned/inference.pdiparams").is_file()


def test_groups_print_what_the_page_shows(run_tool: RunTool, tree: Path) -> None:
    """The listing under “How it works”, line by line."""
    (command,) = {line for page in HOW for line in inline(page) if "cls_mv3" in line}
    said = run(run_tool, command, tree, ROOT)
    for page in HOW:
        (shown,) = re.findall(r"```text\n(.*?)```", text(page), re.S)
        for group in re.split(r"\n(?= *\d+\. )", shown.strip("\n")):
            assert group.count("\n") == 3 and group in said
