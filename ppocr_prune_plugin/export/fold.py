"""Fold what is linear around convolutions and linear layers into them, exactly.

Batch norms, scales and shifts that follow such a layer become part of its weight and bias. A scale
that comes before such layers is multiplied into their weights, through what it commutes with; a
shift is added to their biases, unless they pad with zeros, which it does not reach: there it stays
one addition. What is gated and added to itself, ``x * gate + x``, becomes ``x * (gate + 1)``, where
the gate is the smaller of the two. Works on the graph of an exported program, by kind of operation.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from .linear_parts import TINY, Affine, Linear, LinearParts
from .program_file import Array, Node, ProgramFile, load_program, users_of

_POOLS = ("pool2d",)
_RESIZES = ("nearest_interp", "bilinear_interp")
# They commute with a scale that is positive.
_HOMOGENEOUS = ("relu", "relu_", "leaky_relu", "leaky_relu_")
# How operations that folding removes are called in messages.
_NAMED = {
    "batch_norm_": "batch norms",
    "multiply": "multiplications",
    "add": "additions",
    "scale": "scales",
}


@dataclass(frozen=True)
class Folded:
    """How many operations a program had before and after, by kind, without parameters."""

    before: dict[str, int]
    after: dict[str, int]

    def __str__(self) -> str:
        gone = {name: count - self.after.get(name, 0) for name, count in self.before.items()}
        named = (f"{gone[name]} {word}" for name, word in _NAMED.items() if gone.get(name, 0) > 0)
        return ", ".join(named) or "nothing"


def fold(source: Path, target: Path) -> Folded:
    """Read an exported program and write it folded; both paths are without extensions.

    Raises:
        PruneError: the program cannot be read.
    """
    program = load_program(source)
    before = _counts(program)
    fold_program(program)
    program.save(target)
    return Folded(before, _counts(program))


def fold_program(program: ProgramFile) -> None:
    """The same in memory. Only float32 is folded; other parts stay as they are."""
    folder = _Folder(program)
    while folder.step():
        pass


def _counts(program: ProgramFile) -> dict[str, int]:
    found: dict[str, int] = {}
    for node in program.nodes:
        if program.parameter_name(node) is None:
            found[node.name] = found.get(node.name, 0) + 1
    return found


@dataclass
class _Absorbed:
    """What has to be changed for an operation to be left out."""

    changes: list[Callable[[], None]] = field(default_factory=list)
    visited: set[int] = field(default_factory=set)


class _Folder(LinearParts):
    def __init__(self, program: ProgramFile) -> None:
        super().__init__(program)
        self.new_names = 0

    # -- one change after another ---------------------------------------------------------------

    def step(self) -> bool:
        """Make one change; False where nothing is left to fold."""
        for node in self.program.nodes:
            affine = self.affine(node)
            if affine is None:
                changed = self._gated(node)
            else:
                changed = self._behind(affine) or self._ahead(affine)
            if changed:
                self.remove_unused()  # what is replaced still reads what it did
                return True
        return False

    def _gated(self, node: Node) -> bool:
        """Make ``x * gate + x`` one product with the gate, to which one is added."""
        if node.name.strip("_") != "add":
            return False
        for whole, product in (node.inputs, reversed(node.inputs)):
            maker = self.makers.get(product)
            if maker is None or maker.name.strip("_") != "multiply" or whole not in maker.inputs:
                continue
            gate = maker.inputs[1 - maker.inputs.index(whole)]
            shapes = [self.program.shapes[value] for value in (gate, whole, node.outputs[0])]
            if self.only_user(product) is not node or self.program.types.get(gate) != "0.t_f32":
                continue
            if len(shapes[0]) != len(shapes[1]) or shapes[1] != shapes[2]:
                continue
            if not any(own == 1 != size for own, size in zip(*shapes[:2], strict=True)):
                continue  # a gate of the same size: nothing is won
            self._raise_gate(node, whole, gate)
            return True
        return False

    def _raise_gate(self, node: Node, whole: int, gate: int) -> None:
        """Make a node ``whole * (gate + 1)``."""
        one = self._parameter(np.ones(1, np.float32))
        raised = self.program.new_value(self.program.shapes[gate], "float32")
        place = self.program.nodes.index(node)
        output = node.outputs[0]
        self.program.nodes[place : place + 1] = [
            self.program.node_like("add", _where(node), [gate, one.outputs[0]], raised),
            self.program.node_like("multiply", _where(node), [whole, raised], output),
        ]
        self.index()

    def _behind(self, affine: Affine) -> bool:
        """Fold into the linear layer that makes the operand."""
        if self.only_user(affine.data) is not affine.node:
            return False
        maker = self.makers.get(affine.data)
        bias = self.affine(maker) if maker is not None else None
        start = affine.data
        if bias is not None and bool(np.all(bias.scale == 1)):
            if self.only_user(bias.data) is not bias.node:
                return False
            maker, start = self.makers.get(bias.data), bias.data
        else:
            bias = None
        layer = self.linear(maker) if maker is not None else None
        if layer is None or (bias is None and bool(np.all(affine.scale == 1))):
            return False  # the latter is a bias already
        scale = self.along(np.asarray(affine.scale), start, layer.axis)
        shift = self.along(np.asarray(affine.shift), start, layer.axis)
        old = self.along(np.asarray(bias.shift), start, layer.axis) if bias is not None else 0.0
        if scale is None or shift is None or old is None:
            return False
        self._scale_weight(layer, scale, layer.outer)
        self._set_shift(affine.node, start, old * scale + shift, layer.axis)
        return True

    def _ahead(self, affine: Affine) -> bool:
        """Fold into everything that reads the result."""
        output = affine.node.outputs[0]
        for scale, shift in ((affine.scale, None), (None, affine.shift)):
            # One of the two; where an operation has both, it is taken apart by `_behind` alone.
            other_idle = np.all(affine.shift == 0) if shift is None else np.all(affine.scale == 1)
            if not bool(other_idle):
                continue
            found = _Absorbed()
            done = (
                self._absorb_scale(output, np.asarray(scale), found)
                if shift is None
                else self._absorb_shift(output, np.asarray(shift), found)
            )
            if done:
                for change in found.changes:
                    change()
                self._bypass(affine)
                return True
        return False

    def _absorb_scale(self, value: int, scale: Array, found: _Absorbed) -> bool:
        """Whether all that reads a value can do with the value divided by ``scale``."""
        if np.abs(scale).min() < TINY or not self.users.get(value):
            return False
        for user, place in self.users[value]:
            layer = self.linear(user)
            affine = self.affine(user)
            if layer is not None and place == 0:
                own = self.along(scale, value, layer.axis)
                if own is None:
                    return False
                found.changes.append(partial(self._scale_inputs, layer, own))
                continue
            if id(user) in found.visited:
                return False  # it would be scaled twice
            found.visited.add(id(user))
            output = user.outputs[0] if user.outputs else -1
            if affine is not None and user.name.strip("_") in ("add", "multiply"):
                if user.name.startswith("add"):
                    divided = affine.shift / scale
                    found.changes.append(partial(self._replace_constant, user, 1 - place, divided))
                inside: Array | None = scale
            elif user.name.strip("_") == "multiply":
                inside = scale
            else:
                inside = self._through(user, value, scale, 1.0, bool((scale > 0).all()))
                if user.name == "combine":
                    output = self._concatenated(user)
            if inside is None or not self._absorb_scale(output, inside, found):
                return False
        return True

    def _absorb_shift(self, value: int, shift: Array, found: _Absorbed) -> bool:
        """Whether all that reads a value can do with the value less ``shift``."""
        if not self.users.get(value):
            return False
        for user, place in self.users[value]:
            layer = self.linear(user)
            affine = self.affine(user)
            if layer is not None and place == 0:
                own = self.along(shift, value, layer.axis)
                if own is None or not layer.uniform:
                    return False
                found.changes.append(partial(self._shift_inputs, layer, own))
                continue
            if id(user) in found.visited:
                return False  # it would be shifted twice
            found.visited.add(id(user))
            output = user.outputs[0] if user.outputs else -1
            if affine is not None and user.name.strip("_") in ("add", "multiply"):
                inside: Array | None = shift * affine.scale
            elif user.name.strip("_") == "add" and self._same_shape(user):
                inside = shift
            else:
                inside = self._through(user, value, shift, 0.0, False)
                if user.name == "combine":
                    output = self._concatenated(user)
            if inside is None or not self._absorb_shift(output, inside, found):
                return False
        return True

    def _same_shape(self, node: Node) -> bool:
        shapes = [self.program.shapes[value] for value in (*node.inputs, *node.outputs)]
        return len({len(shape) for shape in shapes}) == 1 and len({s[1:2] for s in shapes}) == 1

    def _through(
        self, user: Node, value: int, array: Array, idle: float, positive: bool
    ) -> Array | None:
        """The constant behind an operation that it commutes with; None for other operations."""
        rank = len(self.program.shapes[value])
        if user.name in _HOMOGENEOUS:
            return array if positive else None
        if user.name in _POOLS:
            average = user.attribute("pooling_type") == "avg"
            if not average and not positive and idle:
                return None  # the largest of negative multiples is another one
            whole = user.attribute("exclusive", False) or not any(user.attribute("paddings", [0]))
            if idle == 0.0 and average and not (whole or user.attribute("global_pooling", False)):
                return None
            return array if rank == 4 and self.along(array, value, 1) is not None else None
        if user.name in _RESIZES:
            return array if rank == 4 and self.along(array, value, 1) is not None else None
        if user.name == "combine":
            concat = self.only_user(user.outputs[0])
            axis = self.constant(concat.inputs[1]) if concat is not None else None
            if concat is None or concat.name != "concat" or axis is None:
                return None
            own = self.along(array, value, int(axis.reshape(())) % rank)
            if own is None or int(axis.reshape(())) % rank != 1:
                return None
            pieces = []
            for operand in user.inputs:
                size = self.program.shapes[operand][1]
                pieces.append(own if operand == value else np.full(size, idle))
            if user.inputs.count(value) != 1 or sum(map(len, pieces)) < 1:
                return None
            return np.concatenate(pieces).reshape([-1, *[1] * (rank - 2)])
        return None

    def _concatenated(self, combine: Node) -> int:
        concat = self.only_user(combine.outputs[0])
        return concat.outputs[0] if concat is not None and concat.outputs else -1

    # -- changes --------------------------------------------------------------------------------

    def _scale_weight(self, layer: Linear, vector: Array, axis: int) -> None:
        weight = self._weight(layer.node)
        assert weight is not None
        shape = [1] * weight.ndim
        shape[axis] = -1
        self._set_weight(layer.node, weight * vector.reshape(shape))

    def _scale_inputs(self, layer: Linear, vector: Array) -> None:
        weight = self._weight(layer.node)
        assert weight is not None
        self._set_weight(layer.node, weight * self._per_weight(layer, weight, vector))

    def _shift_inputs(self, layer: Linear, vector: Array) -> None:
        weight = self._weight(layer.node)
        assert weight is not None
        products = weight.astype(np.float64) * self._per_weight(layer, weight, vector)
        added = products.sum(axis=tuple(k for k in range(weight.ndim) if k != layer.outer))
        output = layer.node.outputs[0]
        user = self.only_user(output)
        bias = self.affine(user) if user is not None else None
        old = (
            self.along(np.asarray(bias.shift), output, layer.axis)
            if bias is not None and bool(np.all(bias.scale == 1))
            else None
        )
        if user is not None and old is not None:
            self._set_shift(user, output, old + added, layer.axis)
        else:
            self._insert_shift(layer, added)

    @staticmethod
    def _per_weight(layer: Linear, weight: Array, vector: Array) -> Array:
        """A number for each input channel, laid out like the weight."""
        if layer.groups == 1:
            shape = [1] * weight.ndim
            shape[layer.inner] = -1
            return vector.reshape(shape)
        outputs, inputs = weight.shape[:2]
        group = np.arange(outputs) // (outputs // layer.groups)
        rows = vector[group[:, None] * inputs + np.arange(inputs)[None, :]]
        return rows.reshape(outputs, inputs, *[1] * (weight.ndim - 2))

    def _set_weight(self, node: Node, array: Array) -> None:
        maker = self.makers[node.inputs[1]]
        name = self.program.parameter_name(maker)
        assert name is not None
        array = array.astype(np.float32)
        if len(self.users[maker.outputs[0]]) == 1:
            self.program.parameters[name] = array
            return
        new = self._parameter(array)
        node.inputs[1] = new.outputs[0]
        self.index()

    def _set_shift(self, node: Node, data: int, vector: Array, axis: int) -> None:
        """Make a node ``data + vector``."""
        made, value = self._constant_nodes(vector, len(self.program.shapes[data]), axis)
        place = self.program.nodes.index(node)
        sum_node = self.program.node_like("add", _where(node), [data, value], node.outputs[0])
        self.program.nodes[place : place + 1] = [*made, sum_node]
        self.index()

    def _insert_shift(self, layer: Linear, vector: Array) -> None:
        """Add a bias behind a layer that has none."""
        old = layer.node.outputs[0]
        shape = self.program.shapes[old]
        new = self.program.new_value(shape, "float32")
        for user, place in self.users.get(old, []):
            user.inputs[place] = new
        made, value = self._constant_nodes(vector, len(shape), layer.axis)
        node = self.program.node_like("add", _where(layer.node), [old, value], new)
        place = self.program.nodes.index(layer.node)
        self.program.nodes[place + 1 : place + 1] = [*made, node]
        self.index()

    def _replace_constant(self, node: Node, place: int, array: Array) -> None:
        new = self._parameter(np.asarray(array, np.float32).reshape(array.shape or (1,)))
        node.inputs[place] = new.outputs[0]
        self.index()

    def _constant_nodes(self, vector: Array, rank: int, axis: int) -> tuple[list[Node], int]:
        """Nodes that make a per-channel constant, as Paddle's own layers make their biases."""
        parameter = self._parameter(vector.astype(np.float32))
        value = parameter.outputs[0]
        if axis == rank - 1:
            return [], value
        shape = [1] * rank
        shape[axis] = -1
        size = self.program.new_value((rank,), "int64")
        numbers = {"#": "0.a_array", "D": [{"#": "0.a_i64", "D": n} for n in shape]}
        sizes = self.program.node_like(
            "full_int_array",
            {
                "value": numbers,
                "dtype": {"#": "1.a_dtype", "D": "int64"},
                "place": {"#": "1.a_place", "D": [1, 0, ""]},
            },
            [],
            size,
        )
        shape[axis] = len(vector)
        result = self.program.new_value(shape, "float32")
        return [sizes, self.program.node_like("reshape", {}, [value, size], result)], result

    def _parameter(self, array: Array) -> Node:
        """A new parameter, at the head of the program."""
        self.new_names += 1
        name = f"folded_{self.new_names}.b_0"
        while name in self.program.parameters:
            self.new_names += 1
            name = f"folded_{self.new_names}.b_0"
        node = self.program.new_parameter(name, array)
        self.program.nodes.insert(0, node)
        return node

    def _bypass(self, affine: Affine) -> None:
        """Let all that reads the result read the operand."""
        for user, place in users_of(self.program.nodes).get(affine.node.outputs[0], []):
            user.inputs[place] = affine.data
        self.program.nodes.remove(affine.node)

    def remove_unused(self) -> None:
        """Remove operations that nothing reads."""
        needed: set[int] = set()
        kept = []
        for node in reversed(self.program.nodes):
            if node.name in ("fetch", "shadow_output") or needed.intersection(node.outputs):
                needed.update(node.inputs)
                kept.append(node)
            elif node.name == "data":
                kept.append(node)  # an input stays an input
        self.program.nodes[:] = reversed(kept)
        self.index()


def _where(node: Node) -> dict[str, Any]:
    """The attribute that says which layer an operation belongs to."""
    return {
        item["N"]: item["AT"]
        for item in node.raw.get("A", ())
        if isinstance(item, dict) and item.get("N") == "struct_name"
    }
