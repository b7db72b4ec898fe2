"""Trace a ``paddle.nn.Layer`` into a small program of plain Python objects.

The tracer is Paddle's own: ``paddle.jit.to_static(..., full_graph=True)`` gives a PIR program
(Paddle >= 3.0). Everything that the rest of the package needs from it is copied into the classes
below, so that rules and groups do not depend on PIR's Python bindings.
"""

from __future__ import annotations

import inspect
import sys
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import paddle

from ..errors import PruneError

# Where Paddle keeps what it has of a program that is being traced; the second is that of 3.0.
_RECORDERS = (
    "paddle.jit.dy2static.parameter_recorder",
    "paddle.jit.pir_dy2static.parameter_recorder",
)

# Of a call stack: Paddle's own from an operation to the model's line are a dozen, and three more
# for each list of layers between them. Where nobody asks for the line, one: Paddle wants some.
_FRAMES, _NO_FRAMES = 24, 1

_DROPPED_ATTRS = frozenset({"op_callstack", "op_role", "place", "dtype", "stop_gradient"})


@dataclass(eq=False)
class Value:
    """One tensor of the program.

    ``shape`` is None where Paddle knows none (a list of tensors, say); a dimension that it does
    not know is -1. ``parameter`` is the structured name (``backbone.conv1.weight``) of the
    parameter or buffer that the value is; ``elements`` are the members of a list of tensors.
    """

    shape: tuple[int, ...] | None
    parameter: str | None = None
    constant: Any = None
    elements: tuple[Value, ...] | None = None


@dataclass(eq=False)
class Op:
    """One operation: its PIR name without the ``pd_op.`` dialect, operands, results, attributes.

    ``layer`` names the classes of the layers that it ran in (``SVTRNet/Block/Attention``), ``site``
    the line of the model's code (neither is an identity), or "" where nobody asked for it.
    ``captured`` holds what the blocks inside it (a loop's body, say) use from outside.
    """

    name: str
    inputs: tuple[Value | None, ...]
    outputs: tuple[Value, ...]
    attrs: Mapping[str, Any]
    layer: str = ""
    site: str = ""
    captured: tuple[Value, ...] = ()


@dataclass
class Program:
    """A traced network: its operations in order, its parameters and what it returns; ``plain``
    where its code ran as it stands, ``training`` where it was traced as it trains."""

    ops: list[Op]
    outputs: list[Value]
    parameter_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    plain: bool = True
    training: bool = True


def structured_names(model: paddle.nn.Layer) -> dict[str, str]:
    """Map Paddle's own name of each parameter and buffer to its structured name."""
    names: dict[str, str] = {}
    for structured, tensor in list(model.named_parameters()) + list(model.named_buffers()):
        names.setdefault(tensor.name, structured)
    return names


def is_spec(item: Any) -> bool:
    """Whether an input is a tensor known by shape and type alone: ``(shape, dtype)``."""
    return isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], str)


def map_inputs(inputs: Any, leaf: Callable[[Any], Any]) -> Any:
    """Apply a function to what is not a list in nested lists of inputs, in order."""
    if isinstance(inputs, list):
        return [map_inputs(item, leaf) for item in inputs]
    return leaf(inputs)


def trace(
    model: paddle.nn.Layer, inputs: Sequence[Any], training: bool, sites: bool = False
) -> Program:
    """Trace ``model.forward`` with inputs of fixed shapes; nothing is computed.

    Args:
        model: the network; its mode is put back afterwards.
        inputs: positional arguments of ``forward``, nested as the model takes them:
            tensors are arrays or ``(shape, dtype)`` pairs, and their values are unknown; what else
            there is (strings, say) is given to the model as it is.
        training: trace the network as it trains (True) or as it is deployed.
        sites: note the lines of the model's code, which takes a quarter of the time of a trace.

    Raises:
        PruneError: Paddle cannot trace the model.
    """
    try:
        return _trace(model, inputs, training, True, sites)
    except Exception:  # the model's code asks tensors for their values: let Paddle translate it
        pass
    try:
        return _trace(model, inputs, training, False, sites)
    except Exception as error:
        raise PruneError(
            f"Paddle {paddle.__version__} cannot trace this {type(model).__name__} in "
            f"{'training' if training else 'evaluation'} mode, so its channel groups are unknown "
            f"and it cannot be pruned. Paddle says: {type(error).__name__}: {_first_line(error)}"
        ) from error


def _trace(
    model: paddle.nn.Layer,
    inputs: Sequence[Any],
    training: bool,
    plain: bool,
    sites: bool,
    layers: _Layers | None = None,
) -> Program:
    """``plain``: run the code as Python does. Loops and conditions on tensors raise then; all else
    gives the same program several times faster than code that Paddle has translated first.
    ``layers`` learns which layers make the operations."""
    layers = layers or _Layers()
    _forget_failed_traces()
    forward, specs = _forward_of_unknown(model, inputs)
    modes = [(layer, layer.training) for layer in model.sublayers(include_self=True)]
    model.train() if training else model.eval()
    try:
        static = paddle.jit.to_static(
            MethodType(paddle.jit.not_to_static(forward) if plain else forward, model),
            input_spec=[specs],
            full_graph=True,
        )
        with (
            layers.recorded(), methods_translated_once(), _words_as_numbers(),
            _short_stacks(sites) if plain else nullcontext(),
        ):  # fmt: skip
            concrete = static.concrete_program
        copied = _copy(concrete.main_program, concrete.outputs, structured_names(model), layers)
        copied.parameter_shapes = _shapes(model) | copied.parameter_shapes
        copied.plain, copied.training = plain, training
        return copied
    finally:
        for layer, mode in modes:
            layer.training = mode
        _forget_failed_traces()


