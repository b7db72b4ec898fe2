"""The start-up file: hooks PaddleOCR's tools, costs and disturbs nothing else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tool_processes import RunTool

from ppocr_prune_plugin import _startup
from ppocr_prune_plugin._startup import tree_of
from ppocr_prune_plugin.hooks.finder import stop_waiting

PROJECT = Path(__file__).parent.parent
LINE = (PROJECT / "startup" / "ppocr_prune_plugin.pth").read_text()
# Imports what PaddleOCR's tools import first, and tells how often our finder is installed.
REPORT = """\
import sys
sys.path.insert(0, {folder!r})
import {module}
print(sum(type(f).__module__ == "ppocr_prune_plugin.hooks.finder" for f in sys.meta_path))
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Folders as in a PaddleOCR tree, with a script in it, one beside it, and one of somebody who
    has a ``ppocr`` and a ``tools`` of another kind."""
    tree, other = tmp_path / "tree", tmp_path / "other"
    for folder in (tree / "ppocr", tree / "tools", other / "ppocr", other / "tools"):
        folder.mkdir(parents=True)
        (folder / "__init__.py").touch()
    (tree / "tools" / "program.py").write_text("import ppocr\n")
    (other / "tools" / "other.py").touch()
    script = REPORT.format(folder=str(tree), module="tools.program")
    for name in ("tools/train.py", "tools/__main__.py", "../elsewhere.py"):
        (tree / name).write_text(script)
    return tree


@pytest.mark.parametrize(
    ("arguments", "folder"),
    [
        (["tools/train.py"], "."),
        (["train.py"], "tools"),
        (["-I", "tools/train.py"], "."),
        (["tools"], "."),
        (["-m", "tools.train"], "."),
        (["../elsewhere.py"], "."),
        (["-m", "elsewhere"], ".."),
        (["-c", REPORT.format(folder=".", module="ppocr")], "."),
    ],
)
def test_whoever_imports_from_a_tree_is_hooked(
    run_tool: RunTool, layout: Path, arguments: list[str], folder: str
) -> None:
    result = run_tool(arguments, cwd=layout / folder)
    assert (result.stdout.strip(), result.stderr) == ("1", "")


@pytest.mark.parametrize("module", ["ppocr", "tools.other", "json"])
def test_others_are_not(run_tool: RunTool, layout: Path, module: str) -> None:
    """Nor do they import anything of ours, whatever their packages are called."""
    script = REPORT.format(folder=str(layout.parent / "other"), module=module)
    script += "print([name for name in sys.modules if 'ppocr_prune_plugin' == name])"
    of_ours = "['ppocr_prune_plugin']" if module == "ppocr" else "[]"  # it has to be looked at
    result = run_tool(["-c", script], layout)
    assert (result.stdout.split("\n")[:2], result.stderr) == (["0", of_ours], "")


def test_without_start_up_files_nobody_is(run_tool: RunTool, layout: Path) -> None:
    assert run_tool(["-S", "tools/train.py"], layout).stdout.strip() == "0"


def test_a_tree_has_both_packages(layout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [str(layout)])
    assert tree_of("ppocr") == str(layout)
    assert tree_of("tools.program", [str(layout / "tools")]) == str(layout)
    (layout / "ppocr" / "__init__.py").unlink()  # a package without code in itself
    assert tree_of("ppocr") == str(layout)
    assert tree_of("tools.program", [str(layout.parent / "other" / "tools")]) is None
    monkeypatch.setattr(sys, "path", [str(layout.parent / "other"), str(layout)])
    assert tree_of("ppocr") is None


def test_switched_off_by_the_environment(run_tool: RunTool, layout: Path) -> None:
    (layout / "stock.yml").write_text("Global: {use_gpu: false}\n")
    (layout / "off.yml").write_text("Prune: {enable: false}\n")
    (layout / "pruned.yml").write_text("Prune: {ratio: 0.3}\n")

    def started(*options: str, **more: str) -> tuple[str, str]:
        off = {"PPOCR_PRUNE": "0", **more}
        result = run_tool(["tools/train.py", *options], layout, off)
        return result.stdout.strip(), result.stderr

    assert started() == started("-c", "stock.yml") == started("-c", "off.yml") == ("0", "")
    for options in (["-c", "pruned.yml"], ["-c", "stock.yml", "-o", "Prune.ratio=0.3"]):
        finders, warning = started(*options)
        assert finders == "0" and warning.count("\n") == 1
        assert warning.startswith("ppocr-prune: warning: PPOCR_PRUNE=0 is set")
    assert started("-c", "pruned.yml", PADDLE_TRAINER_ID="1") == ("0", "")
    refused = run_tool(
        ["-m", "ppocr_prune_plugin.cli", "run", "tools/train.py"], layout, {"PPOCR_PRUNE": "0"}
    )
    assert refused.returncode == 2
    assert "PPOCR_PRUNE" in refused.stderr


def test_run_hooks_without_start_up_files(run_tool: RunTool, layout: Path) -> None:
    site_packages = os.pathsep.join(path for path in sys.path if path)
    (layout / "tools" / "train.py").write_text(
        "import sys\nfirst = sys.path[0]\n"
        + REPORT.format(folder=str(layout), module="tools.program")
        + "print(__name__, sys.argv, first == sys.argv[1])\nsys.exit(7)\n"
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
        "import sys\nsys.path.insert(0, '.')\nimport ppocr\n"
        "print(*{name.partition('.')[0] for name in sys.modules})\n"
    )
    imported = set(run_tool(["tools/train.py"], layout).stdout.split())
    plain = set(run_tool(["-c", "import sys; print(*sys.modules)"]).stdout.split())
    ours = {"ppocr", "ppocr_prune_plugin"}
    assert imported - plain - set(sys.stdlib_module_names) == ours


def test_other_programs_import_nothing_of_ours(run_tool: RunTool) -> None:
    result = run_tool(["-c", "import sys; print([m for m in sys.modules if 'prune' in m])"])
    assert result.stdout.strip() == "[]"


def test_the_line_asks_the_system_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It imports nothing, and what waits looks at names."""
    monkeypatch.setattr(sys, "meta_path", [])
    before = set(sys.modules)
    calls: list[str] = []
    sys.addaudithook(lambda event, arguments: calls.append(event) if watching else None)
    watching = True
    exec(LINE)
    found = [sys.meta_path[0].find_spec(name, None) for name in ("json", "tools", "ppocr.data")]
    watching = False
    assert found == [None] * 3 and set(sys.modules) == before
    assert set(calls) <= {"exec", "compile", "object.__getattr__"}


