"""Can this Python make the environment? Where not, one sentence says what is missing.

The Makefile runs it with the Python that is to make the environment.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import sys

FIRST, LAST = (3, 11), (3, 13)


def problem(environment: str) -> str | None:
    """What keeps this Python from making, or going on with, the folder ``environment``."""
    major, minor = version = sys.version_info[:2]
    others = "Python 3.11, 3.12 and 3.13 serve; name one with: make PYTHON=python3.12"
    if version < FIRST:
        return f"Python {major}.{minor} is too old for what PaddleOCR needs. {others}"
    if version > LAST:
        return f"There is no Paddle for Python {major}.{minor} yet. {others}"
    if os.path.isdir(environment):
        if not os.path.isdir(os.path.join(environment, "lib", f"python{major}.{minor}")):
            return (
                f"{environment} is of another Python than {major}.{minor}: remove it (make clean),"
                f" or name another folder: make VENV={environment}-{major}.{minor}"
            )
        return None
    if any(importlib.util.find_spec(name) is None for name in ("ensurepip", "venv")):
        return (
            f"{sys.executable} cannot make virtual environments."
            " On Debian: apt-get install python3-venv"
        )
    try:
        ctypes.CDLL("libgomp.so.1")
    except OSError:
        return "Paddle needs libgomp.so.1. On Debian: apt-get install libgomp1"
    return None


if __name__ == "__main__":
    sys.exit(problem(sys.argv[1]))
