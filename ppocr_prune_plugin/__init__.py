"""Structured pruning for PaddleOCR through its own, unmodified tools.

Nothing is imported here: this package is touched at the start of PaddleOCR's tools, before
Paddle itself, and must cost nothing.
"""

__version__ = "0.1.0"
