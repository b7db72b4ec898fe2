"""Rules: how channels pass through an operation. One small function per family of operations.

A rule takes the :class:`~ppocr_prune_plugin.graph.flow.ChannelFlow` and the
:class:`~ppocr_prune_plugin.graph.trace.Op`; it maps the results and couples or freezes atoms. An
operation without a rule fixes everything that reaches it.
"""

from __future__ import annotations

import functools
import importlib.metadata
import inspect
import warnings
from collections.abc import Callable

from ..flow import ChannelFlow
from ..trace import Op

Rule = Callable[[ChannelFlow, Op], None]

ENTRY_POINTS = "ppocr_prune_plugin.rules"  # name: the operation; value: its rule, or a module

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations ``names`` (PIR names without dialect)."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                taken = f"{_RULES[name].__module__}.{_RULES[name].__name__}"
                raise ValueError(f"the operation {name!r} has a rule already, {taken}")
            _RULES[name] = function
        return function

    return register


def find_rule(name: str) -> Rule | None:
    """The rule of an operation, or None. An in-place form (``relu_``) has its plain form's."""
    _load_outside()
    return _RULES.get(name) or _RULES.get(name.removesuffix("_"))


@functools.cache
def _load_outside() -> None:
    """Rules of other installed packages, once. What cannot be loaded is left out with a warning:
    the operations that it would have explained freeze what reaches them, as without it."""
    for point in importlib.metadata.entry_points(group=ENTRY_POINTS):
        source = f"the rule {point.name!r} ({point.value}) of the group {ENTRY_POINTS}"
        try:
            found = point.load()
        except Exception as error:  # whatever an import of somebody's module raises
            _warn(f"{source} cannot be loaded: {type(error).__name__}: {error}")
            continue
        if inspect.ismodule(found):
            continue  # it has registered its rules while it was imported
        if not callable(found):
            _warn(f"{source} is a {type(found).__name__}, not a function of (flow, op) or a module")
        elif _RULES.get(point.name) is not found:
            try:
                rule(point.name)(found)
            except ValueError as error:
                _warn(f"{source} is not used: {error}")


def _warn(message: str) -> None:
    warnings.warn(f"ppocr-prune: {message}", RuntimeWarning, stacklevel=2)


# The families register themselves; they need `rule` from above.
from . import (  # noqa: E402, F401
    convolution,
    elementwise,
    indexing,
    linear,
    normalisation,
    recurrent,
    reduction,
    shape,
)
