"""What the tests share: the real PaddleOCR tree and a way to run its tools."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from tool_processes import RunTool, ToolProcesses

from ppocr_prune_plugin.commands.doctor import probe
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.tree import find_tree

pytest.register_assert_rewrite("tool_chain", "training")
pytest_plugins = [
    "side_by_side",
    "fixtures_demo",
    "fixtures_engines",
    "fixtures_exports",
    "fixtures_faults",
    "fixtures_lines",
    "fixtures_networks",
    "fixtures_trees",
]

# PaddleOCR's augmentations look for a newer release of theirs in the net whenever they start.
os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
# Some environments ask Python to write no bytecode: then every process that the tests start would
# compile this package anew, and there are hundreds.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
# Test processes side by side would wait for each other's threads.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def tree() -> Path:
    """The real PaddleOCR tree; read only."""
    try:
        return find_tree(Path(os.sep))
    except PruneError as error:
        pytest.fail(f"the tests need a PaddleOCR tree: {error}")


@pytest.fixture(scope="session")
def run_tool() -> Iterator[RunTool]:
    """``run_tool(args, cwd, env, timeout, fresh)``: run this Python on ``args``, output captured;
    see :class:`ToolProcesses`."""
    active, output = probe()
    if not active:
        pytest.fail(f"the start-up file is not active; `pip install -e .` first. {output}")
    processes = ToolProcesses()
    yield processes
    processes.close()
