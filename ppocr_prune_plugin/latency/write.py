"""Networks as exported files."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import paddle

from ..errors import PruneError

Inputs = Sequence[tuple[Sequence[int], str]]


def export(model: paddle.nn.Layer, inputs: Inputs, prefix: Path) -> None:
    """Write ``prefix.json`` and ``prefix.pdiparams`` (through PIR) for inputs of fixed shapes.

    Args:
        model: the network, in evaluation mode.
        inputs: ``(shape, dtype)`` of what ``forward`` takes.
        prefix: path without an extension.

    Raises:
        PruneError: Paddle cannot export it.
    """
    specs = [paddle.static.InputSpec(list(shape), dtype) for shape, dtype in inputs]
    try:
        with _quiet():
            try:
                _save(_as_it_is(model, len(specs)), specs, prefix)
            except Exception:  # its code looks at values, which the transcribed one may do
                _save(model, specs, prefix)
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise PruneError(
            f"Paddle {paddle.__version__} cannot export this {type(model).__name__} for "
            f"{shown(inputs)}, so its latency cannot be measured: {type(error).__name__}: "
            f"{lines[-1][:300]}. Try another Prune.latency.shape; Prune.pruned_flops needs no "
            "export."
        ) from error


def _save(model: paddle.nn.Layer, specs: list[Any], prefix: Path) -> None:
    forward = getattr(model.forward, "dygraph_function", model.forward)
    static = paddle.jit.to_static(forward, input_spec=specs, full_graph=True)
    paddle.jit.save(static, str(prefix))


def _as_it_is(model: paddle.nn.Layer, count: int) -> paddle.nn.Layer:
    """A network for ``to_static`` that does not transcribe its Python code, which takes most of the
    time of an export: a layer that calls it, for so many inputs."""

    class Whole(paddle.nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.network = model

        def forward(self, *inputs: Any) -> Any:
            return self.network(*inputs)

    # What to_static calls has to name its arguments.
    names = ("self", *(f"x{number}" for number in range(count)))
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    signature = inspect.Signature([inspect.Parameter(name, kind) for name in names])
    Whole.forward.__signature__ = signature  # type: ignore[attr-defined]
    paddle.jit.not_to_static(Whole.forward)
    whole = Whole()
    whole.eval()
    return whole


def shown(inputs: Inputs) -> str:
    """The shapes of inputs, for a message."""
    return ", ".join("x".join(map(str, shape)) for shape, _ in inputs)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the notices that Paddle logs, and the warnings that it gives, on every export."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
