"""What an exported program computes, as layers with weights and as scales and shifts between them.

Read off the graph of the program, by kind of operation; nothing is changed here.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .program_file import Array, Node, ProgramFile, users_of

_CONVOLUTIONS = ("conv2d", "depthwise_conv2d")
# A scale nearer to zero is not divided by.
TINY = 1e-6


@dataclass(frozen=True)
class Linear:
    """A convolution or matrix product with a constant weight.

    ``outer`` and ``inner`` are the weight's axes of outputs and inputs; ``axis`` is that of the
    channels in what it reads and gives; ``uniform``: a constant input gives a constant output.
    """

    node: Node
    outer: int
    inner: int
    groups: int
    axis: int
    uniform: bool


@dataclass(frozen=True)
class Affine:
    """``data * scale + shift``; the constants broadcast against the data."""

    node: Node
    data: int
    scale: Array
    shift: Array


class LinearParts:
    """A program with who makes and who reads each of its values."""

    def __init__(self, program: ProgramFile) -> None:
        self.program = program
        self.index()

    def index(self) -> None:
        """To be called when nodes were added or left out."""
        self.users = users_of(self.program.nodes)
        self.makers = {v: node for node in self.program.nodes for v in node.outputs}

    def constant(self, value: int) -> Array | None:
        """A value that no input changes, as an array; None for others."""
        node = self.makers.get(value)
        if node is None:
            return None
        name = self.program.parameter_name(node)
        if name is not None:
            return self.program.parameters[name]
        if node.name in ("full", "full_int_array"):
            number = node.attribute("value")
            if number is None:
                return None
            shape = self.program.shapes[value]
            dtype = "float32" if self.program.types.get(value) == "0.t_f32" else "int64"
            array = np.asarray(number, dtype)
            return np.full(shape, array) if array.ndim == 0 else array
        if node.name == "reshape":
            source, sizes = self.constant(node.inputs[0]), self.constant(node.inputs[1])
            if source is None or sizes is None:
                return None
            return source.reshape([int(size) for size in sizes])
        return None

    def linear(self, node: Node) -> Linear | None:
        """The node as a linear layer with a float32 weight of its own; None where it is none."""
        if len(node.inputs) < 2 or self._weight(node) is None:
            return None
        if node.name in _CONVOLUTIONS or node.name == "conv2d_transpose":
            if node.attribute("data_format") not in ("NCHW", "AnyLayout"):
                return None
            groups = int(node.attribute("groups", 1))
            if node.name == "conv2d_transpose":
                return Linear(node, 1, 0, groups, 1, False) if groups == 1 else None
            return Linear(node, 0, 1, groups, 1, self._unpadded(node))
        if node.name == "matmul" and not node.attribute("transpose_x", False):
            weight = self._weight(node)
            rank = len(self.program.shapes[node.inputs[0]])
            if weight is not None and weight.ndim == 2 and rank >= 2:
                outer = 0 if node.attribute("transpose_y", False) else 1
                return Linear(node, outer, 1 - outer, 1, rank - 1, True)
        return None

    def _weight(self, node: Node) -> Array | None:
        maker = self.makers.get(node.inputs[1])
        name = self.program.parameter_name(maker) if maker is not None else None
        if name is None or self.program.parameters[name].dtype != np.float32:
            return None
        return self.program.parameters[name]

    @staticmethod
    def _unpadded(node: Node) -> bool:
        explicit = node.attribute("padding_algorithm") in ("EXPLICIT", "VALID")
        valid = node.attribute("padding_algorithm") == "VALID"
        return explicit and (valid or not any(node.attribute("paddings", [1])))

    def affine(self, node: Node) -> Affine | None:
        """The node as a scale and a shift of its only operand that is not constant."""
        one, zero = np.ones((), np.float64), np.zeros((), np.float64)
        if node.name in ("add", "add_", "subtract", "multiply", "multiply_", "divide"):
            constants = [self.constant(value) for value in node.inputs]
            if (constants[0] is None) == (constants[1] is None):
                return None
            place = 0 if constants[0] is None else 1
            array = constants[1 - place]
            assert array is not None
            if array.dtype != np.float32:
                return None
            number, kind = array.astype(np.float64), node.name.strip("_")
            if kind == "add":
                return Affine(node, node.inputs[place], one, number)
            if kind == "multiply":
                return Affine(node, node.inputs[place], number, zero)
            if kind == "subtract":
                sign = 1.0 if place == 0 else -1.0
                return Affine(node, node.inputs[place], one * sign, -sign * number)
            if place == 0 and np.abs(number).min() > TINY:
                return Affine(node, node.inputs[place], 1 / number, zero)
            return None
        if node.name.strip("_") == "scale" and self.constant(node.inputs[1]) is not None:
            if self.program.types.get(node.inputs[0]) != "0.t_f32":
                return None
            factor = np.asarray(self.constant(node.inputs[1]), np.float64).reshape(())
            shift = np.asarray(node.attribute("bias", 0.0), np.float64)
            after = node.attribute("bias_after_scale", True)
            return Affine(node, node.inputs[0], factor, shift if after else shift * factor)
        if node.name == "batch_norm_" and len(node.inputs) == 5:
            return self._batch_norm(node)
        return None

    def _batch_norm(self, node: Node) -> Affine | None:
        frozen = node.attribute("is_test", False) or node.attribute("use_global_stats", False)
        numbers = [self.constant(value) for value in node.inputs[1:]]
        rank = len(self.program.shapes[node.inputs[0]])
        first = node.attribute("data_format") in ("NCHW", "NCL", "NC") or rank == 2
        if not frozen or not first or any(value in self.users for value in node.outputs[1:]):
            return None
        if any(array is None or array.dtype != np.float32 for array in numbers):
            return None
        mean, variance, scale, bias = (
            np.asarray(array, np.float64).reshape([-1, *[1] * (rank - 2)]) for array in numbers
        )
        factor = scale / np.sqrt(variance + float(node.attribute("epsilon")))
        return Affine(node, node.inputs[0], factor, bias - mean * factor)

    def along(self, array: Array, value: int, axis: int) -> Array | None:
        """A constant as one number for each channel of a value; None where it is something else."""
        shape = self.program.shapes[value]
        own = (1,) * (len(shape) - array.ndim) + array.shape
        if len(own) != len(shape) or any(size != 1 for k, size in enumerate(own) if k != axis):
            return None
        if own[axis] not in (1, shape[axis]) or shape[axis] < 1:
            return None
        return np.broadcast_to(array.reshape(-1), (shape[axis],)).astype(np.float64)

    def only_user(self, value: int) -> Node | None:
        users = self.users.get(value, [])
        return users[0][0] if len(users) == 1 else None
