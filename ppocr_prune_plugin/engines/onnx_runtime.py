"""ONNX Runtime on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import PruneError
from .interface import Array, Engine, Input, Session

_TYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
}


class OnnxRuntime(Engine):
    """Threads are those inside an operator; operators run one after another."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    module = "onnxruntime"
    install = 'pip install "ppocr-prune-plugin[onnx]"'

    def load(self, model: Path) -> Session:
        import onnxruntime

        if not model.is_file():
            raise PruneError(f"{model}: is no ONNX file")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = self.threads
        options.inter_op_num_threads = 1
        options.log_severity_level = 3
        return _Session(
            onnxruntime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
        )


class _Session(Session):
    def __init__(self, session: Any) -> None:
        self._session = session
        self._feed: dict[str, Array] = {}
        self._found: list[Array] = []
        self.inputs = tuple(
            Input(
                item.name,
                tuple(size if isinstance(size, int) and size > 0 else -1 for size in item.shape),
                _TYPES.get(item.type, item.type),
            )
            for item in session.get_inputs()
        )

    def prepare(self, arrays: Sequence[Array]) -> None:
        self._feed = {item.name: array for item, array in zip(self.inputs, arrays, strict=False)}
        self.run()

    def run(self) -> None:
        self._found = self._session.run(None, self._feed)

    def outputs(self) -> list[Array]:
        return list(self._found)
