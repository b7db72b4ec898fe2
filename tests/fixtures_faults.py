"""Faults on purpose: how many, and from which seed.

``make test`` takes a sample of every campaign, ``make test-faults`` (``FAULTS=long``) all of it.
``FAULTS_SEED`` draws other faults; the seed is in the name of every test.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np
import pytest

SEED = int(os.environ.get("FAULTS_SEED", "0"))
LONG = os.environ.get("FAULTS") == "long"


@dataclass
class Campaign:
    """What is drawn, how much of it, and what came of it."""

    random: np.random.Generator
    long: bool

    def times(self, sample: int, all: int) -> range:
        return range(all if self.long else sample)


@pytest.fixture(params=[SEED], ids=[f"seed{SEED}"])
def campaign(request: pytest.FixtureRequest) -> Campaign:
    """Its random numbers are the same for the same test and seed, whatever else runs."""
    name = request.node.nodeid.rpartition("::")[2].encode()
    return Campaign(np.random.default_rng([request.param, *name]), LONG)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """What takes real tools many times is not in the sample."""
    if LONG:
        return
    left = [item for item in items if item.get_closest_marker("long")]
    config.hook.pytest_deselected(items=left)
    items[:] = [item for item in items if item not in left]


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "long: runs with `make test-faults` only")
