"""What runs exported models: Paddle Inference, ONNX Runtime, OpenVINO, or one's own."""

from .interface import Engine, Input, Session
from .registry import ENTRY_POINTS, choose, engine_class, installed, known

__all__ = [
    "ENTRY_POINTS",
    "Engine",
    "Input",
    "Session",
    "choose",
    "engine_class",
    "installed",
    "known",
]