class _Layers:
    """The layers that run while a program is made, by a number that each operation bears.

    Paddle notes them, too (``name_struct``), but lists the whole program twice per call of a layer
    for it: of a decoder with 500 steps that is most of the time of a trace.
    """

    def __init__(self) -> None:
        self._paths: list[str] = []

    def of(self, attrs: Mapping[str, Any]) -> str:
        """Classes of the layers that an operation with these attributes was made in."""
        number = attrs.get("op_role")
        return "" if number is None else self._paths[number]

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Number the operations that are made in this context."""
        module = paddle.nn.layer.layers
        original = module.name_struct
        module.name_struct = self._within
        try:
            yield
        finally:
            module.name_struct = original

    @contextmanager
    def _within(self, cls: str) -> Iterator[None]:
        pir = paddle.base.core.pir
        before = pir.get_op_role()
        self._paths.append(f"{self.of({'op_role': before})}/{cls}" if before >= 0 else cls)
        pir.set_op_role(len(self._paths) - 1)  # which means nothing where nothing is computed
        try:
            yield
        finally:
            pir.set_op_role(before)


_TRANSLATED: MutableMapping[Any, Any] = weakref.WeakKeyDictionary()


@contextmanager
def methods_translated_once() -> Iterator[None]:
    """Paddle keeps translated functions by weak references to what it was given, and a bound
    method is gone at once: it translates each layer's code each time that it is called. Keep it by
    the method's function, which is the same for all layers of a class."""
    module = sys.modules.get("paddle.jit.dy2static.program_translator")
    cache: Any = getattr(module, "_FUNCTION_CACHE", None)
    original = getattr(cache, "convert_with_cache", None)
    if original is None:
        yield
        return

    def convert_with_cache(function: Any) -> Any:
        if not inspect.ismethod(function):
            return original(function)
        if function.__func__ not in _TRANSLATED:
            _TRANSLATED[function.__func__] = original(function)
        return _TRANSLATED[function.__func__]

    cache.convert_with_cache = convert_with_cache
    try:
        yield
    finally:
        del cache.convert_with_cache


@contextmanager
def _words_as_numbers() -> Iterator[None]:
    """``paddle.full(shape, "-inf")``, as masks of attention are often written, is a number where
    Paddle computes, and an error where it traces."""
    module = paddle.tensor.creation
    original = module.fill_constant

    def fill_constant(shape: Any, dtype: Any, value: Any, *args: Any, **kwargs: Any) -> Any:
        value = float(value) if isinstance(value, str) else value
        return original(shape, dtype, value, *args, **kwargs)

    module.fill_constant = fill_constant
    try:
        yield
    finally:
        module.fill_constant = original


@contextmanager
def _short_stacks(sites: bool) -> Iterator[None]:
    """Paddle notes the Python call stack with every operation and parameter that it makes, which
    takes a third of the time of a trace; :func:`_site` needs its innermost lines alone."""
    before = getattr(sys, "tracebacklimit", None)
    sys.tracebacklimit = _FRAMES if sites else _NO_FRAMES
    try:
        yield
    finally:
        if before is None:
            del sys.tracebacklimit
        else:
            sys.tracebacklimit = before


def _forget_failed_traces() -> None:
    """Empty what Paddle keeps of a program while it is traced, and forgets to empty on an error.

    It stands there under the program's address: a later program at the same address would be given
    values of the one that is gone, and Paddle would crash.
    """
    for name in _RECORDERS:
        for recorder in ("_global_parameter_recorder", "_global_inplace_map"):
            for table in ("params_dict", "tensor2value"):
                entries = getattr(getattr(sys.modules.get(name), recorder, None), table, None)
                if isinstance(entries, dict):
                    entries.clear()


