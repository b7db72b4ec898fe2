"""What else holds tensors of a network's parameters by the time that it is pruned.

A training program keeps more than the network: an optimizer's accumulators and master weights, a
moving average for evaluation, what was loaded from a checkpoint and waits for the first step. They
are found by what they hold, not by class: mappings from a parameter's name (the structured one or
Paddle's own, which accumulators extend by a suffix), from the parameter itself or its ``id``, and
containers, nested ones too, that have the parameters' order and numbers of axes; in any object that
can be reached from given roots.
"""

from __future__ import annotations

import functools
import types
from collections import deque
from collections.abc import Callable, Iterator, Mapping, MutableMapping, MutableSequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from .errors import PruneError
from .graph.live import tensors_of, write
from .surgery import Masks, cut

Array = npt.NDArray[Any]
Put = Callable[[Array], None]
_Leaf = tuple[str, Any, Any, Any]  # where it is, the container, the key there, the tensor

_LEAVES = (str, bytes, int, float, complex, type(None), type, types.ModuleType)
# What DataParallel and other wrappers put before a network's own names.
_WRAPPERS = ("_layers.", "module.")
# A layer keeps its own parameters in these.
_OF_LAYERS = ("_parameters", "_buffers")
# Cosine from which on a tensor counts as a copy or an average of its parameter.
_ALIKE = 0.5
# Containers in each other that may hold one set of parameters together.
_NESTED = 3


class Holders:
    """Everything in reach of ``roots`` that holds tensors of the parameters of ``model``.

    Args:
        model: the network, with the widths that it has now; not its ``DataParallel``.
        roots: objects to search, by the names that messages call them by.
    """

    def __init__(self, model: paddle.nn.Layer, roots: Mapping[str, object]) -> None:
        self._tensors = tensors_of(model)
        self._shapes = _shapes(self._tensors)
        search = _Search(model, self._tensors)
        self._held = list(search.through(roots))
        held = {item.name for item in self._held}
        self._before = {name: _values(self._tensors[name]) for name in held}
        self._shares = self._shares_of_values()
        self._copies = search.copies

    def require_known(self) -> None:
        """Raise :class:`PruneError` where there is a second copy of the network, a layer.

        Whether that is to stay whole, as a teacher, or to be pruned, as an average, cannot be
        known; it can be said before hours of analysis.
        """
        for where, layer in self._copies:
            raise PruneError(
                f"{where} is a {type(layer).__name__} with all the parameters of the network that "
                "is to be pruned, a second copy of it. Whether it is a teacher, which stays whole, "
                "or an average, which has to be pruned along, cannot be known. Train without it."
            )

    def cut(self, masks: Masks) -> None:
        """Cut everything along, after the model was pruned.

        Statistics that were re-estimated and weights that were compensated are in a copy or an
        average what they are in the network now: those of before belong to other sums.

        Args:
            masks: what stays, per parameter and axis.

        Raises:
            PruneError: something has a shape that cannot be cut along.
        """
        after = _shapes(self._tensors)
        for held in self._held:
            if held.shape == self._shapes[held.name]:
                old = held.array
                new = self._followed(held, masks.get(held.name, {}))
                if new.shape != old.shape or (new != old).any():
                    held.put(new)
            elif after[held.name] != self._shapes[held.name]:
                self._require_fitting(held, after[held.name])

    def renew(self) -> None:
        """Make anew what was made beside the whole network, before it became a pruned one.

        Raises:
            PruneError: something has been filled since, so that this would lose it.
        """
        for held in self._held:
            shape, array = self._shapes[held.name], held.array
            if held.shape == shape or array.size <= 1:
                continue
            if array.ndim != len(shape) or array.min() != array.max():
                self._require_fitting(held, shape)
            held.put(np.full(shape, array.flat[0], array.dtype))

    def _followed(self, held: _Held, axes: Mapping[int, npt.NDArray[np.bool_]]) -> Array:
        """What was cut of a holder's tensor, with what its parameter was changed by beside the cut
        if it is a copy or an average of it."""
        array = cut(held.array, axes)
        share = self._shares.get(held.container, 0.0)
        if not share:
            return array
        change = _values(self._tensors[held.name]) - cut(self._before[held.name], axes)
        return (array + share * change).astype(array.dtype) if change.any() else array

    def _shares_of_values(self) -> dict[str, float]:
        """Container → the share of the parameters' values that its tensors hold.

        Copies and master weights hold the whole, an average that corrects its bias when it is read
        less; an optimizer's moments point elsewhere, and hold none.
        """
        sums: dict[str, Array] = {}
        for held in self._held:
            if held.shape == self._shapes[held.name]:
                before, own = self._before[held.name], held.array
                products = [np.vdot(before, own), np.vdot(before, before), np.vdot(own, own)]
                sums[held.container] = sums.get(held.container, 0.0) + np.array(products, float)
        return {
            container: float(product / power)
            for container, (product, power, size) in sums.items()
            if power and size and product >= _ALIKE * np.sqrt(power * size)
        }

    @staticmethod
    def _require_fitting(held: _Held, shape: tuple[int, ...]) -> None:
        """One number for a whole parameter (a power of Adam's beta) has nothing to cut."""
        if held.shape != shape and held.array.size > 1:
            raise PruneError(
                f"{held.where} has the shape {list(held.shape)}, and {held.name}, to which it "
                f"belongs, the shape {list(shape)} in the pruned network: it was made for the "
                "unpruned one, and how to cut it is not known. Train without it."
            )