def test_the_line_never_raises_or_prints(layout: Path) -> None:
    # -S -I: the package cannot be imported, as after half an uninstallation.
    code = f"exec({LINE!r}); import sys; sys.path.insert(0, {str(layout)!r}); import tools.program"
    result = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, cwd=layout
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_the_line_is_one_line_and_twice_is_as_once(run_tool: RunTool, layout: Path) -> None:
    assert LINE.count("\n") == 1 and LINE.startswith("import ")  # what `site` executes
    script = layout / "tools" / "train.py"
    script.write_text(f"exec({LINE!r})\nexec({LINE!r})\n{script.read_text()}")
    assert run_tool(["tools/train.py"], layout).stdout.strip() == "1"


def test_the_start_file_does_what_the_line_does(monkeypatch: pytest.MonkeyPatch) -> None:
    entry = (PROJECT / "startup" / "ppocr_prune_plugin.start").read_text().strip()
    module, _, function = entry.partition(":")
    assert module == _startup.__name__
    for wait in (lambda: exec(LINE), getattr(_startup, function)):
        monkeypatch.setattr(sys, "meta_path", [])
        asked: list[str] = []
        monkeypatch.setattr(_startup, "imported", lambda name, path, to=asked: to.append(name))
        wait()
        wait()
        (finder,) = sys.meta_path
        for name in ("json", "tools", "tools.program", "ppocr", "ppocr.data"):
            finder.find_spec(name, None)
        assert asked == ["tools.program", "ppocr"] and finder.__name__ == _startup.WAITING
        stop_waiting()
        assert sys.meta_path == []


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
