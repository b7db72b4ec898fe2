"""What is wrapped in PaddleOCR: one module for each of its modules that we patch.

Nothing is imported here: the finder imports a patch when the module that it is for is imported.
"""
