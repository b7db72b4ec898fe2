"""Placeholder: this seam is not hooked yet."""

from __future__ import annotations

from types import ModuleType


def patch(module: ModuleType) -> None:
    """Leave the module as it is."""
