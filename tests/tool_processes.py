"""Starting PaddleOCR's tools: in a process of their own, or as a fork of one (tool_server.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

Completed = subprocess.CompletedProcess[str]
RunTool = Callable[..., Completed]

_SERVER = Path(__file__).with_name("tool_server.py")
_STARTING = 300.0  # seconds that importing Paddle may take
_OUR_COMMAND = "ppocr_prune_plugin.cli"


class ToolProcesses:
    """``processes(args, cwd, env, timeout)``: run this Python on ``args``, output captured.

    ``env`` is added to this process's environment, without its PPOCR_PRUNE. What runs a tool of a
    whole PaddleOCR tree or our command is forked from a process that has Paddle imported, unless
    ``fresh`` asks for a start from nothing, or ``env`` has what Paddle reads while it is imported;
    a program of a test's own (``-c``) is where ``fresh`` is False, not None. Raises
    ``subprocess.TimeoutExpired`` and ends the run after ``timeout`` seconds.
    """

    def __init__(self) -> None:
        self._server: subprocess.Popen[str] | None = None

    def __call__(
        self,
        args: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
        fresh: bool | None = None,
    ) -> Completed:
        arguments = [str(argument) for argument in args]
        environment = {key: value for key, value in os.environ.items() if key != "PPOCR_PRUNE"}
        environment.update(env or {})
        folder = Path.cwd() if cwd is None else cwd
        imported_alike = all(name.startswith(("PPOCR_", "PADDLEOCR_")) for name in env or {})
        own = fresh is False and arguments[0] == "-c"
        if not fresh and imported_alike and (own or runs_as_fork(arguments, folder)):
            return self._fork(arguments, folder, environment, timeout)
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    def close(self) -> None:
        """End the process that the others are forked from."""
        if self._server is not None:
            assert self._server.stdin is not None
            self._server.stdin.close()
            self._server.wait()
            self._server = None

    def _fork(
        self, arguments: list[str], cwd: Path, env: Mapping[str, str], timeout: float
    ) -> Completed:
        with tempfile.TemporaryDirectory(prefix="tool-") as folder:
            files = {name: str(Path(folder, name)) for name in ("stdout", "stderr")}
            request = {"arguments": arguments, "cwd": str(cwd), "env": dict(env), **files}
            self._ask(json.dumps(request))
            child = self._answer(_STARTING)
            assert child is not None, "the process that tools are forked from does not answer"
            code = self._answer(timeout)
            if code is None:
                os.killpg(child, signal.SIGKILL)
                self._answer(_STARTING)
            output = [
                Path(file).read_text(encoding="utf-8", errors="replace")
                if Path(file).exists()
                else ""
                for file in files.values()
            ]
        command = [sys.executable, *arguments]
        if code is None:
            raise subprocess.TimeoutExpired(command, timeout, *output)
        return Completed(command, code, *output)

    def _ask(self, request: str) -> None:
        if self._server is None or self._server.poll() is not None:
            environment = {k: v for k, v in os.environ.items() if k != "PPOCR_PRUNE"}
            self._server = subprocess.Popen(
                [sys.executable, _SERVER],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
                env=environment,
            )
        assert self._server.stdin is not None
        self._server.stdin.write(request + "\n")
        self._server.stdin.flush()

    def _answer(self, timeout: float) -> int | None:
        """The next line from the server, or None after so many seconds."""
        assert self._server is not None and self._server.stdout is not None
        ready, _, _ = select.select([self._server.stdout], [], [], timeout)
        if not ready:
            return None
        line = self._server.stdout.readline()
        assert line, "the process that tools are forked from has ended"
        return int(line)


def runs_as_fork(arguments: Sequence[str], cwd: Path) -> bool:
    """Whether these arguments start a tool of a whole tree, or one of our commands."""
    if list(arguments[:2]) == ["-m", _OUR_COMMAND]:
        return True
    if arguments[0] == os.path.join(sysconfig.get_path("scripts"), "ppocr-prune"):
        return True
    script = Path(cwd, arguments[0])
    # A whole tree, not one that a test made of empty files.
    return script.parent.name == "tools" and (script.parent.parent / "ppocr/modeling").is_dir()
