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

PROJECT = Path(__file__).parent.parent
LINE = (PROJECT / "startup" / "ppocr_prune_plugin.pth").read_text()
# A script that tells how often our finder is installed.
REPORT = """\
import sys
print(sum(type(f).__module__ == "ppocr_prune_plugin.hooks.finder" for f in sys.meta_path))
"""


@pytest.fixture
def layout(tmp_path: Path) -> Path:
    """Folders as in a PaddleOCR tree, every script the reporting one; a tree within has another
    name for ``ppocr``."""
    tree = tmp_path / "tree"
    for name in ("tools/train.py", "tools/__main__.py", "tools/infer/predict_det.py", "own.py",
                 "deploy/slim/quantization/quant.py", ".venv/bin/pip", "half/tools/train.py",
                 "../elsewhere.py", "../deeper/down/below.py"):  # fmt: skip
        script = tree / name
        script.parent.mkdir(parents=True, exist_ok=True)
        script.write_text(REPORT)
    (tree / "tools" / "program.py").touch()
    (tree / "ppocr").mkdir()
    (tmp_path / "linked.py").symlink_to(tree / "tools" / "train.py")
    (tmp_path / "links").symlink_to(tree / "tools")
    return tree


@pytest.mark.parametrize(
    ("arguments", "folder", "finders"),
    [
        (["tools/train.py"], ".", "1"),
        (["train.py"], "tools", "1"),
        (["../tools/train.py"], "ppocr", "1"),
        (["-I", "tools/train.py"], ".", "1"),
        (["own.py"], ".", "1"),
        (["tools/infer/predict_det.py"], ".", "1"),
        (["deploy/slim/quantization/quant.py"], ".", "1"),
        (["half/tools/train.py"], ".", "1"),
        (["tools"], ".", "1"),
        (["../linked.py"], ".", "1"),
        (["../links/train.py"], ".", "1"),
        (["-m", "tools.train"], ".", "1"),
        (["-um", "tools.infer.predict_det"], ".", "1"),
        (["-m", "tools"], ".", "1"),
        (["-m", "half.tools.train"], ".", "1"),
        (["../elsewhere.py"], ".", "0"),
        (["elsewhere.py"], "..", "0"),
        (["-m", "elsewhere"], "..", "0"),
        (["../../deeper/down/below.py"], "tools", "0"),
        (["-c", REPORT], ".", "0"),
        (["-S", "tools/train.py"], ".", "0"),
    ],
)
def test_which_processes_are_hooked(
    run_tool: RunTool, layout: Path, arguments: list[str], folder: str, finders: str
) -> None:
    result = run_tool(arguments, cwd=layout / folder)
    assert (result.stdout.strip(), result.stderr) == (finders, "")


def test_a_module_of_a_tree_in_the_path(run_tool: RunTool, layout: Path) -> None:
    result = run_tool(["-m", "tools.train"], layout.parent, {"PYTHONPATH": str(layout)})
    assert (result.stdout.strip(), result.stderr) == ("1", "")


def test_programs_of_an_environment_in_a_tree(
    layout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither by the line nor by what it calls."""
    assert tree_of(str(layout / "tools" / "train.py")) == str(layout)
    assert tree_of(str(layout / ".venv" / "bin" / "pip")) == str(layout)
    monkeypatch.setattr(sys, "prefix", str(layout / ".venv"))
    assert tree_of(str(layout / "tools" / "train.py")) == str(layout)
    assert tree_of(str(layout / ".venv" / "bin" / "pip")) is None
    # A tree that is installed in it is one.
    inside = layout / ".venv/lib/tree"
    (inside / "tools").mkdir(parents=True)
    (inside / "ppocr").mkdir()
    (inside / "tools" / "program.py").touch()
    assert tree_of(str(inside / "tools" / "train.py")) == str(inside)

    called: list[str] = []
    monkeypatch.setattr(_startup, "activate", lambda: called.append(sys.argv[0]))
    for script in (layout / ".venv/bin/pip", inside / "tools/train.py", layout / "own.py"):
        monkeypatch.setattr(sys, "argv", [str(script)])
        exec(LINE)
    assert {Path(name).name for name in called} == {"train.py", "own.py"}


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


def test_the_line_costs_other_programs_a_few_calls_of_the_system(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One for each folder that a script lies in, and no import."""
    script = tmp_path / "a/b/c/d/program.py"
    script.parent.mkdir(parents=True)
    script.touch()
    monkeypatch.setattr(sys, "argv", [str(script)])
    asked: list[str] = []
    monkeypatch.setattr(os.path, "isfile", lambda path: asked.append(path) or False)
    before = set(sys.modules)
    exec(LINE)
    assert len(asked) == len(script.parts) - 1
    assert set(sys.modules) == before


@pytest.mark.parametrize(
    "argv", ["[]", "['']", "['-c']", "['-m']", "['tools/train.py']", "['no\\0path']", "[None]"]
)
def test_the_line_never_raises_or_prints(layout: Path, argv: str) -> None:
    # -S -I: the package cannot be imported, as after half an uninstallation.
    code = f"import sys; sys.argv = {argv}; exec({LINE!r})"
    result = subprocess.run(
        [sys.executable, "-S", "-I", "-c", code], capture_output=True, text=True, cwd=layout
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
