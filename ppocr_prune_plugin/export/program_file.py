"""Exported programs (``inference.json`` and ``.pdiparams``) as graphs that can be rewritten.

Paddle's program in JSON is a list of operations whose operands and results are numbered values;
parameters stand in a second file, in the order of their names. Only what a rewrite needs is
understood here; everything else is written back as it was read.
"""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ..errors import PruneError
from ..files import replacing, write_atomically

Array = npt.NDArray[Any]
Raw = dict[str, Any]

_PARAMETER = "p"
# Paddle's numbers for element types (framework.proto), and how NumPy calls them.
_TYPES: dict[int, str] = {0: "bool", 2: "int32", 3: "int64", 4: "float16", 5: "float32"}
_TYPES |= {6: "float64", 20: "uint8", 21: "int8"}
_NUMBERS = {name: number for number, name in _TYPES.items()}
_JSON_TYPES = {"float32": "0.t_f32", "int64": "0.t_i64"}


@dataclass(eq=False)
class Node:
    """One operation: its name without the dialect, and the numbers of operands and results.

    ``raw`` is its JSON, which the numbers replace when it is written.
    """

    name: str
    inputs: list[int]
    outputs: list[int]
    raw: Raw

    def attribute(self, name: str, default: Any = None) -> Any:
        """Value of an attribute as plain Python; ``default`` where there is none."""
        for item in self.raw.get("A", ()):
            if isinstance(item, dict) and item.get("N") == name:
                return _plain(item["AT"])
        return default


@dataclass
class ProgramFile:
    """An exported program with its parameters, by name; ``shapes`` and ``types`` of values as the
    file states them (an unknown size is -1)."""

    content: Raw
    nodes: list[Node]
    parameters: dict[str, Array]
    shapes: dict[int, tuple[int, ...]] = field(default_factory=dict)
    types: dict[int, str] = field(default_factory=dict)

    def parameter_name(self, node: Node) -> str | None:
        """Name of the parameter that a node stands for; None where it stands for something else."""
        return str(node.raw["A"][3]) if node.name == _PARAMETER else None

    def new_value(self, shape: Sequence[int], like: str) -> int:
        """Number of a value that is new."""
        number = max(self.shapes, default=0) + 1
        self.shapes[number], self.types[number] = tuple(shape), _JSON_TYPES[like]
        return number

    def new_parameter(self, name: str, array: Array) -> Node:
        """A node that stands for a new parameter (float32), not in the program yet."""
        self.parameters[name] = array
        value = self.new_value(array.shape, str(array.dtype))
        raw = copy.deepcopy(next(n.raw for n in self.nodes if n.name == _PARAMETER))
        raw["A"][3] = name
        return Node(_PARAMETER, [], [value], raw)

    def node_like(self, name: str, attributes: Raw, inputs: list[int], output: int) -> Node:
        """A new operation of Paddle's own dialect; ``attributes`` are tagged as in the file."""
        raw = {
            "#": f"1.{name}",
            "A": [{"AT": value, "N": key} for key, value in attributes.items()],
            "OA": [
                {
                    "AT": {"#": "0.a_array", "D": [{"#": "0.a_bool", "D": False}]},
                    "N": "stop_gradient",
                }
            ],
        }
        return Node(name, inputs, [output], raw)

    def save(self, prefix: Path) -> None:
        """Write ``prefix.json`` and ``prefix.pdiparams``; each is whole or not there."""
        content = copy.deepcopy(self.content)
        _block(content)["ops"] = [self._written(node) for node in self.nodes]
        used = {self.parameter_name(node) for node in self.nodes}
        arrays = {name: array for name, array in self.parameters.items() if name in used}
        with replacing(Path(f"{prefix}.pdiparams")) as file:
            file.writelines(_tensor_bytes(arrays[name]) for name in sorted(arrays))
        write_atomically(Path(f"{prefix}.json"), json.dumps(content, separators=(",", ":")))

    def _written(self, node: Node) -> Raw:
        raw = dict(node.raw)
        if node.name == _PARAMETER:
            raw["O"] = self._typed(node.outputs[0], raw.get("O"))
            return raw
        raw["I"] = [{"%": number} for number in node.inputs]
        old = raw.get("O", [])
        raw["O"] = [
            self._typed(number, old[place] if place < len(old) else None)
            for place, number in enumerate(node.outputs)
        ]
        return raw

    def _typed(self, number: int, old: Raw | None) -> Raw:
        if old is not None and old["%"] == number:
            return old
        shape = [{"#": self.types[number]}, list(self.shapes[number]), "NCHW", [], 0]
        return {"%": number, "TT": {"#": "0.t_dtensor", "D": shape}}


