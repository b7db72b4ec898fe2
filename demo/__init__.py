"""A complete run on real weights: recovered detector, rendered pictures, PaddleOCR's own tools."""