def _shapes(model: paddle.nn.Layer) -> dict[str, tuple[int, ...]]:
    """Of all parameters and buffers: also of those that this mode does not use."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    return {name: tuple(tensor.shape) for name, tensor in tensors}


def _forward_of_unknown(model: paddle.nn.Layer, inputs: Sequence[Any]) -> tuple[Any, list[Any]]:
    """``forward`` as a function of the model and the list of what is unknown, and that list. (Only
    of a method's model does Paddle list the parameters first, which the layers' names on
    operations rely on.)"""
    original = _dygraph_forward(model)
    specs: list[Any] = []

    def hold(item: Any) -> Any:
        if isinstance(item, np.ndarray):
            item = (item.shape, str(item.dtype))
        if not is_spec(item):
            return item
        specs.append(paddle.static.InputSpec(list(item[0]), item[1]))
        return _Unknown(len(specs) - 1)

    held = map_inputs(list(inputs), hold)

    def run(self: paddle.nn.Layer, unknown: Any) -> Any:
        return original(*_filled(held, unknown))

    return run, specs


@dataclass(frozen=True)
class _Unknown:
    """The place of an unknown input."""

    index: int


def _filled(held: Any, unknown: Sequence[Any]) -> Any:
    return map_inputs(held, lambda item: unknown[item.index] if type(item) is _Unknown else item)


def trace_as_far(
    model: paddle.nn.Layer, inputs: Sequence[Any], program: Program
) -> tuple[list[Op], bool]:
    """The operations of the model, up to the one that cannot be traced, and whether there is none
    such; traced as ``program`` was."""
    programs: list[Any] = []
    layers = _Layers()

    def remember(layer: paddle.nn.Layer, arguments: Any) -> None:
        programs[:] = [paddle.static.default_main_program()]

    hooks = [layer.register_forward_pre_hook(remember) for layer in model.sublayers()]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the first trace has shown them
            return _trace(model, inputs, program.training, program.plain, False, layers).ops, True
    except Exception:  # whatever the model's code or Paddle raises at these widths
        copier = _Copier({}, layers)
        ops = programs[0].global_block().ops if programs else []
        return [copier.op(raw) for raw in ops], False
    finally:
        for hook in hooks:
            hook.remove()


def _dygraph_forward(model: paddle.nn.Layer) -> Any:
    """``model.forward``, or what it was before ``to_static`` wrapped it."""
    forward = model.forward
    return getattr(forward, "dygraph_function", forward)


def _first_line(error: Exception) -> str:
    """The line that names what is wrong; Paddle wraps it in code before and advice after."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    named = [line.split("Error: ", 1)[1] for line in lines if "Error: " in line]
    return [*lines, *named][-1][:300] if lines else ""


def _shape(value: Any) -> tuple[int, ...] | None:
    try:
        return tuple(int(size) for size in value.shape)
    except (ValueError, TypeError, RuntimeError):
        return None  # a list of tensors has none; reading it raises


_PADDLE = str(Path(paddle.__file__).parent)


def _site(stack: Sequence[str]) -> str:
    """The innermost line outside Paddle in an operation's call stack."""
    for line in reversed(stack):
        if line.lstrip().startswith("File ") and _PADDLE not in line:
            return line.strip()
    return ""


class _Copier:
    def __init__(self, names: Mapping[str, str], layers: _Layers) -> None:
        self.names = names
        self.layers = layers
        self.values: dict[int, Value] = {}
        self.parameters: dict[str, tuple[int, ...]] = {}

    def value(self, raw: Any) -> Value | None:
        if raw is None or not raw.initialized():
            return None  # an optional operand that was not given
        key = raw.hash()
        if key not in self.values:
            self.values[key] = Value(_shape(raw))
        return self.values[key]

    def op(self, raw: Any) -> Op:
        name = raw.name().removeprefix("pd_op.")
        given = raw.attrs()
        attrs = {k: v for k, v in given.items() if k not in _DROPPED_ATTRS}
        inputs = tuple(self.value(v) for v in raw.operands_source())
        outputs = tuple(v for v in map(self.value, raw.results()) if v is not None)
        if name == "builtin.parameter":
            paddle_name = attrs["parameter_name"]
            paddle_name = paddle_name[0] if isinstance(paddle_name, list) else paddle_name
            outputs[0].parameter = self.names.get(paddle_name)
            if outputs[0].parameter is not None and outputs[0].shape is not None:
                self.parameters[outputs[0].parameter] = outputs[0].shape
        elif name in ("full", "full_int_array"):
            outputs[0].constant = attrs.get("value")
        elif name == "builtin.combine":
            outputs[0].elements = tuple(v for v in inputs if v is not None)
        return Op(
            name=name,
            inputs=inputs,
            outputs=outputs,
            attrs=attrs,
            layer=self._layer(raw, given),
            site=_site(given.get("op_callstack") or ()),
            captured=tuple(self._captured(raw)),
        )

    def _layer(self, raw: Any, attrs: Mapping[str, Any]) -> str:
        """What holds blocks bears no number: it is made where its condition is."""
        if "op_role" not in attrs and list(raw.blocks()) and raw.operands_source():
            attrs = raw.operands_source()[0].get_defining_op().attrs()
        return self.layers.of(attrs)

    def _captured(self, raw: Any) -> Iterator[Value]:
        for block in raw.blocks():
            for inner in block.ops:
                for operand in inner.operands_source():
                    value = self.value(operand)
                    if value is not None:
                        yield value
                yield from self._captured(inner)


def _copy(program: Any, outputs: Any, names: Mapping[str, str], layers: _Layers) -> Program:
    copier = _Copier(names, layers)
    ops = [copier.op(raw) for raw in program.global_block().ops]
    results = [
        copier.value(raw)
        for raw in paddle.utils.flatten(outputs)
        if isinstance(raw, paddle.pir.Value)
    ]
    return Program(ops, [v for v in results if v is not None], copier.parameters)
