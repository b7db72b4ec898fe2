"""The unpruned network as a teacher: frozen, and answering in the form of a network that trains.

It is a copy that no other object of the program knows of, so that it is in no checkpoint, no
optimizer and no export. What the parts of a network hand to each other (backbone to neck, neck to
head) is compared, too, channel by channel: the plan says which channel of the teacher a channel of
the pruned network is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import paddle

from ..chance import only_drops
from ..graph.channels import ChannelGraph
from ..graph.flow import IN
from ..graph.inference_mode import in_inference_mode, reparameterises
from ..graph.live import tensors_in
from ..network import Network, as_tensors, random_inputs
from ..plan import GroupPlan
from ..surgery import kept_masks

# Places where features are compared; each keeps one activation in memory for a step.
_MOST = 6


@dataclass(frozen=True)
class Place:
    """One value between the parts of a network, with the channels along ``axis``.

    It is output ``index`` of the layer, or its input (None); ``kept`` are the channels that the
    pruned network still has (None: all).
    """

    layer: str
    index: int | None
    axis: int
    kept: tuple[int, ...] | None

    def __str__(self) -> str:
        return f"the input of {self.layer}" if self.index is None else f"{self.layer}[{self.index}]"


class Caught:
    """What passes the places of a network in the last run; of a network that is trained in the last
    run in which it was training. ``hooks`` are what catches it."""

    def __init__(
        self, model: paddle.nn.Layer, places: Sequence[Place], trains: bool = True
    ) -> None:
        self._places, self._trains = places, trains
        self._found: dict[Place, paddle.Tensor] = {}
        layers = dict(model.named_sublayers())
        self.hooks = [
            layers[place.layer].register_forward_pre_hook(self._input(place))
            if place.index is None
            else layers[place.layer].register_forward_post_hook(self._output(place, place.index))
            for place in places
        ]

    def take(self) -> list[paddle.Tensor]:
        """The values in the order of the places, which are then forgotten; fewer where a layer was
        not run."""
        found = [self._found[place] for place in self._places if place in self._found]
        self._found = {}
        return found

    # Functions, which copies of the model share: a tensor of a graph cannot be copied.
    def _input(self, place: Place) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any) -> None:
            if layer.training or not self._trains:
                self._found[place] = inputs[0]

        return hook

    def _output(self, place: Place, index: int) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any, outputs: Any) -> None:
            if layer.training or not self._trains:
                self._found[place] = tensors_in(outputs)[index]

        return hook


class Teacher:
    """A frozen network.

    Args:
        network: the unpruned network with its graph; its model is the teacher's own from now on.
        groups: what the pruned network keeps of it.
        features: whether features are compared.
    """

    def __init__(self, network: Network, groups: Sequence[GroupPlan], features: bool) -> None:
        with paddle.no_grad():
            self._model, places = _frozen(network, groups)
        self.places = places if features else []
        self._caught = Caught(self._model, self.places, trains=False)

    def answer(self, run: Callable[[paddle.nn.Layer], Any]) -> tuple[Any, list[paddle.Tensor]]:
        """What it answers, and the features of the channels that the pruned network has.

        Args:
            run: calls the model on a batch.
        """
        with paddle.no_grad():
            answer = run(self._model)
            found = self._caught.take()
            chosen = [
                value
                if place.kept is None
                else paddle.index_select(value, paddle.to_tensor(place.kept), place.axis)
                for place, value in zip(self.places, found, strict=True)
            ]
        return answer, chosen


def _frozen(network: Network, groups: Sequence[GroupPlan]) -> tuple[paddle.nn.Layer, list[Place]]:
    """The network as a teacher, fused where ``rep()`` leaves the form of its answers as it is, and
    the places where its features can be compared."""
    inputs = as_tensors(random_inputs(network.training_inputs))
    model = _frozen_as_it_trains(network.model)
    with _watched(network, groups) as found:
        whole = tensors_in(model(*inputs))
    if reparameterises(model):
        fused = _frozen_as_it_trains(in_inference_mode(model))
        try:
            same = [v.shape for v in tensors_in(fused(*inputs))] == [v.shape for v in whole]
        except Exception:  # whatever the model's code raises without what rep() has removed
            same = False
        model = fused if same else model
    layers = {name for name, _ in model.named_sublayers()}
    return model, [place for place in found if place.layer in layers][-_MOST:]


def _frozen_as_it_trains(model: paddle.nn.Layer) -> paddle.nn.Layer:
    """Nothing is learned or left to chance; answers have the form that losses take."""
    for parameter in model.parameters():
        parameter.stop_gradient = True
    for layer in model.sublayers(include_self=True):
        layer.training = _chooses_a_form(layer)
    return model


def _chooses_a_form(layer: paddle.nn.Layer) -> bool:
    """Whether a layer is a network's own, which may answer in another form when it trains (logits
    for probabilities, all maps for one); Paddle's layers differ by statistics and chance alone."""
    own = type(layer).__module__.partition(".")[0] != "paddle"
    normalises = isinstance(getattr(layer, "_mean", None), paddle.Tensor)
    return own and not only_drops(layer) and not normalises


