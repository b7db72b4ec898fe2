"""Activations before a cut are computed once, and nothing else changes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import Detector, image

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.sensitivity.reuse import PrefixReuse
from ppocr_prune_plugin.sensitivity.spill import ArrayStore


@pytest.mark.parametrize(
    ("name", "memory"), [("lcnetv3_rsefpn", 2**30), ("mv3_se_dbfpn", 0), ("lcnetv3_lkpan", 2**30)]
)
def test_outputs_are_the_same_to_the_bit(
    detector: Callable[[str], Detector], name: str, memory: int, tmp_path: Path
) -> None:
    """Of every fifth group, cut, on two images; with all activations in memory, or on disk."""
    network = detector(name)
    images = [paddle.to_tensor(image(seed).astype("float64")) for seed in (1, 2)]
    now: list[int | None] = [None]

    def outputs(unit: int) -> Any:
        now[0] = unit
        try:
            with paddle.no_grad():
                return network.model(images[unit])["maps"]
        finally:
            now[0] = None

    store = ArrayStore(memory, tmp_path)
    reuse = PrefixReuse(network.model, store, lambda: now[0])
    reused = 0
    for group in network.graph.groups[::5]:
        kept = tuple(range(0, group.size, 2))
        plan = [GroupPlan(group.name, group.size, kept, len(kept))]
        undo = surgery.prune(network.model, network.graph, plan)
        expected = [outputs(unit).numpy() for unit in (0, 1)]
        surgery.restore(network.model, undo)
        with reuse.before([m.parameter for m in group.members], lambda: outputs(0)):
            undo = surgery.prune(network.model, network.graph, plan)
            try:
                for _ in range(2):  # the first time the second image is computed and kept
                    for unit in (0, 1):
                        assert np.array_equal(outputs(unit).numpy(), expected[unit]), group.name
            finally:
                surgery.restore(network.model, undo)
        reused += bool(store.keys())
    assert reused >= len(network.graph.groups[::5]) // 2
    assert all("forward" not in vars(layer) for layer in network.model.sublayers())
    store.clear()
    assert not list(tmp_path.iterdir())
