"""The network in inference mode: evaluation, and ``rep()`` called as an export calls it.

Re-parameterisation (RepVGG, Ding et al., CVPR 2021) replaces layers by others, under other names
and with other shapes. What such a network has is therefore read from a copy on which ``rep()`` was
called, never guessed from what layers are called.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import paddle

from ..errors import PruneError
from .channels import ChannelGraph
from .live import set_arrays, shapes_after, tensors_of

# The length of each axis of a parameter: a number, or that of (parameter, axis) of the network as
# it trains.
Axes = tuple[int | tuple[str, int], ...]

# Random widths at which axes are told apart: with one, two groups could agree by chance.
_DRAWS = 3


def has_rep(layer: paddle.nn.Layer) -> bool:
    """Whether a layer has a ``rep()`` that an export would call."""
    return callable(getattr(layer, "rep", None)) and not getattr(layer, "is_repped", False)


def reparameterises(model: paddle.nn.Layer) -> bool:
    """Whether inference mode has other layers than training."""
    return any(has_rep(layer) for layer in model.sublayers())


def in_inference_mode(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """A copy in evaluation mode, with ``rep()`` called on every layer that has one.

    Raises:
        PruneError: a ``rep()`` fails.
    """
    return _switched(copy.deepcopy(model))


def _switched(twin: paddle.nn.Layer) -> paddle.nn.Layer:
    """The network itself, put into inference mode for good."""
    twin.eval()
    for name, layer in list(twin.named_sublayers()):
        if has_rep(layer):
            try:
                layer.rep()
            except Exception as error:  # whatever the model's code raises
                raise PruneError(
                    f"rep() of {name} ({type(layer).__name__}) fails, so that the model cannot be "
                    f"exported: {type(error).__name__}: {str(error).strip()[:300]}"
                ) from error
    return twin


def draw_narrower(graph: ChannelGraph, seed: int) -> dict[str, int]:
    """A random width for every group: narrower than it is, at least half of it."""
    random = np.random.default_rng(seed)
    return {
        group.name: int(random.integers(max(1, group.size // 2), group.size))
        for group in graph.groups
    }


def narrower_copy(
    model: paddle.nn.Layer, graph: ChannelGraph, kept: Mapping[str, int]
) -> paddle.nn.Layer:
    """A copy with groups that wide: a network of that structure, its weights the first of each
    axis."""
    twin = copy.deepcopy(model)
    tensors = tensors_of(twin)
    arrays = {
        name: tensors[name].numpy()[tuple(slice(size) for size in shape)]
        for name, shape in shapes_after(graph, kept).items()
        if name in tensors and tuple(tensors[name].shape) != shape
    }
    set_arrays(twin, arrays, graph)
    return twin


def parameter_axes(
    model: paddle.nn.Layer, graph: ChannelGraph, deployed: paddle.nn.Layer
) -> dict[str, Axes]:
    """Where the axes of the parameters in inference mode come from.

    The model is made narrower, at random, and put into inference mode; an axis follows the axis of
    the training network that is as long as it each time.

    Args:
        model: the network as it trains; it is not touched.
        graph: its channel groups.
        deployed: the network in inference mode, as wide.

    Returns:
        Parameter → axes, for parameters that training does not have, or has in another shape.

    Raises:
        PruneError: a ``rep()`` fails, or the length of an axis follows nothing.
    """
    if not reparameterises(model):
        return {}
    whole = _shapes(deployed)
    before: list[Mapping[str, Sequence[int]]] = [graph.shapes]
    after = [whole]
    for seed in range(_DRAWS):
        kept = draw_narrower(graph, seed)
        before.append(shapes_after(graph, kept))
        after.append(_shapes(_switched(narrower_copy(model, graph, kept))))
    sources: dict[tuple[int, ...], list[tuple[str, int]]] = {}
    for name, shape in graph.shapes.items():
        for axis in range(len(shape)):
            lengths = tuple(shapes[name][axis] for shapes in before)
            sources.setdefault(lengths, []).append((name, axis))
    found: dict[str, Axes] = {}
    for name, shape in whole.items():
        if all(name in b and tuple(b[name]) == a[name] for b, a in zip(before, after, strict=True)):
            continue
        axes: list[int | tuple[str, int]] = []
        for axis, length in enumerate(shape):
            lengths = tuple(shapes[name][axis] for shapes in after)
            if len(set(lengths)) == 1:
                axes.append(length)
            elif lengths in sources:
                axes.append(max(sources[lengths], key=lambda item: _shared(item[0], name)))
            else:
                raise PruneError(
                    f"cannot tell what {name} will cost: in inference mode it is made by rep(), "
                    f"and its axis {axis} is {' or '.join(map(str, lengths))} long where the "
                    "network that trains has no axis like it"
                )
        found[name] = tuple(axes)
    return found


def _shapes(model: paddle.nn.Layer) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in tensors_of(model).items()}


def _shared(a: str, b: str) -> int:
    """How many of the layers that two parameters lie in are the same."""
    return sum(1 for _ in _common(a.split("."), b.split(".")))


def _common(a: Sequence[str], b: Sequence[str]) -> Iterator[str]:
    for x, y in zip(a, b, strict=False):
        if x != y:
            return
        yield x
