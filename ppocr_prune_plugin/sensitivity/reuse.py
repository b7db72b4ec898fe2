"""Activations that a cut does not change are computed once.

Layers whose call is over before the first cut layer is called give what they gave before the cut.
Their outputs are kept for every unit of images, and they are not run again while the same place is
measured. Which layers those are is seen by running the model; that it works, and saves time, is
tried before it is relied on: outputs must be equal bit by bit.
"""

from __future__ import annotations

import contextlib
import time
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from ..graph.live import tensors_in
from .spill import ArrayStore

Run = Callable[[], Any]
"""Runs one unit of images through the live model in evaluation mode; returns its outputs."""

_WORTH = 0.95  # of the time of a whole run; above it nothing is reused


class PrefixReuse:
    """Skips the layers before a cut.

    Args:
        model: the unpruned network.
        store: takes the activations.
        current: key of the unit that is being run; None: run it as a whole.
    """

    def __init__(
        self, model: paddle.nn.Layer, store: ArrayStore, current: Callable[[], int | None]
    ) -> None:
        self._store, self._current = store, current
        self._layers = dict(model.named_sublayers())
        self._calls: Mapping[str, list[tuple[int, int]]] | None = None
        self._skipped: tuple[str, ...] = ()
        self._dead: frozenset[str] = frozenset()

    @contextmanager
    def before(self, parameters: Iterable[str], run: Run) -> Iterator[None]:
        """While inside, layers that run before the first owner of these parameters are skipped.
        The model is unpruned on entry."""
        cut = {name.rpartition(".")[0] for name in parameters}
        if self._calls is None:
            self._calls = _call_order(self._layers, run)
        skipped = self._finished_before(cut)
        if skipped != self._skipped:
            self._store.clear()
            self._skipped, self._dead = skipped, frozenset()
            if skipped and not self._works(cut, run):
                self._store.clear()
                self._skipped = ()
        with self._installed():
            yield

    def _finished_before(self, cut: set[str]) -> tuple[str, ...]:
        """The outermost layers with parameters that are done when a cut layer begins."""
        assert self._calls is not None
        begins = [self._calls[name][0][0] for name in cut if name in self._calls]
        found: list[str] = []
        for name, layer in self._layers.items():
            calls = self._calls.get(name, [])
            if begins and len(calls) == 1 and calls[0][1] < min(begins) and layer.parameters():
                if not any(name.startswith(outer + ".") for outer in found):
                    found.append(name)
        return tuple(found)

    def _works(self, cut: set[str], run: Run) -> bool:
        """Try it on the unpruned model: with only those outputs kept that still exist when the
        first cut layer begins, or else with all."""
        alive: set[str] = set()
        watched = {name: self._layers[name] for name in self._skipped}
        with self._installed(), _watching(watched, [self._layers[name] for name in cut], alive):
            begin = time.perf_counter()
            expected = run()
            whole = time.perf_counter() - begin
        kept = {key: self._store[key] for key in self._store.keys()}
        for dead in (frozenset(self._skipped) - alive, frozenset[str]()):
            self._dead = dead
            for key, value in kept.items():
                self._store[key] = self._stored(key[1], value)
            with self._installed(), contextlib.suppress(Exception):  # of any model's code
                begin = time.perf_counter()
                if _equal(expected, run()):
                    return time.perf_counter() - begin < _WORTH * whole
        return False

    @contextmanager
    def _installed(self) -> Iterator[None]:
        try:
            for name in self._skipped:
                layer = self._layers[name]
                layer.forward = self._forward(name, layer.forward)
            yield
        finally:
            for name in self._skipped:
                self._layers[name].__dict__.pop("forward", None)

    def _forward(self, name: str, original: Any) -> Any:
        def forward(*args: Any, **kwargs: Any) -> Any:
            unit = self._current()
            key = (unit, name)
            if key in self._store:
                return paddle.utils.map_structure(_recalled, self._store[key])
            output = original(*args, **kwargs)
            if unit is not None:
                with contextlib.suppress(OSError):  # a full disk costs time, nothing else
                    self._store[key] = self._stored(
                        name, paddle.utils.map_structure(_array, output)
                    )
            return output

        return forward

    def _stored(self, name: str, output: Any) -> Any:
        """An output as arrays, or only its shape where nothing after the cut reads it."""
        return paddle.utils.map_structure(_outline, output) if name in self._dead else output


@dataclass(frozen=True)
class _Outline:
    shape: tuple[int, ...]
    dtype: str


def _array(value: Any) -> Any:
    return value.numpy() if isinstance(value, paddle.Tensor) else value


def _outline(value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype.kind == "f":
        return _Outline(value.shape, str(value.dtype))
    return value


def _recalled(value: Any) -> Any:
    if isinstance(value, _Outline):  # whoever reads it after all is found out
        return paddle.full(value.shape, float("nan"), value.dtype)
    return paddle.to_tensor(value) if isinstance(value, np.ndarray) else value


def _equal(a: Any, b: Any) -> bool:
    mine, other = paddle.utils.flatten(a), paddle.utils.flatten(b)
    return len(mine) == len(other) and all(
        np.array_equal(_array(x), _array(y)) for x, y in zip(mine, other, strict=True)
    )


def _call_order(
    layers: Mapping[str, paddle.nn.Layer], run: Run
) -> Mapping[str, list[tuple[int, int]]]:
    """When each layer's calls begin and end in one run."""
    calls: dict[str, list[tuple[int, int]]] = {}
    clock = iter(range(2**62))

    def begin(name: str) -> Any:
        return lambda layer, inputs: calls.setdefault(name, []).append((next(clock), -1))

    def end(name: str) -> Any:
        def note(layer: Any, inputs: Any, outputs: Any) -> None:
            calls[name][-1] = (calls[name][-1][0], next(clock))

        return note

    hooks = []
    try:
        for name, layer in layers.items():
            hooks.append(layer.register_forward_pre_hook(begin(name)))
            hooks.append(layer.register_forward_post_hook(end(name)))
        run()
    finally:
        for hook in hooks:
            hook.remove()
    return calls


@contextmanager
def _watching(
    watched: Mapping[str, paddle.nn.Layer], cut: Iterable[paddle.nn.Layer], alive: set[str]
) -> Iterator[None]:
    """Fill ``alive`` with those layers whose outputs exist when the first cut layer is called."""
    outputs: dict[str, list[weakref.ref[Any]]] = {}
    begun: list[bool] = []

    def note(name: str) -> Any:
        def post(layer: Any, inputs: Any, output: Any) -> None:
            outputs[name] = [weakref.ref(tensor) for tensor in tensors_in(output)]

        return post

    def look(layer: Any, inputs: Any) -> None:
        if not begun:
            begun.append(True)
            alive.update(n for n, refs in outputs.items() if any(r() is not None for r in refs))

    hooks = [layer.register_forward_post_hook(note(name)) for name, layer in watched.items()]
    hooks += [layer.register_forward_pre_hook(look) for layer in cut]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
