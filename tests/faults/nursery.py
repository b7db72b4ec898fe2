"""Processes to be killed: forks of ``tool_server.py``, so that each begins within a moment."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

SERVER = Path(__file__).parents[1] / "tool_server.py"


class Child:
    """A process that runs a script; its output is in ``log`` and ``log.err``."""

    def __init__(self, server: subprocess.Popen[str], pid: int, log: Path) -> None:
        self._server, self.pid, self._log = server, pid, log
        self._code: int | None = None

    def wait(self, seconds: float) -> int | None:
        """Its exit code, negative for a signal; None where it still runs after so many seconds."""
        assert self._server.stdout is not None
        if self._code is None and select.select([self._server.stdout], [], [], seconds)[0]:
            self._code = int(self._server.stdout.readline())
        return self._code

    def kill(self) -> None:
        """End it as a power cut would, if it has not ended."""
        if self.wait(0) is None:
            os.killpg(self.pid, signal.SIGKILL)
            assert self.wait(60) is not None

    def output(self) -> str:
        files = (self._log, Path(f"{self._log}.err"))
        return "".join(
            file.read_text(encoding="utf-8", errors="replace") for file in files if file.exists()
        )


class Nursery:
    """Starts processes; as many at a time as are asked for. :meth:`close` it."""

    def __init__(self) -> None:
        self._servers: list[subprocess.Popen[str]] = []
        self._children: list[Child] = []

    def start(
        self,
        script: str | Path,
        arguments: Sequence[str | Path],
        log: Path,
        environment: Mapping[str, str] | None = None,
    ) -> Child:
        """Run ``python script arguments``."""
        for file in (log, Path(f"{log}.err")):
            file.unlink(missing_ok=True)
        server = self._free_server()
        assert server.stdin is not None and server.stdout is not None
        inherited = {key: value for key, value in os.environ.items() if key != "PPOCR_PRUNE"}
        request = {
            "arguments": [str(script), *map(str, arguments)],
            "cwd": os.getcwd(),
            "env": {**inherited, **(environment or {})},
            "stdout": str(log),
            "stderr": f"{log}.err",
        }
        server.stdin.write(json.dumps(request) + "\n")
        server.stdin.flush()
        child = Child(server, int(server.stdout.readline()), log)
        self._children.append(child)
        return child

    def close(self) -> None:
        """End them all."""
        for child in self._children:
            child.kill()
        for server in self._servers:
            assert server.stdin is not None
            server.stdin.close()
            server.wait()

    def _free_server(self) -> subprocess.Popen[str]:
        self._children = [child for child in self._children if child.wait(0) is None]
        busy = [child._server for child in self._children]
        for server in self._servers:
            if server not in busy:
                return server
        server = subprocess.Popen(
            [sys.executable, SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._servers.append(server)
        return server
