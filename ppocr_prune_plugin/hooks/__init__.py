"""The seams between PaddleOCR's tools and this package, one module each.

Nothing is imported here: the finder imports a hook when the module that it patches is imported.
"""
