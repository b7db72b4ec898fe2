"""Rules: how channels pass through an operation. One small function per family of operations.

A rule takes the :class:`~ppocr_prune_plugin.graph.flow.ChannelFlow` and the
:class:`~ppocr_prune_plugin.graph.trace.Op`; it labels the results and joins or fixes atoms. An
operation without a rule fixes everything that reaches it.
"""

from __future__ import annotations

from collections.abc import Callable

from ..flow import ChannelFlow
from ..trace import Op

Rule = Callable[[ChannelFlow, Op], None]

_RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the rule of the operations ``names`` (PIR names without dialect)."""

    def register(function: Rule) -> Rule:
        for name in names:
            if name in _RULES:
                raise ValueError(f"operation {name!r} already has the rule {_RULES[name]!r}")
            _RULES[name] = function
        return function

    return register


def find_rule(name: str) -> Rule | None:
    """The rule of an operation, or None. An in-place form (``relu_``) has its plain form's."""
    return _RULES.get(name) or _RULES.get(name.removesuffix("_"))


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
