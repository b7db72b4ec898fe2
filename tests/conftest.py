"""What the tests share: the real PaddleOCR tree and a way to run its tools."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from ppocr_prune_plugin.commands.doctor import probe
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.tree import find_tree

pytest_plugins = ["fixtures_demo", "fixtures_faults", "fixtures_lines", "fixtures_networks"]

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def tree() -> Path:
    """The real PaddleOCR tree; read only."""
    try:
        return find_tree(Path(os.sep))
    except PruneError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def run_tool() -> RunTool:
    """``run_tool(args, cwd, env, timeout)``: run this Python on ``args``, output captured.

    ``env`` is added to this process's environment, without its PPOCR_PRUNE.
    """
    active, output = probe()
    if not active:
        pytest.fail(f"the start-up file is not active; `pip install -e .` first. {output}")

    def run(
        args: Sequence[str | Path],
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 600,
    ) -> subprocess.CompletedProcess[str]:
        environment = {key: value for key, value in os.environ.items() if key != "PPOCR_PRUNE"}
        environment.update(env or {})
        return subprocess.run(
            [sys.executable, *map(str, args)],
            cwd=cwd,
            env=environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )

    return run
