"""The learning rate that a config trains with: is it one for training from scratch?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# What PaddleOCR's own configs train from scratch with, at the highest, by type of model.
_FROM_SCRATCH = {
    "Adam": {"det": 1e-3, "cls": 1e-3, "rec": 5e-4},
    "AdamW": {"det": 1e-3, "cls": 1e-3, "rec": 5e-4},
    "Momentum": {"det": 7e-3},
}
# Measured (docs/recovery.md): a compensated network is best trained with about this share of it.
_SHARE = 0.3


def peak(config: Mapping[str, Any]) -> float | None:
    """The highest rate of a schedule; None where the config does not state one."""
    stated = (config.get("Optimizer") or {}).get("lr") or {}
    values = stated.get("values")
    found = [stated.get("learning_rate"), stated.get("max_lr")]
    numbers = [_number(value) for value in [*found, *(values if isinstance(values, list) else [])]]
    return max((number for number in numbers if number is not None), default=None)


def warning(config: Mapping[str, Any], compensated: bool) -> str | None:
    """What to say of a rate that trains from scratch; None where it is lower or not known."""
    optimizer = str((config.get("Optimizer") or {}).get("name"))
    kind = str((config.get("Architecture") or {}).get("model_type"))
    scratch, rate = _FROM_SCRATCH.get(optimizer, {}).get(kind), peak(config)
    if scratch is None or rate is None or rate < scratch:
        return None
    stated = config["Optimizer"]["lr"]
    key = next((key for key in ("values", "max_lr") if key in stated), "learning_rate")
    lost = "what compensation has given back" if compensated else "much of what it knows"
    return (
        f"Optimizer.lr.{key} is {rate:g}, as for training from scratch: a pruned network loses "
        f"{lost} in the first steps. Try {scratch * _SHARE:g} or less"
    )


def _number(value: Any) -> float | None:
    try:
        return None if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        return None