@contextmanager
def _watched(network: Network, groups: Sequence[GroupPlan]) -> Iterator[list[Place]]:
    """While the model is run inside, places are found, in its order.

    They are what a part puts out and a later part reads as it is, by a layer whose channels the
    graph knows, and where a part reads nothing so, what the first such layer in it reads.
    """
    model, graph = network.model, network.graph
    masks = kept_masks(graph, groups)
    given: list[tuple[str, int, paddle.Tensor]] = []
    found: dict[tuple[str, int], Place] = {}
    first: dict[str, Place] = {}
    served: set[str] = set()
    places: list[Place] = []

    def give(part: str) -> Callable[..., None]:
        def hook(layer: paddle.nn.Layer, inputs: Any, outputs: Any) -> None:
            given.extend((part, i, value) for i, value in enumerate(tensors_in(outputs)))

        return hook

    def read(name: str, weight: str, weight_axis: int, axis: int) -> Callable[..., None]:
        mask = masks.get(weight, {}).get(weight_axis)
        kept = None if mask is None else tuple(np.flatnonzero(mask).tolist())
        own = name.partition(".")[0]

        def hook(layer: paddle.nn.Layer, inputs: Any) -> None:
            if not given:
                return  # in the first part
            first.setdefault(own, Place(name, None, axis, kept))
            for part, index, value in given:
                if part != own and _equal(value, inputs[0]):
                    served.add(own)
                    found.setdefault((part, index), Place(part, index, axis, kept))

        return hook

    layers = dict(model.named_sublayers())
    hooks = [part.register_forward_post_hook(give(name)) for name, part in model.named_children()]
    for weight, weight_axis in _read_axes(graph):
        name = weight.rpartition(".")[0]
        layer = layers.get(name)
        if isinstance(layer, paddle.nn.Conv2D | paddle.nn.Linear):
            axis = 1 if isinstance(layer, paddle.nn.Conv2D) else -1
            hooks.append(layer.register_forward_pre_hook(read(name, weight, weight_axis, axis)))
    try:
        yield places
    finally:
        for hook in hooks:
            hook.remove()
    places += [*found.values(), *(place for own, place in first.items() if own not in served)]


def _read_axes(graph: ChannelGraph) -> list[tuple[str, int]]:
    members = [member for group in graph.groups for member in group.members]
    return list(dict.fromkeys((m.parameter, m.axis) for m in members if m.role == IN))


def _equal(one: paddle.Tensor, other: Any) -> bool:
    if one is other:
        return True
    same = isinstance(other, paddle.Tensor) and one.shape == other.shape
    return same and one.dtype == other.dtype and bool((one == other).all())