def load_program(prefix: Path) -> ProgramFile:
    """Read ``prefix.json`` and ``prefix.pdiparams``.

    Raises:
        PruneError: a file is missing or damaged, or the program is of a form that is not known.
    """
    path = Path(f"{prefix}.json")
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        operations = _block(content)["ops"]
        nodes = [_node(raw) for raw in operations]
        program = ProgramFile(content, nodes, {})
        for raw in operations:
            for result in [raw["O"]] if raw["#"] == _PARAMETER else raw["O"]:
                kind = result["TT"]
                if kind.get("#") == "0.t_dtensor":
                    program.types[result["%"]] = kind["D"][0]["#"]
                    program.shapes[result["%"]] = tuple(kind["D"][1])
                else:
                    program.shapes[result["%"]] = ()
        # One parameter may stand in the program twice.
        names = sorted({n for n in map(program.parameter_name, nodes) if n is not None})
        data = Path(f"{prefix}.pdiparams").read_bytes()
        program.parameters = dict(zip(names, _tensors(data), strict=True))
        for node in nodes:
            name = program.parameter_name(node)
            if name is None:
                continue
            if program.parameters[name].shape != program.shapes[node.outputs[0]]:
                raise ValueError(f"{name} has another shape in the second file")
    except OSError as error:
        raise PruneError(f"{error.filename}: cannot be read: {error.strerror}") from error
    except (KeyError, IndexError, TypeError, ValueError, struct.error) as error:
        raise PruneError(
            f"{path}: is not an exported program of a form that is known here "
            f"({type(error).__name__}: {error})"
        ) from error
    return program


def _block(content: Raw) -> Raw:
    regions = content["program"]["regions"]
    if len(regions) != 1 or len(regions[0]["blocks"]) != 1:
        raise ValueError("it has several blocks")
    block: Raw = regions[0]["blocks"][0]
    return block


def _node(raw: Raw) -> Node:
    if raw["#"] == _PARAMETER:
        return Node(_PARAMETER, [], [raw["O"]["%"]], raw)
    if raw.get("regions"):
        raise ValueError(f"{raw['#']} has blocks inside")
    name = str(raw["#"]).partition(".")[2]
    return Node(name, [v["%"] for v in raw["I"]], [v["%"] for v in raw["O"]], raw)


def _plain(attribute: Mapping[str, Any]) -> Any:
    value = attribute.get("D")
    if attribute.get("#") == "0.a_array":
        return [_plain(item) for item in value or ()]
    return value


def users_of(nodes: Iterable[Node]) -> dict[int, list[tuple[Node, int]]]:
    """Value → the operations that read it, with the place among their operands."""
    found: dict[int, list[tuple[Node, int]]] = {}
    for node in nodes:
        for place, number in enumerate(node.inputs):
            found.setdefault(number, []).append((node, place))
    return found


def _tensors(data: bytes) -> Iterator[Array]:
    """The tensors of a ``.pdiparams`` file: version, levels, version, description, numbers."""
    position = 0
    while position < len(data):
        version, levels = struct.unpack_from("<IQ", data, position)
        position += 12
        for _ in range(levels):
            (size,) = struct.unpack_from("<Q", data, position)
            position += 8 + size
        again, length = struct.unpack_from("<Ii", data, position)
        position += 8
        if version or again or not 0 < length < 1000:
            raise ValueError("the parameters are not in Paddle's format")
        kind, shape = _description(data[position : position + length])
        position += length
        dtype = np.dtype(_TYPES[kind])
        count = int(np.prod(shape, dtype=np.int64))
        if count < 0 or position + count * dtype.itemsize > len(data):
            raise ValueError("the parameters are cut off")
        yield np.frombuffer(data, dtype, count, position).reshape(shape).copy()
        position += count * dtype.itemsize


def _description(data: bytes) -> tuple[int, tuple[int, ...]]:
    """Element type (field 1) and sizes (field 2, packed or not) of a protobuf TensorDesc."""
    kind, shape, position = -1, [], 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = data[position]
            position += 1
            value |= (byte & 127) << shift
            shift += 7
            if not byte & 128:
                return value

    while position < len(data):
        tag = number()
        if tag == 0x08:
            kind = number()
        elif tag == 0x10:
            shape.append(number())
        elif tag == 0x12:
            end = number() + position
            while position < end:
                shape.append(number())
        else:
            raise ValueError(f"a tensor's description has the unknown field {tag >> 3}")
    return kind, tuple(shape)


def _tensor_bytes(array: Array) -> bytes:
    description = b"\x08" + _varint(_NUMBERS[str(array.dtype)])
    description += b"".join(b"\x10" + _varint(size) for size in array.shape)
    head = struct.pack("<IQIi", 0, 0, 0, len(description))
    return head + description + np.ascontiguousarray(array).tobytes()


def _varint(value: int) -> bytes:
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])
