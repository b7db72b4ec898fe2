"""PaddleSlim's dygraph pruners on our channel groups.

PaddleSlim finds out which parameters belong together by tracing the model into Paddle's old
intermediate representation, which Paddle 3 no longer does. What its pruners know, how to choose
filters, needs none of that: ``cal_mask`` takes a *collection*, and the channel groups say all that
is in one. Only ``cal_mask`` is called; PaddleSlim never touches the model or the optimizer (its own
surgery leaves a ``*_backup`` buffer for every parameter in the model, and so in checkpoints).
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import inspect
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from ..errors import PruneError, did_you_mean
from ..graph.groups import ChannelGroup, Member
from .interface import Array, Arrays, Context, filters

# What PaddleSlim 2.6.0 imports and an environment of today may be without; it can do without, too.
FORGOTTEN = ("pkg_resources", "pip")

_PRUNERS = "paddleslim.dygraph.prune"
# What installs it without the OpenCV that its own requirements pin; the extra [paddleslim] is the
# second part.
INSTALL = (
    "pip install --no-deps paddleslim==2.6.0 && "
    "pip install six decorator pyzmq matplotlib requests scipy"
)


class PaddleSlimSelection:
    """A ``FilterPruner`` of PaddleSlim, or a subclass of one, as a criterion.

    The pruner sees every group as one collection whose master is the group's root. Where the
    root's filters do not lie along axis 0 of a weight one by one (a transposed or grouped
    convolution, part of a layer), it is shown them as if they did.

    Args:
        name: what the config calls it, for messages.
        pruner: the class.
    """

    def __init__(self, name: str, pruner: type) -> None:
        self.pruner = pruner
        self._name = name
        self._model: paddle.nn.Layer | None = None
        self._instance: Any = None
        self._paddle_names: dict[str, str] = {}

    def prepare(self, context: Context) -> None:
        """Make the pruner, with our groups in place of what its constructor would trace.

        Raises:
            PruneError: the constructor fails.
        """
        model = self._model = context.model
        self._paddle_names = {name: p.name for name, p in model.named_parameters()}
        arrays = {name: parameter.numpy() for name, parameter in model.named_parameters()}
        collections = _Collections([self._collection(group, arrays) for group in context.groups])
        inputs = [list(item[0]) for item in context.inputs if isinstance(item, tuple)]
        with self._guarded(), _replaced_tracer(collections):
            self._instance = self.pruner(model, inputs)

    def keep(self, group: ChannelGroup, arrays: Arrays, width: int) -> Sequence[int]:
        """Channels that the pruner's mask keeps at the ratio of this width.

        Raises:
            PruneError: the pruner fails, or returns something else than a mask for the group.
        """
        if self._instance is None:
            raise RuntimeError("prepare() comes first: a pruner is made for one model")
        collection = self._collection(group, arrays)
        ratio = 1 - width / group.size
        with self._guarded():
            mask = _call_cal_mask(self._instance, ratio, collection)
        try:
            mask = np.asarray(mask).reshape(-1).astype(bool)
        except (TypeError, ValueError) as error:
            raise self._fault(group, f"returns no mask ({error})") from error
        if mask.size != group.size:
            raise self._fault(
                group, f"returns a mask for {mask.size} channels instead of {group.size}"
            )
        kept: list[int] = np.flatnonzero(mask).tolist()
        return kept

    def _collection(self, group: ChannelGroup, arrays: Arrays) -> Any:
        """PaddleSlim's form of a group, with the values that its pruners look up in it."""
        base = sys.modules["paddleslim.prune.collections"]
        names = self._paddle_names
        master = names[group.root.parameter]
        collection = base.PruningCollection({"name": master, "axis": 0})
        shapes = {name: tuple(arrays[name].shape) for name in names if name in arrays}
        for member in group.members:
            if member.parameter in shapes:
                axis = 0 if member is group.root else member.axis
                detail = _Detail(names[member.parameter], axis, shapes[member.parameter])
                collection._nodes.setdefault(detail.name, []).append(detail)
        values = {names[name]: arrays[name] for name in shapes}
        values[master] = _as_convolution(group.root, arrays)
        collection.values = values
        return collection

    @contextmanager
    def _guarded(self) -> Iterator[None]:
        """Somebody else's code: its errors are named, and what it leaves behind is removed."""
        assert self._model is not None
        layers = self._model.sublayers(include_self=True)
        before = [set(layer._buffers) for layer in layers]
        try:
            with _numpy_as_it_was():
                yield
        except Exception as error:
            raise PruneError(
                f"Prune.criterion: {self._name} failed with {type(error).__name__}: {error}."
            ) from error
        finally:
            for layer, names in zip(layers, before, strict=True):
                for name in set(layer._buffers) - names:
                    del layer._buffers[name]

    def _fault(self, group: ChannelGroup, problem: str) -> PruneError:
        return PruneError(
            f"Prune.criterion: {self._name}, asked about the layer {group.name}, {problem}."
        )


