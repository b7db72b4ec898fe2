"""The unpruned network of a run: named in its plan, and found again when the run is resumed."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import paddle

from ...checkpoint import read_shapes
from ...errors import PruneError
from ...files import open_regular
from ...graph.channels import ChannelGroup
from ...graph.live import tensors_of
from ...network import Network
from ...plan import WeightsFile
from .classes import Cuts, class_axes, cut_shapes, cut_weights, cuts_for
from .dictionaries import in_use
from .networks import Networks
from .state import file_of, loaded
from .sub_models import SubModel
from .tree import built_apart

KEY = "Prune.recovery.distill"
_WITHOUT = "To train without the teacher set Prune.recovery.distill=false"


def weights_file(model: paddle.nn.Layer) -> WeightsFile | None:
    """What a plan says of the file that a network's weights are from; None where there is none."""
    path = file_of(model)
    if path is None:
        return None
    return WeightsFile(str(path.absolute()), _checksum(path))


def require_trained(part: SubModel, network: Network, source: str) -> None:
    """Raise :class:`PruneError` where a network that is to teach has random weights."""
    path = file_of(part.model)
    if path is None:
        raise PruneError(
            f"{source}: {KEY}: the weights of {part.name or 'the model'} are from no file: random "
            f"ones teach nothing. Set Global.pretrained_model. {_WITHOUT}."
        )
    _require_whole(path, part, network, _shapes_for(part, path)[0])


def _shapes_for(part: SubModel, path: Path) -> tuple[Mapping[str, tuple[int, ...]], Cuts]:
    """Shapes of weights as the network takes them, and what is cut of them for that; refuses a file
    with code in it."""
    shapes, used = read_shapes(path), in_use()
    cuts = {} if used is None else cuts_for(part, shapes, path, used, KEY)
    return cut_shapes(shapes, cuts), cuts


def require_loaded(
    part: SubModel, network: Network, groups: Sequence[ChannelGroup], source: str
) -> None:
    """Raise :class:`PruneError` where filters that are to be ranked have no weights in the file
    that was loaded, so that they are random."""
    path = file_of(part.model)
    if path is None:
        return
    missing = network.deployed - loaded(part.model)
    random = [
        group.name
        for group in groups
        if any(member.parameter in missing for member in group.producers)
    ]
    if not random:
        return
    raise PruneError(
        f"{source}: {path} has no weights that fit {len(random)} of {len(groups)} prunable layers"
        f"{' of ' + part.name if part.name else ''} ({', '.join(random[:3])}"
        f"{', …' if len(random) > 3 else ''}): they are random, and ranking their filters means "
        "nothing. Set Architecture to what these weights were trained with, name other weights, or "
        "leave such layers whole with Prune.skip; Prune.allow_untrained=true prunes all the same."
    )


def require_classes(part: SubModel, network: Network, source: str) -> None:
    """Raise :class:`PruneError` where characters are to be taken out of weights that have no
    classes, so that these are random."""
    path = file_of(part.model)
    missing = sorted((network.deployed - loaded(part.model)).intersection(class_axes(part)))
    if path is not None and missing:
        raise PruneError(
            f"{source}: Prune.characters: {path} has no {missing[0]}, so that there is no class of "
            "any character to keep. Name weights that were trained as a whole; for others name the "
            "characters as Global.character_dict_path."
        )


def rebuilt(
    part: SubModel, stated: WeightsFile | None, others: Sequence[str], networks: Networks
) -> Network:
    """The unpruned network of a pruned one.

    Args:
        part: the pruned network, with its config.
        stated: the file of its weights, as the plan says.
        others: where else that file may be.
        networks: traces it.

    Raises:
        PruneError: the file is not there or another one, or the plan does not say which it is.
    """
    if stated is None:
        raise PruneError(
            f"{KEY}: the plan of {part.name or 'the model'} does not say what the unpruned weights "
            f"were, so the teacher cannot be found again. {_WITHOUT}."
        )
    path = _found(stated, others)
    shapes, cuts = _shapes_for(part, path)
    model = built_apart(part.config["Architecture"], "unpruned_")
    network = networks.of(SubModel(part.name, model, part.config))
    _require_whole(path, part, network, shapes)
    prefix = part.prefix_in(shapes)
    content = paddle.load(str(path))
    cut_weights(content, cuts)
    for name, tensor in tensors_of(model).items():
        value = content.get(prefix + name)
        if value is not None and shapes.get(prefix + name) == tuple(tensor.shape):
            tensor.set_value(paddle.to_tensor(value).astype(tensor.dtype))
    return network


def _found(stated: WeightsFile, others: Sequence[str]) -> Path:
    seen = []
    for name in (stated.path, *others):
        path = Path(name.removesuffix(".pdparams") + ".pdparams")
        if not path.is_file():
            seen.append(f"{path} is not there")
        elif _checksum(path) != stated.checksum:
            seen.append(f"{path} is another file (its checksum does not fit)")
        else:
            return path
    raise PruneError(
        f"{KEY}: the unpruned weights, which teach, are not found again: {'; '.join(seen)}. Put "
        f"the file back, or name it in Global.pretrained_model. {_WITHOUT}."
    )


def _require_whole(
    path: Path, part: SubModel, network: Network, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """What only training uses, as a detector's threshold maps, may be missing."""
    prefix = part.prefix_in(shapes)
    tensors, deployed = tensors_of(network.model), network.deployed
    missing = [
        name
        for name in tensors
        if name in deployed and shapes.get(prefix + name) != tuple(tensors[name].shape)
    ]
    if missing:
        raise PruneError(
            f"{path}: {KEY}: {len(missing)} of the unpruned network's parameters are not in this "
            f"file in their shape, {missing[0]} the first, so that they are random and teach "
            f"nothing. Train the unpruned network first. {_WITHOUT}."
        )


def _checksum(path: Path) -> str:
    found = hashlib.sha256()
    with open_regular(path, "the weights file") as file:
        while part := file.read(2**20):
            found.update(part)
    return found.hexdigest()
