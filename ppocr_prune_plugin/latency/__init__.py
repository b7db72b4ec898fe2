"""How long a network takes on this machine: measured, tabulated, predicted.

Knows nothing of PaddleOCR: a network goes in, milliseconds of an engine come out.
"""