@dataclass(frozen=True)
class _Held:
    """A tensor or array that belongs to a parameter and is not it; ``put`` gives it another value
    of any shape, ``where`` names it for messages."""

    where: str
    name: str
    value: Any
    put: Put

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.value.shape)

    @property
    def container(self) -> str:
        """What holds it, and others like it."""
        return self.where.rpartition("[")[0]

    @property
    def array(self) -> Array:
        return self.value.numpy() if isinstance(self.value, paddle.Tensor) else self.value


class _Search:
    """One walk through objects; each is looked at once."""

    def __init__(self, model: paddle.nn.Layer, tensors: Mapping[str, paddle.Tensor]) -> None:
        self._own = {id(tensor): name for name, tensor in tensors.items()}
        self._paddle_names = {tensor.name: name for name, tensor in tensors.items()}
        self._tensors = tensors
        self._layers = {id(layer) for layer in model.sublayers(include_self=True)}
        parameters = dict(model.named_parameters())
        learned = [name for name, tensor in parameters.items() if not tensor.stop_gradient]
        self._parameters = _shapes(parameters)
        self._orders = [list(parameters), learned, list(model.state_dict()), list(tensors)]
        self._most = max(map(len, self._orders))
        self._seen: set[int] = set()
        self._alive: list[object] = []  # an id may be taken once its object is gone
        self.copies: list[tuple[str, paddle.nn.Layer]] = []

    def through(self, roots: Mapping[str, object]) -> Iterator[_Held]:
        """Everything held, breadth first: shorter ways make better names."""
        waiting = deque(roots.items())
        while waiting:
            where, item = waiting.popleft()
            if isinstance(item, _LEAVES) or id(item) in self._seen or id(item) in self._layers:
                continue
            self._seen.add(id(item))
            self._alive.append(item)
            if isinstance(item, paddle.Tensor | np.ndarray):
                continue
            if isinstance(item, paddle.nn.Layer) and self._is_copy(item):
                self.copies.append((where, item))
            found, inside = self._look_into(where, item)
            yield from found
            waiting.extend(pair for pair in inside if not isinstance(pair[1], _LEAVES))

    def _look_into(self, where: str, item: Any) -> tuple[list[_Held], list[tuple[str, object]]]:
        """What a container or object holds of the parameters, and what else is in it."""
        if isinstance(item, Mapping):
            return self._in_mapping(where, item)
        if isinstance(item, list | tuple | deque):
            inside = [(f"{where}[{number}]", value) for number, value in enumerate(item)]
            return self._in_order(where, item), inside
        if isinstance(item, set | frozenset):
            return [], [(where, value) for value in item]
        if isinstance(item, types.MethodType):
            return [], [(f"{where}.__self__", item.__self__)]
        if isinstance(item, functools.partial):
            return [], [(where, part) for part in (item.func, item.args, item.keywords)]
        if isinstance(item, types.FunctionType):
            cells = zip(item.__code__.co_freevars, item.__closure__ or (), strict=False)
            return [], [(f"{where}.{name}", cell) for name, cell in cells]
        if isinstance(item, types.CellType):
            try:
                return [], [(where, item.cell_contents)]
            except ValueError:  # it is empty
                return [], []
        skipped = _OF_LAYERS if isinstance(item, paddle.nn.Layer) else ()
        return [], [(f"{where}.{k}", v) for k, v in _attributes(item) if k not in skipped]

    def _in_mapping(
        self, where: str, item: Mapping[Any, Any]
    ) -> tuple[list[_Held], list[tuple[str, object]]]:
        held: list[_Held] = []
        others: list[tuple[str, object]] = []
        entries = list(item.items())
        for key, value in entries:
            place = f"{where}[{_shown(key)}]"
            name = self._name(key) if self._is_other_tensor(value) else None
            if name is not None:
                self._seen.add(id(value))
                held.append(_Held(place, name, value, _putting(place, item, key, value)))
            else:
                others.append((place, value))
        return held or self._in_order(where, item), others

    def _in_order(self, where: str, item: Any) -> list[_Held]:
        """Tensors in the order of the parameters: as many, each with as many axes."""
        leaves: list[_Leaf] = []
        for leaf in self._tensors_in(where, item, _NESTED):
            if leaf is None or len(leaves) == self._most:
                return []
            leaves.append(leaf)
        axes = [len(value.shape) for _, _, _, value in leaves]
        for order in self._orders:
            if len(axes) > 1 and axes == [len(self._tensors[name].shape) for name in order]:
                self._seen.update(id(container) for _, container, _, _ in leaves)
                return [
                    _Held(place, name, value, _putting(place, container, key, value))
                    for name, (place, container, key, value) in zip(order, leaves, strict=True)
                ]
        return []

    def _tensors_in(self, where: str, item: Any, depth: int) -> Iterator[_Leaf | None]:
        """Everything in nested containers; None where something is no tensor, or the network's."""
        for key, value in list(item.items() if isinstance(item, Mapping) else enumerate(item)):
            place = f"{where}[{_shown(key)}]"
            if self._is_other_tensor(value):
                yield place, item, key, value
            elif depth and isinstance(value, Mapping | list | tuple):
                yield from self._tensors_in(place, value, depth - 1)
            else:
                yield None

    def _is_other_tensor(self, value: object) -> bool:
        return isinstance(value, paddle.Tensor | np.ndarray) and id(value) not in self._own

    def _name(self, key: object) -> str | None:
        """The parameter that a key of a mapping means, by its structured name."""
        if not isinstance(key, str):
            return self._own.get(key if isinstance(key, int) else id(key))
        for prefix in _WRAPPERS:
            key = key.removeprefix(prefix)
        if key in self._tensors:
            return key
        while key and key not in self._paddle_names:
            key = key.rpartition("_")[0]
        return self._paddle_names.get(key)

    def _is_copy(self, layer: paddle.nn.Layer) -> bool:
        """Whether a layer has parameters like those of the network."""
        tensors = tensors_of(layer)
        alike = bool(self._parameters) and self._parameters.items() <= _shapes(tensors).items()
        return alike and any(id(tensors[name]) not in self._own for name in self._parameters)


