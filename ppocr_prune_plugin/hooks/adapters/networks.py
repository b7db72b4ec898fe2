"""The networks inside a model, traced."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ...network import Network
from .sub_models import SubModel
from .tracing import network_of

# The keys of what heads give, in the losses of distillation configs.
_OF_HEADS = {"head_out", "maps"}


class Networks:
    """Traces each structure once: the sub-models of a distillation model are often alike."""

    def __init__(self) -> None:
        self._traced: list[tuple[Any, Network]] = []

    def of(self, part: SubModel) -> Network:
        """The network of a part, as wide as it is now.

        Raises:
            PruneError: it cannot be traced.
        """
        shapes = {name: tuple(tensor.shape) for name, tensor in part.model.state_dict().items()}
        for structure, network in self._traced:
            if structure == (part.structure, shapes):
                return dataclasses.replace(network, model=part.model)
        with _without_features(part):
            network = network_of(part.config, part.model)
        self._traced.append(((part.structure, shapes), network))
        return network


@contextmanager
def _without_features(part: SubModel) -> Iterator[None]:
    """A sub-model with ``return_all_feats`` hands its features to the losses, which fixes their
    widths; where no loss reads them it does not hand them out in this block."""
    model: Any = part.model
    if not getattr(model, "return_all_feats", False) or _losses_read_features(part.config):
        yield
        return
    model.return_all_feats = False
    try:
        yield
    finally:
        model.return_all_feats = True


def _losses_read_features(config: Mapping[str, Any]) -> bool:
    """Whether any distillation loss compares more than what the heads give."""
    items = (config.get("Loss") or {}).get("loss_config_list") or []
    losses = [options or {} for item in items for options in item.values()]
    return not {str(loss["key"]) for loss in losses if loss.get("key")} <= _OF_HEADS
