"""Runs PaddleOCR's tools in forks of one process that has imported their heavy packages.

A tool's imports take longer than what most tests do with it, so they are paid once. Only packages
of others are imported here, nothing of PaddleOCR's tree nor of this package: a fork is a Python
that has Paddle in its memory, reads our start-up file through ``site`` as every start does, and
then runs the tool as ``__main__``. test_tool_server.py holds it against real starts.

Requests are lines of JSON on stdin; each is answered on stdout by two lines, the fork's process
id and, when it has ended, its exit code.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import random
import runpy
import site
import sys
import sysconfig
from typing import Any

# What tools/*.py import before they begin, as far as it takes time. None of them may start a
# thread, or compute, on import: a fork has only the thread that called it.
PACKAGES = (
    "paddle", "requests", "scipy.io", "scipy.signal", "skimage.metrics", "skimage.morphology",
    "shapely.geometry", "pyclipper", "rapidfuzz", "albumentations",
)  # fmt: skip

_START_FILE = "ppocr_prune_plugin.pth"


def main() -> None:
    path = list(sys.path)
    for name in PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError:
            continue  # the tool that needs it says so
    gc.collect()
    gc.freeze()  # a collection in a fork would write to, and so copy, all that is here
    request = _serve()
    if request is not None:
        sys.path[:] = path  # packages add to it
        _become(request)


def _serve() -> dict[str, Any] | None:
    """Answer requests until there are no more; in a fork, return what it is to run."""
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            return dict(json.loads(line))
        print(child, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
    return None


def _become(request: dict[str, Any]) -> None:
    """Be the interpreter that was asked for; where this returns, it exits as any does."""
    os.setsid()  # a process group of its own, to be killed with all that it starts
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    for number, path in ((1, request["stdout"]), (2, request["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["env"])
    arguments = request["arguments"]
    sys.orig_argv = [sys.executable, *arguments]
    option = arguments[0] if arguments[0] in ("-m", "-c") else None
    sys.argv = arguments if option is None else [option, *arguments[2:]]
    # A new process has random generators of its own; a fork would repeat its siblings'.
    random.seed()
    sys.modules["numpy"].random.seed()
    sys.modules["paddle"].seed(random.getrandbits(31))
    # Interpreters read start-up files before they put the script's folder on the path.
    packages = sysconfig.get_path("purelib")
    if not os.path.exists(os.path.join(packages, _START_FILE)):
        sys.exit(f"{_START_FILE} is not installed for {sys.executable}: tools would run unpruned")
    site.addpackage(packages, _START_FILE, None)  # type: ignore[attr-defined]
    if option == "-m":
        sys.path[0] = os.getcwd()
        runpy.run_module(arguments[1], run_name="__main__", alter_sys=True)
        return
    names = {key: globals()[key] for key in ("__name__", "__builtins__", "__spec__")}
    if option == "-c":
        sys.path[0] = ""
        code = compile(arguments[1], "<string>", "exec")
    else:
        sys.path[0] = os.path.dirname(os.path.realpath(arguments[0]))
        names["__file__"] = script = os.path.abspath(arguments[0])
        with open(script, "rb") as file:
            code = compile(file.read(), script, "exec")
    globals().clear()  # this module is __main__, as the tool is when it is started
    globals().update(names)
    exec(code, globals())


if __name__ == "__main__":
    main()
