"""The seams with PaddleOCR: only modules in here import ``ppocr`` or ``tools``.

``finder`` and ``registry`` say which patch runs when which module is imported, ``patches`` wrap
PaddleOCR's functions, ``adapters`` translate between its terms and ours.
"""