def load() -> types.ModuleType:
    """PaddleSlim's pruners; the module ``paddleslim.dygraph.prune``.

    Raises:
        PruneError: PaddleSlim is not installed, or something that it imports is not.
    """
    missing = [name for name in FORGOTTEN if importlib.util.find_spec(name) is None]
    for name in missing:
        sys.modules[name] = _stand_in(name)
    try:
        return importlib.import_module(_PRUNERS)
    except ImportError as error:
        raise PruneError(
            f"Prune.criterion: PaddleSlim cannot be imported ({error}). Install it with"
            f" `{INSTALL}` (its own requirements ask for an OpenCV that fits no current NumPy, and"
            " leave others out)."
        ) from error
    finally:
        for name in missing:
            del sys.modules[name]


def pruner_class(name: str) -> type:
    """A pruner of PaddleSlim by its name.

    Raises:
        PruneError: PaddleSlim cannot be imported, or has no such pruner.
    """
    module = load()
    usable = {
        key: value
        for key, value in vars(module).items()
        if is_pruner(value) and value is not module.FilterPruner
    }
    if name not in usable:
        abstract = " FilterPruner is what they are derived from." if name == "FilterPruner" else ""
        raise PruneError(
            f"Prune.criterion: paddleslim has no filter pruner {name!r}"
            f"{did_you_mean(name, usable)}.{abstract} It has {', '.join(sorted(usable))}."
        )
    return usable[name]


def is_pruner(found: object) -> bool:
    """Whether this is a class derived from PaddleSlim's ``FilterPruner``."""
    module = sys.modules.get(f"{_PRUNERS}.filter_pruner")  # not loaded: nothing derives from it
    return module is not None and inspect.isclass(found) and issubclass(found, module.FilterPruner)


def _call_cal_mask(pruner: Any, ratio: float, collection: Any) -> Any:
    """Older subclasses do not take the number of attention heads, which older PaddleSlims lack."""
    parameters = inspect.signature(pruner.cal_mask).parameters.values()
    if any(p.name == "num_head" or p.kind is p.VAR_KEYWORD for p in parameters):
        return pruner.cal_mask(ratio, collection, num_head=-1)
    return pruner.cal_mask(ratio, collection)


def _as_convolution(root: Member, arrays: Arrays) -> Array:
    """The root's filters along axis 0 of a 4-D array of their own."""
    weight = arrays[root.parameter]
    whole = root.indices.shape == (weight.shape[root.axis], 1)
    if root.axis == 0 and whole and weight.ndim == 4:
        return weight.copy()
    rows = filters(root, arrays)
    kernel = weight.shape[2:] if weight.ndim == 4 else (1, 1)
    return rows.reshape(len(rows), -1, *kernel)


@dataclass(frozen=True)
class _Detail:
    """What the pruners read of PaddleSlim's ``PruningDetails``."""

    name: str
    axis: int
    shape: tuple[int, ...]
    transform: Mapping[str, Any] | Sequence[Any] = ()
    is_parameter: bool = True

    @property
    def op(self) -> _Detail:
        """The operation that reads the parameter, as far as pruners ask about it."""
        return self

    @property
    def var(self) -> _Detail:
        """The parameter."""
        return self

    def attr(self, name: str) -> int | None:
        """The groups of a channel group's convolutions are folded into its channels: one."""
        return 1 if name == "groups" else None


class _Collections:
    """What the pruners read of PaddleSlim's ``DygraphPruningCollections``."""

    def __init__(self, collections: Sequence[Any]) -> None:
        self._collections = list(collections)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._collections)

    def find_collection_by_master(self, var_name: str, axis: int) -> Any:
        """The collection of a root; None where there is none."""
        for collection in self._collections:
            if collection.master_name == var_name and collection.master_axis == axis:
                return collection
        return None


@contextmanager
def _replaced_tracer(collections: _Collections) -> Iterator[None]:
    """In this block, the constructors of pruners take these collections instead of tracing."""
    module = sys.modules[f"{_PRUNERS}.filter_pruner"]
    tracer = module.DygraphPruningCollections
    module.DygraphPruningCollections = lambda *_, **__: collections  # type: ignore[attr-defined]
    try:
        yield
    finally:
        module.DygraphPruningCollections = tracer  # type: ignore[attr-defined]


@contextmanager
def _numpy_as_it_was() -> Iterator[None]:
    """In this block, NumPy has ``product``, which 2.0 dropped and PaddleSlim's FPGM uses."""
    missing = "product" not in dir(np) and not hasattr(np, "product")
    if missing:
        np.product = np.prod  # type: ignore[attr-defined]
    try:
        yield
    finally:
        if missing:
            del np.product  # type: ignore[attr-defined]


def _stand_in(name: str) -> types.ModuleType:
    """PaddleSlim asks ``pkg_resources`` one thing: whether a distribution is installed."""
    module = types.ModuleType(name)
    module.require = importlib.metadata.distribution  # type: ignore[attr-defined]
    return module
