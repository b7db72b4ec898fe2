"""Numbers that an operation is given as attributes or as constant operands."""

from __future__ import annotations

from ..trace import Op


def scalar(constant: object) -> float:
    """A number, or the first of a list."""
    if isinstance(constant, list | tuple):
        return float(constant[0])
    assert isinstance(constant, int | float)
    return float(constant)


def axes_of(op: Op, ndim: int) -> list[int] | None:
    """The axes that an operation runs over, from 0; None where they are not known. An empty
    list given to the operation means all."""
    raw = op.attrs.get("axis", op.attrs.get("axes"))
    if raw is None:
        constants = [v.constant for v in op.inputs[1:] if v is not None and v.constant is not None]
        raw = constants[-1] if constants else None
    if raw is None:
        return None
    axes = [int(axis) % ndim for axis in (raw if isinstance(raw, list | tuple) else [raw])]
    return axes or list(range(ndim))


def axis_of(op: Op, ndim: int, default: int) -> int:
    """The one axis that an operation runs along."""
    axes = axes_of(op, ndim)
    return axes[0] if axes and len(axes) == 1 else default % ndim
