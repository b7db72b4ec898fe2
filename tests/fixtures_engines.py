"""Engines of an installed package: one that is Paddle by another name, one that has no peace."""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from ppocr_prune_plugin.engines import registry

_OWN = """
import time
from pathlib import Path
from ppocr_prune_plugin.engines.paddle import PaddleInference, Predictor

class Phone(PaddleInference):
    name, title = "phone", "A phone"

    @classmethod
    def version(cls):
        return "7"

    def load(self, model):
        with Path(__file__).with_name("loads").open("a") as loads:
            loads.write(f"{model.name}\\n")
        return super().load(model)

class Restless(Phone):
    name, title = "restless", "Restless"

    def load(self, model):
        return Disturbed(model, self.threads)

class Disturbed(Predictor):
    count = 0

    def run(self):
        super().run()
        self.count += 1
        time.sleep(0.03 if self.count % 3 else 0)

nothing = 3
"""
_POINTS = """
[ppocr_prune_plugin.engines]
phone = own_engines:Phone
restless = own_engines:Restless
broken = own_engines:nothing
"""


@pytest.fixture
def own_engines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The package, as pip installs one, for this process and those that it starts: its folder. In
    ``loads`` there is a line for every model that the phone loaded."""
    folder = tmp_path / "installed"
    info = folder / "own_engines-1.0.dist-info"
    info.mkdir(parents=True)
    (folder / "own_engines.py").write_text(_OWN)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own-engines\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(_POINTS)
    monkeypatch.syspath_prepend(str(folder))
    inherited = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), inherited])))
    registry.registered.cache_clear()
    yield folder
    monkeypatch.undo()
    importlib.invalidate_caches()
    registry.registered.cache_clear()
