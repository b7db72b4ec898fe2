"""How important a filter is: the filters with the lowest scores of a group are removed first.

:class:`Criterion` is the interface, :func:`resolve` turns the config's ``criterion`` into one, and
:class:`Ranker` is what the rest of the package works with.
"""

from .interface import (
    Array,
    Arrays,
    Context,
    Criterion,
    Prepared,
    Ranking,
    Selection,
    filters,
    kept_by_importance,
)
from .norms import fpgm, l1, l2
from .resolve import Ranker, resolve

__all__ = [
    "Array",
    "Arrays",
    "Context",
    "Criterion",
    "Prepared",
    "Ranker",
    "Ranking",
    "Selection",
    "filters",
    "fpgm",
    "kept_by_importance",
    "l1",
    "l2",
    "resolve",
]
