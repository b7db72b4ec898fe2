"""Times of several models, taken in turns."""

from __future__ import annotations

import time
from collections.abc import Sequence

from .interface import Session


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
