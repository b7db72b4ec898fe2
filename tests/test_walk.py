"""The README's five minutes, word by word, but for the names of the user's files."""

from __future__ import annotations

import re
import shlex
import sys
import sysconfig
from pathlib import Path

from test_docs import commands
from tool_processes import RunTool

from ppocr_prune_plugin.checkpoint import read_shapes


def test_five_minutes(
    run_tool: RunTool, tree: Path, det_config: Path, det_weights: Path, tmp_path: Path
) -> None:
    lines = [line for line in commands("README.md") if "det.yml" in line]
    assert [re.sub(r" .*", "", line.removeprefix("python tools/")) for line in lines] == [
        "ppocr-prune", "train.py", "eval.py", "export_model.py",
    ]  # fmt: skip
    said = {}
    for line in lines:
        words = shlex.split(line)
        if words[0] == "ppocr-prune":
            words = [str(Path(sysconfig.get_path("scripts"), words[0])), *words[1:]]
        else:
            words = [str(tree / words[1]), *words[2:]]
        words = [str(det_config) if word == "det.yml" else word for word in words]
        words = [
            word.replace("pretrained_model=best", f"pretrained_model={det_weights}")
            for word in words
        ]
        done = run_tool(words, cwd=tmp_path, env={"PADDLEOCR_ROOT": str(tree)})
        assert done.returncode == 0, f"{line}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        said[line.split()[1]] = done.stdout + done.stderr
    assert "prunable groups" in said["groups"]
    assert (tmp_path / "output/prune/report.html").is_file()
    narrow = read_shapes(tmp_path / "output/prune/untrained.pdparams")
    whole = read_shapes(Path(f"{det_weights}.pdparams"))
    assert sum(narrow[name] != whole[name] for name in narrow) > 30
    assert float(re.findall(r"hmean:\s*([\d.]+)", said["tools/eval.py"])[-1]) > 0.5
    assert (tmp_path / "inference/inference.pdiparams").is_file()
    assert sys.platform
