"""Times of several models, taken in turns."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from .interface import Session

# A disturbance from which on something else runs all the time.
BUSY = 0.25


def take_turns(sessions: Sequence[Session], rounds: int) -> list[list[float]]:
    """Milliseconds of so many runs of each, after one more run of each that is not counted.

    The models take turns, so that whatever else the machine does slows all of them alike.

    Args:
        sessions: prepared.
        rounds: number of runs.
    """
    for session in sessions:
        session.run()
    times: list[list[float]] = [[] for _ in sessions]
    for _ in range(rounds):
        for session, found in zip(sessions, times, strict=True):
            start = time.perf_counter()
            session.run()
            found.append(1000 * (time.perf_counter() - start))
    return times


def disturbance_of(times: Sequence[Sequence[float]]) -> float:
    """By what share half of the runs took longer than the fastest, of the model where that is
    most."""
    return max(statistics.median(found) / min(found) for found in times) - 1
