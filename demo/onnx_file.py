"""Read and run ONNX files that ``paddle2onnx`` wrote.

Such a file has the parameters under the names that Paddle gave them, as initializers or as the
values of ``Constant`` nodes, except those that the conversion reshaped or cast: biases, weights of
transposed convolutions, scale and shift of layer norms. These are told by the node that reads them.
"""

from __future__ import annotations

import importlib.util
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ppocr_prune_plugin.errors import PruneError

Array = npt.NDArray[np.float32]

_CONVOLUTIONS = {"Conv": "conv2d", "ConvTranspose": "conv2d_transpose"}
_NAMED = re.compile(r"(.+_\d+)\.[wb]_\d+$")
# Nodes that hand a constant on as it is, whatever its shape.
_SAME_VALUES = ("Identity", "Reshape", "Cast", "Unsqueeze", "Squeeze")


def read_parameters(path: Path) -> dict[str, Array]:
    """Return ``{Paddle's name: array}`` of all parameters and statistics, in the order of use.

    Layers whose names the conversion lost get names of the same form, such as
    ``conv2d_transpose_unnamed_0.w_0``.

    Raises:
        FileNotFoundError: the file is not there.
        PruneError: the package ``onnx`` is not installed.
    """
    _require_onnx(path)
    import onnx

    graph = onnx.load(str(path)).graph
    return _Reader(graph, onnx.numpy_helper.to_array).read()


def run_model(path: Path, x: Array) -> Array:
    """Return the first output of the model for one input batch ``x`` (N, 3, H, W).

    It runs in ONNX Runtime where that is installed, else in the (much slower) reference
    implementation of the package ``onnx``.

    Raises:
        FileNotFoundError: the file is not there.
        PruneError: neither package is installed.
    """
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there")
    engine: Any
    if importlib.util.find_spec("onnxruntime") is not None:
        import onnxruntime

        engine = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        name = engine.get_inputs()[0].name
    else:
        _require_onnx(path)
        from onnx.reference import ReferenceEvaluator

        engine = ReferenceEvaluator(str(path))
        name = engine.input_names[0]
    output: Array = engine.run(None, {name: x})[0]
    return output


def _require_onnx(path: Path) -> None:
    if importlib.util.find_spec("onnx") is None:
        raise PruneError(
            f"{path} is read with the package onnx, which is not installed; install it with"
            " `pip install onnx`"
        )


class _Reader:
    def __init__(self, graph: Any, to_array: Any) -> None:
        self._nodes = list(graph.node)
        self._values: dict[str, tuple[str, Array]] = {}  # tensor → (the constant's name, values)
        for constant in graph.initializer:
            self._values[constant.name] = constant.name, to_array(constant)
        self._readers: dict[str, list[Any]] = {}
        for node in self._nodes:
            name = node.output[0]
            if node.op_type == "Constant":
                held = {attribute.name: attribute for attribute in node.attribute}
                if "value" in held:
                    self._values[name] = name, to_array(held["value"].t)
            elif node.op_type in _SAME_VALUES and node.input[0] in self._values:
                self._values[name] = self._values[node.input[0]]
            for tensor in node.input:
                self._readers.setdefault(tensor, []).append(node)
        self._unnamed: Counter[str] = Counter()
        self._found: dict[str, Array] = {}

    def read(self) -> dict[str, Array]:
        for node in self._nodes:
            kind, constants = node.op_type, self._constants(node)
            if kind in _CONVOLUTIONS and constants:
                weight, *rest = constants
                bias = rest[0] if rest else self._added(node)
                self._put(_CONVOLUTIONS[kind], {"w_0": weight, "b_0": bias})
            elif kind == "BatchNormalization":
                slots = zip(("w_0", "b_0", "w_1", "w_2"), constants, strict=True)
                self._put("batch_norm", dict(slots))
            elif kind == "MatMul" and constants:
                self._put("linear", {"w_0": constants[0], "b_0": self._added(node)})
            elif kind == "Mul" and constants:
                name, scale = constants[0]
                if _NAMED.match(name) and scale.size == 1:
                    self._put("affine", {"w_0": constants[0], "w_1": self._added(node)})
                elif scale.ndim == 1 and scale.size > 1:
                    self._put("layer_norm", {"w_0": constants[0], "b_0": self._added(node)})
        return self._found

    def _constants(self, node: Any) -> list[tuple[str, Array]]:
        return [self._values[name] for name in node.input if name in self._values]

    def _added(self, node: Any) -> tuple[str, Array] | None:
        """The constant that is added to what ``node`` gives, if one is."""
        output = node.output[0]
        readers = self._readers.get(output, [])
        while len(readers) == 1 and readers[0].op_type in ("Identity", "Cast"):
            output = readers[0].output[0]
            readers = self._readers.get(output, [])
        if len(readers) == 1 and readers[0].op_type == "Add":
            constants = self._constants(readers[0])
            return constants[0] if constants else None
        return None

    def _put(self, kind: str, slots: Mapping[str, tuple[str, Array] | None]) -> None:
        given = {slot: found for slot, found in slots.items() if found is not None}
        layer = _layer_name(name for name, _ in given.values())
        if layer is None:
            layer = f"{kind}_unnamed_{self._unnamed[kind]}"
            self._unnamed[kind] += 1
        for slot, (_, array) in given.items():
            flat = array if array.ndim == 1 or slot == "w_0" else array.reshape(-1)
            self._found.setdefault(f"{layer}.{slot}", flat)


def _layer_name(names: Iterable[str]) -> str | None:
    for name in names:
        match = _NAMED.match(name)
        if match:
            return match[1]
    return None
