"""What other targets would cost, before one is chosen."""

from __future__ import annotations

from collections.abc import Sequence

from tqdm import tqdm

from .budget import OutOfReach, widths_by_budget
from .search import Search

Rows = Sequence[tuple[float, float | None]]
"""Share removed, and the predicted loss; None where that much is out of reach."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)

_BAR_AFTER = 2  # seconds


def feasibility(search: Search, shares: Sequence[float] = SHARES) -> Rows:
    """Predicted loss (the sum of the groups' losses) for each share of the cost removed where it
    hurts least; None where the curves, as far as they were measured, do not hold that much."""
    rows: list[tuple[float, float | None]] = []
    for share in tqdm(shares, desc="prune: what targets cost", unit="target", delay=_BAR_AFTER):
        try:
            chosen = widths_by_budget(search, share, "feasibility")
        except OutOfReach:
            rows.append((share, None))
            continue
        losses = (
            search.curves[name].loss(1 - width / search.sizes[name])
            for name, width in chosen.items()
        )
        rows.append((share, float(sum(losses))))
    return rows
