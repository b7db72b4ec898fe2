"""A complete run on real weights: recovered detector, rendered images, PaddleOCR's own tools."""
