"""Networks as exported files."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

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
    forward = getattr(model.forward, "dygraph_function", model.forward)
    try:
        with _quiet():
            specs = [paddle.static.InputSpec(list(shape), dtype) for shape, dtype in inputs]
            static = paddle.jit.to_static(forward, input_spec=specs, full_graph=True)
            paddle.jit.save(static, str(prefix))
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
        raise PruneError(
            f"Paddle {paddle.__version__} cannot export this {type(model).__name__} for "
            f"{shown(inputs)}, so its latency cannot be measured: {type(error).__name__}: "
            f"{lines[-1][:300]}. Try another Prune.latency.shape; Prune.pruned_flops needs no "
            "export."
        ) from error


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
