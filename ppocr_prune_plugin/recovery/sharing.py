"""What rank 0 made of a network by recovery, handed to the other ranks."""

from __future__ import annotations

from pathlib import Path

import paddle

from .. import arrays
from ..errors import PruneError
from ..graph.live import tensors_of


def save_state(model: paddle.nn.Layer, path: Path) -> None:
    """Write the model's parameters and statistics for the other processes."""
    arrays.write(path, {name: t.numpy() for name, t in tensors_of(model).items() if t.size})


def load_state(model: paddle.nn.Layer, path: Path) -> None:
    """Take over what another process has, of the same shapes.

    Raises:
        PruneError: the file is damaged, or of another network.
    """
    found = arrays.read(path, "the file of weights from rank 0", "Start again.")
    own = {name: tensor for name, tensor in tensors_of(model).items() if tensor.size}
    if {name: a.shape for name, a in found.items()} != {n: tuple(t.shape) for n, t in own.items()}:
        raise PruneError(f"{path}: rank 0 has another network than this rank. Start again.")
    for name, tensor in own.items():
        tensor.set_value(found[name])
