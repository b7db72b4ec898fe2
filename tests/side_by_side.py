"""Tests in several processes: the longest files begin first."""

from __future__ import annotations

import pytest

# Files of tests that take longest, longest first: what begins last decides how long one process
# waits for another. The first two need different weights. --dist loadfile --no-loadscope-reorder
# takes files in this order.
_LONGEST = (
    *("tools", "configs", "characters", "distillation", "self_distillation", "demo", "latency"),
    *("receipts", "pruned_equals_zeroed", "walk", "tools_lines", "bad_input", "tools_tree"),
    *("training_modes", "processes", "onnx", "recovered_weights", "recognisers", "cost"),
    *("exporting", "schedule", "doctor", "engines", "paddleslim", "loading", "coverage", "classes"),
    *("dictionaries", "today", "groups_command", "other_programs", "output_analysis", "kills"),
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {f"test_{name}.py": position for position, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))
