"""Tests in several processes: the longest files begin first."""

from __future__ import annotations

import pytest

# Files of tests that take longest, longest first: what begins last decides how long one process
# waits for another. The first two need different weights. --dist loadfile --no-loadscope-reorder
# takes files in this order.
_LONGEST = (
    *("tools", "configs", "distillation", "self_distillation", "tools_lines", "receipts"),
    *("latency", "tools_tree", "exporting", "training_modes", "demo", "loading", "bad_input"),
    *("processes", "kills", "today", "onnx", "schedule", "coverage", "doctor"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}.py": position for position, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
