"""What other targets would cost, before one is chosen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .budget import Cost, Curve, OutOfReach, widths_by_budget

Rows = Sequence[tuple[float, float | None]]
"""Share removed, and the predicted loss; None where that much is out of reach."""

SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8)


def feasibility(
    curves: Mapping[str, Curve],
    sizes: Mapping[str, int],
    cost: Cost,
    round_to: int,
    shares: Sequence[float] = SHARES,
) -> list[tuple[float, float | None]]:
    """Predicted loss for each share of the cost removed where it hurts least.

    Args: as of :func:`~.budget.widths_by_budget`.

    Returns:
        Rows (share, sum of the groups' losses); the loss is None where the curves, as far as they
        were measured, do not hold that much.
    """
    rows: list[tuple[float, float | None]] = []
    for share in shares:
        try:
            chosen = widths_by_budget(curves, sizes, cost, share, round_to, "feasibility")
        except OutOfReach:
            rows.append((share, None))
            continue
        losses = (curves[name].loss(1 - width / sizes[name]) for name, width in chosen.items())
        rows.append((share, float(sum(losses))))
    return rows
