"""The start-up file: hooks PaddleOCR's tools, costs and disturbs nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import RunTool

PROJECT = Path(__file__).parent.parent
LINE = (PROJECT / "startup" / "ppocr_prune_plugin.pth").read_text()
# A script that tells how often our finder is installed.
REPORT = """\
import sys
print(sum(type(f).__module__ == "ppocr_prune_plugin.hooks.finder" for f in sys.meta_path))
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Folders as in a PaddleOCR tree, every script the reporting one."""
    for name in ("tools/train.py", "tools/eval.py", "tools/export_model.py", "tools/infer_det.py",
                 "tools/test_hubserving.py", "train.py", "other/tools/train.py"):  # fmt: skip
        script = tmp_path / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(REPORT)
    (tmp_path / "tools" / "program.py").touch()
    (tmp_path / "ppocr").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("arguments", "folder", "finders"),
    [
        (["tools/train.py"], ".", "1"),
        (["tools/eval.py"], ".", "1"),
        (["tools/export_model.py"], ".", "1"),
        (["tools/infer_det.py"], ".", "1"),
        (["train.py"], "tools", "1"),
        (["../tools/train.py"], "ppocr", "1"),
        (["-I", "tools/train.py"], ".", "1"),
        (["-m", "tools.train"], ".", "1"),
        (["-um", "tools.eval"], ".", "1"),
        (["-m", "other.tools.train"], ".", "0"),
        (["tools/test_hubserving.py"], ".", "0"),
        (["train.py"], ".", "0"),
        (["other/tools/train.py"], ".", "0"),
        (["-S", "tools/train.py"], ".", "0"),
    ],
)
def test_which_processes_are_hooked(
    run_tool: RunTool, layout: Path, arguments: list[str], folder: str, finders: str
) -> None:
    result = run_tool(arguments, cwd=layout / folder)
    assert (result.stdout.strip(), result.stderr) == (finders, "")


def test_switched_off_by_the_environment(run_tool: RunTool, layout: Path) -> None:
    assert run_tool(["tools/train.py"], layout, {"PPOCR_PRUNE": "0"}).stdout.strip() == "0"
    refused = run_tool(
        ["-m", "ppocr_prune_plugin.cli", "run", "tools/train.py"], layout, {"PPOCR_PRUNE": "0"}
    )
    assert refused.returncode == 2
    assert "PPOCR_PRUNE" in refused.stderr


def test_run_hooks_without_start_up_files(run_tool: RunTool, layout: Path) -> None:
    site_packages = os.pathsep.join(path for path in sys.path if path)
    (layout / "tools" / "train.py").write_text(
        REPORT + "print(__name__, sys.argv, sys.path[0] == sys.argv[1])\nsys.exit(7)\n"
    )
    result = run_tool(
        ["-S", "-m", "ppocr_prune_plugin.cli", "run", "tools/train.py", layout / "tools", "--help"],
        layout,
        {"PYTHONPATH": site_packages},
    )
    arguments = ["tools/train.py", str(layout / "tools"), "--help"]
    assert result.stdout.split("\n")[:2] == ["1", f"__main__ {arguments} True"], result.stderr
    assert result.returncode == 7


def test_start_up_imports_only_the_standard_library(run_tool: RunTool, layout: Path) -> None:
    (layout / "tools" / "train.py").write_text(
        "import sys\nprint(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    imported = set(run_tool(["tools/train.py"], layout).stdout.split())
    plain = set(run_tool(["-c", "import sys; print(*sys.modules)"]).stdout.split())
    assert "ppocr_prune_plugin" in imported
    assert imported - plain - set(sys.stdlib_module_names) == {"ppocr_prune_plugin"}


def test_other_programs_import_nothing_of_ours(run_tool: RunTool) -> None:
    result = run_tool(["-c", "import sys; print([m for m in sys.modules if 'prune' in m])"])
    assert result.stdout.strip() == "[]"


def test_the_line_costs_other_programs_less_than_a_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/some_program.py"])
    times = []
    for _ in range(20):
        start = time.perf_counter()
        exec(LINE)
        times.append(time.perf_counter() - start)
    assert min(times) < 1e-3


@pytest.mark.parametrize("argv", ["[]", "['']", "['train.py']", "['-c']"])
def test_the_line_never_raises_or_prints(argv: str) -> None:
    # -S -I: the package cannot be imported, as after half an uninstallation.
    code = f"import sys; sys.argv = {argv}; exec({LINE!r})"
    result = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, cwd="/"
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_line_is_one_line_and_twice_is_as_once(run_tool: RunTool, layout: Path) -> None:
    assert LINE.count("\n") == 1 and LINE.startswith("import ")  # what `site` executes
    (layout / "tools" / "train.py").write_text(f"exec({LINE!r})\nexec({LINE!r})\n{REPORT}")
    assert run_tool(["tools/train.py"], layout).stdout.strip() == "1"


def test_the_start_file_names_what_the_line_calls() -> None:
    entry = (PROJECT / "startup" / "ppocr_prune_plugin.start").read_text().strip()
    module, _, function = entry.partition(":")
    assert f"from {module} import {function}" in LINE
    assert callable(getattr(__import__(module, fromlist=[function]), function))


FINDER_SCRIPT = """\
import sys
sys.path.insert(0, {folder!r})
from ppocr_prune_plugin.hooks import finder
from ppocr_prune_plugin.hooks.points import Point
finder.install([Point("victim", "value", patch=f"hook:{{name}}") for name in ("patch", "broken")])
import inspect, victim
from victim import value
print(value, type(victim.__loader__).__name__, victim.__spec__.loader is victim.__loader__)
print("value = 1" in inspect.getsource(victim), [name for name, _ in finder.failures])
"""


@pytest.mark.parametrize(
    ("options", "code"),
    [
        ([], 0),
        (["-c", "stock.yml"], 0),
        (["-c", "disabled.yml"], 0),
        (["-c", "stock.yml", "-o", "Prune.ratio=0.3"], 2),
        (["-c", "pruned.yml", "-o", "Global.use_gpu=false"], 2),
        (["-c", "pruned.yml", "-o", "Prune.enable=false"], 0),
        (["-c", "tagged.yml"], 2),
    ],
)
def test_a_failing_hook_stops_only_runs_that_prune(
    run_tool: RunTool, tmp_path: Path, options: list[str], code: int
) -> None:
    (tmp_path / "victim.py").write_text("value = 1\n")
    (tmp_path / "hook.py").write_text(
        "def patch(module):\n    module.value += 1\n\ndef broken(module):\n    module.missing()\n"
    )
    (tmp_path / "stock.yml").write_text("Global: {use_gpu: false}\n")
    (tmp_path / "disabled.yml").write_text("Prune: {enable: false}\n")
    (tmp_path / "pruned.yml").write_text("Prune:\n  ratio: 0.3\n")
    (tmp_path / "tagged.yml").write_text("Global: !!python/tuple [1]\nPrune:\n  ratio: 0.3\n")
    script = tmp_path / "script.py"
    script.write_text(FINDER_SCRIPT.format(folder=str(tmp_path)))
    result = run_tool([script, *options], tmp_path)
    assert result.returncode == code, result.stderr
    if code == 0:
        assert result.stdout.split("\n")[:2] == [
            "2 SourceFileLoader True",
            "True ['hook:broken']",
        ]
        assert result.stderr == ""
    else:
        assert result.stderr.count("ppocr-prune: error:") == 1
        assert "hook:broken (AttributeError:" in result.stderr


UNFIT = """\
import logging, sys
sys.path.insert(0, {folder!r})
logging.basicConfig(level=logging.DEBUG, format="%(levelname)s %(name)s %(message)s")
from ppocr_prune_plugin.hooks import finder
from ppocr_prune_plugin.hooks.points import Point
finder.install([
    Point("victim", "load", "model path", patch="hook:patch"),
    Point("victim", "save", patch="hook:patch"),
])
import victim
print(victim.save(1), victim.load("net", "plain"), victim.load.__name__)
victim.load("net", {{"Global": {{"checkpoints": sys.argv[1]}}}})
print("loaded")
"""


def test_functions_of_another_signature_are_left_alone_until_it_matters(
    run_tool: RunTool, tmp_path: Path
) -> None:
    """Neither is wrapped, and a call that names pruned weights is an error."""
    (tmp_path / "victim.py").write_text(
        "def load(net, path):\n    return net\n\ndef save(model):\n    return model\n"
    )
    (tmp_path / "hook.py").write_text("raise SystemExit('imported although it does not fit')\n")
    (tmp_path / "script.py").write_text(UNFIT.format(folder=str(tmp_path)))
    for name in ("whole.pdparams", "pruned.pdparams", "pruned.prune.json"):
        (tmp_path / name).touch()
    for stated, code in (("whole", 0), ("whole.pdparams", 0), ("pruned.pdparams", 2)):
        done = run_tool([tmp_path / "script.py", tmp_path / stated], tmp_path)
        assert done.returncode == code, done.stderr
        assert done.stdout.split("\n")[0] == "1 net load"
        assert ("loaded" in done.stdout) == (code == 0)
        lacks = f"{tmp_path} lacks what pruning hooks into: the parameter model of victim.load."
        debug = [line for line in done.stderr.splitlines() if line.startswith("DEBUG ppocr_prune")]
        assert len(debug) == 1 and lacks in debug[0]
        assert done.stderr.count("ppocr-prune: error:") == (code == 2)
