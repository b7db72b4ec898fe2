"""What tools/train.py makes of a model before it is pruned: half precision, static forward."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import paddle

from ...graph.live import tensors_of, write

_HALF = (paddle.float16, paddle.bfloat16)


@contextmanager
def full_precision(model: paddle.nn.Layer) -> Iterator[None]:
    """For ``Global.amp_level: O2``: in this block the model's half-precision tensors are float32,
    whatever their shapes become.

    It is traced, ranked and run there without ``auto_cast``, and what stays comes back exactly.
    Paddle keeps bfloat16 in NumPy as bare bits, which no criterion could rank.
    """
    half = [
        (tensor, tensor.dtype) for tensor in tensors_of(model).values() if tensor.dtype in _HALF
    ]
    for tensor, _ in half:
        write(tensor, tensor.astype(paddle.float32).numpy())
    try:
        yield
    finally:
        for tensor, dtype in half:
            write(tensor, tensor.astype(dtype).numpy())


@contextmanager
def dynamic_forward(
    model: paddle.nn.Layer, config: Mapping[str, Any], logger: logging.Logger
) -> Iterator[None]:
    """For ``Global.to_static``: in this block the model runs as written, afterwards as compiled.

    A compiled forward keeps the programs that it has run, with the widths of that time.
    """
    if not hasattr(model.forward, "rollback"):
        yield
        return
    from ppocr.modeling.architectures import apply_to_static

    model.forward.rollback()
    try:
        yield
    finally:
        apply_to_static(model, config, logger)
