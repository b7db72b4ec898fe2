"""How many faults a campaign draws, and from which seed; conftest.py says how they are set."""

from __future__ import annotations

import os
from dataclasses import dataclass

import numpy as np

SEED = int(os.environ.get("FAULTS_SEED", "0"))
LONG = os.environ.get("FAULTS") == "long"


@dataclass
class Campaign:
    """What is drawn, how much of it, and what came of it."""

    random: np.random.Generator
    long: bool

    def times(self, sample: int, all: int) -> range:
        return range(all if self.long else sample)
