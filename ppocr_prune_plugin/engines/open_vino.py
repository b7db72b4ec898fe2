"""OpenVINO on the CPU."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import PruneError
from .interface import Array, Engine, Input, Session


class OpenVino(Engine):
    """One stream, for the latency of single images; models are compiled for the sizes that they are
    prepared with."""

    name = "openvino"
    title = "OpenVINO"
    module = "openvino"
    install = 'pip install "ppocr-prune-plugin[openvino]"'

    def load(self, model: Path) -> Session:
        import openvino

        if not model.is_file():
            raise PruneError(f"{model}: is no ONNX file")
        core = openvino.Core()
        settings = {"INFERENCE_NUM_THREADS": self.threads, "NUM_STREAMS": 1}
        return _Session(core, core.read_model(str(model)), settings)


class _Session(Session):
    def __init__(self, core: Any, model: Any, settings: dict[str, int]) -> None:
        self._core, self._model, self._settings = core, model, settings
        self._request: Any = None
        self._precision = ""
        self.inputs = tuple(
            Input(
                item.get_any_name(),
                tuple(-1 if size.is_dynamic else size.get_length() for size in item.partial_shape),
                np.dtype(item.element_type.to_dtype()).name,
            )
            for item in model.inputs
        )

    def prepare(self, arrays: Sequence[Array]) -> None:
        chosen = list(zip(self.inputs, arrays, strict=False))
        self._model.reshape({item.name: list(array.shape) for item, array in chosen})
        compiled = self._core.compile_model(self._model, "CPU", self._settings)
        self._precision = compiled.get_property("INFERENCE_PRECISION_HINT").to_string()
        self._request = compiled.create_infer_request()
        self._request.infer({item.name: array for item, array in chosen})

    def run(self) -> None:
        self._request.infer()

    @property
    def how(self) -> str:
        """In the precision that OpenVINO chooses for this processor."""
        return self._precision

    def outputs(self) -> list[Array]:
        return [np.array(item.data) for item in self._request.output_tensors]
