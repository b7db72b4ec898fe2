"""Exported models: run, and compared with the network that they were made from.

Knows nothing of PaddleOCR: a network and the files of an exported model go in.
"""
