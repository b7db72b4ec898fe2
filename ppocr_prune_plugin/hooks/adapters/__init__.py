"""PaddleOCR's configs, batches, models, metrics and processes in the terms of this package."""