def _values(tensor: paddle.Tensor) -> Array:
    """Numbers of any float type as float64 (NumPy knows no bfloat16)."""
    return tensor.astype("float32").numpy().astype(np.float64)


def renew_reducer(model: paddle.nn.Layer) -> None:
    """Let a ``DataParallel`` reduce gradients of the shapes that its network has now.

    The reducer notes the parameters' sizes when it is made; where a parameter is unused on one
    rank and used on another it makes up a gradient of the size that it had then. The old one stays
    alive, because its hooks stay on the parameters; they do nothing unless a forward pass prepares
    it, and that prepares the new one from now on.
    """
    if hasattr(model, "_reducer") and hasattr(model, "init_reducer"):
        old = model._reducer
        model.init_reducer()
        model.__dict__.setdefault("_ppocr_prune_reducers", []).append(old)


def _shapes(tensors: Mapping[str, paddle.Tensor]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _attributes(item: object) -> Iterator[tuple[str, object]]:
    yield from getattr(item, "__dict__", {}).items()
    for kind in type(item).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            if name not in ("__dict__", "__weakref__") and hasattr(item, name):
                yield name, getattr(item, name)


def _shown(key: object) -> str:
    return repr(key) if isinstance(key, str | int) else getattr(key, "name", type(key).__name__)


def _putting(where: str, container: Any, key: Any, value: Any) -> Put:
    """How to give a tensor or array another value: tensors keep their identity, so that all who
    hold one see it."""
    if isinstance(value, paddle.Tensor):
        return functools.partial(write, value)
    if isinstance(container, MutableMapping | MutableSequence):
        return functools.partial(container.__setitem__, key)

    def refuse(_: Array) -> None:
        raise PruneError(
            f"{where} cannot be given the shape of the pruned network: it is an array in a "
            f"{type(container).__name__}. Train without it."
        )

    return refuse
