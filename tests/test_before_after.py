"""The drawing at the top of the README: what is on it is what was found and measured."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

from ppocr_prune_plugin.errors import PruneError

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def drawing() -> Iterator[ModuleType]:
    sys.path.insert(0, str(ROOT / "benchmarks"))
    import before_after

    yield before_after
    sys.path.remove(str(ROOT / "benchmarks"))


def test_the_receipt_is_the_same_every_time(drawing: ModuleType, tmp_path: Path) -> None:
    first, second = (drawing.receipt(tmp_path / f"{n}.png").read_bytes() for n in (1, 2))
    assert first == second
    assert Image.open(tmp_path / "1.png").size == (480, 720)


def test_boxes_and_times_are_drawn(drawing: ModuleType, tmp_path: Path) -> None:
    image = drawing.receipt(tmp_path / "receipt.png")
    box = np.array([[100, 100], [200, 100], [200, 130], [100, 130]])
    numbers = [{"hmean": 0.9, "ms": 40.0}, {"hmean": 0.8, "ms": 20.0}]
    page = np.asarray(drawing.draw(image, [[box], []], numbers, ["after", "note"]))
    panels = [page[104:824, 24:504], page[104:824, 528:1008]]
    differs = (panels[0] != panels[1]).any(axis=2)
    assert differs[100, 110:190].all() and not differs[200:].any()
    # The bar of half the time is half as long.
    bars = [(page[78, x : x + 480] != 255).any(axis=1) for x in (24, 528)]
    lengths = [int(np.argmin(bar)) for bar in bars]
    assert lengths[0] == pytest.approx(2 * lengths[1], abs=3)


def test_without_the_demo_it_says_what_to_run(drawing: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(PruneError, match="run `make demo` first"):
        drawing.measured(tmp_path, "onnxruntime", 640)
