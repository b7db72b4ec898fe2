"""A fork of the process that has Paddle imported is what a Python started from nothing is."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest
from tool_processes import RunTool, runs_as_fork

# A tool that tells all that it can see of how it was started.
TOOL = """\
import os, sys
if os.path.isdir("ppocr"):
    sys.path.insert(0, os.getcwd())
    import ppocr
print(type(sys.modules.get("ppocr_prune_plugin.hooks.finder")).__name__)
print(sum(type(f).__module__ == "ppocr_prune_plugin.hooks.finder" for f in sys.meta_path))
print(__name__, __file__, sys.argv, sys.orig_argv[1:], sys.path, os.getcwd(), sys.flags)
print(sorted(os.environ.items()), sys.stdin.read() == "", os.isatty(0))
print("ppocr" in sys.modules, "tools" in sys.modules)
print("to stderr", file=sys.stderr)
"""
ENDS = {
    "returns": "",
    "exits": "sys.exit(7)",
    "says why": "sys.exit('no more')",
    "raises": "raise ValueError('a fault')",
    "dies": "os.kill(os.getpid(), 9)",
}


@pytest.fixture
def tool(tmp_path: Path) -> Path:
    """A tool in folders as a whole tree has them."""
    (tmp_path / "tools").mkdir()
    (tmp_path / "tools" / "program.py").touch()
    (tmp_path / "ppocr" / "modeling").mkdir(parents=True)
    return tmp_path / "tools" / "train.py"


@pytest.mark.parametrize("end", ENDS)
def test_a_fork_is_what_a_start_is(run_tool: RunTool, tool: Path, end: str) -> None:
    tool.write_text(TOOL + ENDS[end])
    arguments = ["tools/train.py", "-c", "x.yml"]
    assert runs_as_fork(arguments, tool.parent.parent)
    fork, start = (
        run_tool(arguments, tool.parent.parent, {"PPOCR_TEST": end}, fresh=fresh)
        for fresh in (False, True)
    )
    assert fork.returncode == start.returncode
    assert fork.stdout == start.stdout
    assert fork.stderr.splitlines()[-1] == start.stderr.splitlines()[-1]
    assert "\nmodule\n1\n" in "\n" + fork.stdout, "not hooked"


def test_a_program_is_run_as_python_runs_it(run_tool: RunTool, tmp_path: Path) -> None:
    program = TOOL.replace("__file__", "'__file__' in globals()") + "print(__spec__)"
    fork, start = (run_tool(["-c", program, "x"], tmp_path, fresh=fresh) for fresh in (False, True))
    assert (fork.returncode, fork.stdout) == (start.returncode, start.stdout)
    assert "['-c', 'x']" in fork.stdout


def test_switched_off_in_a_fork(run_tool: RunTool, tool: Path) -> None:
    tool.write_text(TOOL)
    folder = tool.parent.parent
    off = run_tool([tool], folder, {"PPOCR_PRUNE": "0"})
    assert off.stdout.splitlines()[1] == "0"
    assert run_tool([tool], folder).stdout.splitlines()[:2] == ["module", "1"]


def test_forks_draw_different_numbers_and_know_nothing_of_each_other(
    run_tool: RunTool, tool: Path
) -> None:
    tool.write_text(
        "import random, numpy, paddle, sys\n"
        "print(random.random(), numpy.random.random(), float(paddle.rand([1])))\n"
        "print('mark' in dir(sys))\n"
        "sys.mark = 1\n"
    )
    first, second = (run_tool([tool]).stdout.split() for _ in range(2))
    assert all(one != other for one, other in zip(first[:3], second[:3], strict=True))
    assert first[3] == second[3] == "False"


def test_what_takes_too_long_is_ended_with_all_that_it_started(
    run_tool: RunTool, tool: Path, tmp_path: Path
) -> None:
    mark = tmp_path / "mark"
    late = f"import time; time.sleep(3); open({str(mark)!r}, 'w')"
    tool.write_text(
        "import subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', {late!r}])\n"
        "print('begun', flush=True)\n"
        "time.sleep(60)\n"
    )
    with pytest.raises(subprocess.TimeoutExpired) as caught:
        run_tool([tool], timeout=1.5)
    assert caught.value.output == "begun\n"
    tool.write_text("import time; time.sleep(3)")
    assert run_tool([tool]).returncode == 0, "the next one runs"
    assert not mark.exists()


def test_only_tools_of_a_whole_tree_and_our_commands_are_forked(tree: Path, tmp_path: Path) -> None:
    assert runs_as_fork([str(tree / "tools" / "eval.py")], tmp_path)
    assert runs_as_fork(["-m", "ppocr_prune_plugin.cli", "doctor"], tmp_path)
    assert runs_as_fork([f"{sysconfig.get_path('scripts')}/ppocr-prune", "doctor"], tmp_path)
    for arguments in (["-c", "1"], ["-S", "tools/train.py"], ["-m", "paddle.distributed.launch"]):
        assert not runs_as_fork(arguments, tree)
    (tmp_path / "tools").mkdir()
    assert not runs_as_fork(["tools/train.py"], tmp_path)
