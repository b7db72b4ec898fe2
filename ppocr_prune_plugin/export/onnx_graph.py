"""Rewrite ONNX graphs to what runtimes run faster, without changing what they compute.

ONNX Runtime keeps the values between convolutions in blocks of channels. An addition of a constant
is outside of that: the value is put into plain order before it and into blocks after it, at several
times the cost of the addition. A batch norm with the scale one is the same addition, and stays in
blocks; other runtimes take it as a scale and a shift like any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_SPATIAL = 4  # rank of a batch of images or maps


def rewrite(model: Any) -> int:
    """Rewrite a ``ModelProto`` in place: biases go into transposed convolutions, and other
    additions of one number for each channel become batch norms where a convolution reads them.

    Returns:
        How many additions went.
    """
    return _Rewriting(model.graph).run()


class _Rewriting:
    def __init__(self, graph: Any) -> None:
        from onnx import numpy_helper

        self.graph = graph
        self.outputs = {item.name for item in graph.output}
        self.constants: dict[str, Array] = {
            item.name: numpy_helper.to_array(item) for item in graph.initializer
        }
        self._resolve()
        self.makers = {output: node for node in graph.node for output in node.output}
        self.readers: dict[str, list[Any]] = {}
        for node in graph.node:
            for name in node.input:
                self.readers.setdefault(name, []).append(node)

    def _resolve(self) -> None:
        """Leave out what only hands a value on, and what only makes a constant."""
        from onnx import numpy_helper

        same: dict[str, str] = {}
        kept = []
        for node in self.graph.node:
            node.input[:] = [same.get(name, name) for name in node.input]
            output = node.output[0]
            if node.op_type == "Constant" and node.attribute[0].name == "value":
                self.constants[output] = numpy_helper.to_array(node.attribute[0].t)
            elif node.op_type == "Reshape" and all(name in self.constants for name in node.input):
                array, sizes = (self.constants[name] for name in node.input)
                if (sizes == 0).any():
                    kept.append(node)  # zero has a meaning of its own
                else:
                    self.constants[output] = array.reshape(sizes)
            elif node.op_type == "Identity" and output not in self.outputs:
                same[output] = node.input[0]
            else:
                kept.append(node)
        del self.graph.node[:]
        self.graph.node.extend(kept)

    def run(self) -> int:
        count = 0
        for node in [node for node in self.graph.node if node.op_type == "Add"]:
            places = [k for k, name in enumerate(node.input) if name in self.constants]
            if len(places) != 1:
                continue
            data, constant = node.input[1 - places[0]], self.constants[node.input[places[0]]]
            maker = self.makers.get(data)
            if maker is not None and maker.op_type == "ConvTranspose":
                count += self._bias(node, maker, constant)
            elif maker is not None and maker.op_type != "Conv":  # runtimes take that one as a bias
                count += self._batch_norm(node, data, constant)
        self._store()
        return count

    def _store(self) -> None:
        """Write the constants that something reads."""
        from onnx import numpy_helper

        read = self.outputs.union(*(node.input for node in self.graph.node))
        del self.graph.initializer[:]
        self.graph.initializer.extend(
            numpy_helper.from_array(array, name)
            for name, array in self.constants.items()
            if name in read
        )

    def _bias(self, node: Any, maker: Any, constant: Array) -> bool:
        """Give a transposed convolution its bias."""
        weight = self.constants.get(maker.input[1])
        group = next((a.i for a in maker.attribute if a.name == "group"), 1)
        alone = self.readers[maker.output[0]] == [node] and maker.output[0] not in self.outputs
        if weight is None or not alone or len(maker.input) > 2:
            return False
        vector = _per_channel(constant, weight.shape[1] * group)
        if vector is None:
            return False
        maker.input.append(self._constant(f"{node.output[0]}.bias", vector))
        maker.output[0] = node.output[0]
        self.graph.node.remove(node)
        return True

    def _batch_norm(self, node: Any, data: str, constant: Array) -> bool:
        """Make an addition in front of a convolution a batch norm."""
        from onnx import helper

        channels = self._channels(node.output[0])
        vector = None if channels is None else _per_channel(constant, channels)
        if vector is None:
            return False
        ones, zeros = np.ones_like(vector), np.zeros_like(vector)
        name = node.output[0]
        numbers = {"scale": ones, "shift": vector, "mean": zeros, "variance": ones}
        names = [self._constant(f"{name}.{key}", array) for key, array in numbers.items()]
        norm = helper.make_node(
            "BatchNormalization", [data, *names], [name], name=node.name, epsilon=0.0
        )
        node.CopyFrom(norm)
        return True

    def _channels(self, value: str) -> int | None:
        """Channels of a value that a convolution of images reads; None for others."""
        for reader in self.readers.get(value, []):
            weight = self.constants.get(reader.input[1]) if len(reader.input) > 1 else None
            if weight is None or weight.ndim != _SPATIAL or reader.input[0] != value:
                continue
            if reader.op_type == "Conv":
                group = next((a.i for a in reader.attribute if a.name == "group"), 1)
                return int(weight.shape[1] * group)
            if reader.op_type == "ConvTranspose":
                return int(weight.shape[0])
        return None

    def _constant(self, name: str, array: Array) -> str:
        self.constants[name] = array
        return name


def _per_channel(constant: Array, channels: int) -> Array | None:
    """A constant that is added to maps, as one number for each channel; None where it is more."""
    if constant.dtype != np.float32 or constant.ndim > _SPATIAL:
        return None
    shape = (1,) * (_SPATIAL - constant.ndim) + constant.shape
    if shape[0] != 1 or shape[2:] != (1, 1) or shape[1] not in (1, channels):
        return None
    return np.broadcast_to(constant.reshape(-1), (channels,)).copy()
