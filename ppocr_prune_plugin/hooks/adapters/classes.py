"""The classes of a recogniser: where its parameters have them, and weights that lose some.

Which axes have one place for each class the network's own code says: it is built for one class more
and compared. Where on such an axis the characters begin, behind a blank or the start of a text,
PaddleOCR's decoders say: it is where their list of classes has the first character. What stands
before and behind the characters stays.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import paddle

from ...alphabet import Lines, places_of
from ...chance import chance_of_its_own
from ...errors import PruneError
from ...graph.live import tensors_of
from ...network import Network, plan_of_characters
from ...plan import PruningPlan
from .dictionaries import SETTING, InUse
from .state import file_of
from .sub_models import SubModel
from .tree import built_apart

Shape = tuple[int, ...]
Axes = Mapping[str, Mapping[int, int]]
"""Parameter → axis with classes → its length."""
Cuts = Mapping[str, Mapping[int, npt.NDArray[np.int64]]]
"""Parameter, by its name in a file → axis → what stays of it."""

# Heads inside of a MultiHead, by the names of their classes, and what decodes them.
_DECODERS = {"CTCHead": "CTCLabelDecode", "SARHead": "SARLabelDecode"}
_DECODERS |= dict.fromkeys(("Transformer", "NRTRHead"), "NRTRLabelDecode")
# Decoders whose classes are numbered from 1 on, by their own list.
_FROM_ONE = {"VLLabelDecode"}
# Heads have at most so many classes more or less than their decoder's list (padding, a start).
_EXTRA = 3


_known_axes: dict[str, Axes] = {}


def class_axes(part: SubModel) -> Axes:
    """The axes of a network that have one place for each class, with their lengths.

    Raises:
        PruneError: an axis grows otherwise with the number of classes, or none does.
    """
    key = repr(part.structure)
    if key not in _known_axes:
        _known_axes[key] = _class_axes(part)
    return _known_axes[key]


def before_cut(part: SubModel, path: Path | None, used: InUse) -> dict[str, dict[int, int]]:
    """The same with the lengths that they had in the weights of a file before they were cut, or in
    a network for the dictionary that the config states, where there is no file."""
    whole = used.trained_with(path) or used.dictionary.lines
    lost = len(whole) - len(used.dictionary.lines)
    return {
        name: {axis: length + lost for axis, length in axes.items()}
        for name, axes in class_axes(part).items()
    }


def plan_of_lost(part: SubModel, network: Network, used: InUse) -> PruningPlan:
    """The plan of what a network that was built for the dictionary in use has lost with the
    characters, and of no channels."""
    lengths = before_cut(part, file_of(part.model), used)
    return plan_of_characters(network, lengths, used.dictionary)


def _class_axes(part: SubModel) -> Axes:
    here, more = (_shapes_of(part.config, extra) for extra in (0, 1))
    found: dict[str, dict[int, int]] = {}
    for name, shape in here.items():
        for axis, (length, longer) in enumerate(zip(shape, more[name], strict=True)):
            if longer == length:
                continue
            if longer != length + 1:
                raise PruneError(
                    f"Prune.characters: {name} of {part.name or 'the model'} grows by "
                    f"{longer - length} for each character, and how to cut that is not known."
                )
            found.setdefault(name, {})[axis] = length
    if not found:
        raise PruneError(
            f"Prune.characters: no layer of {part.name or 'the model'} depends on the number of "
            "characters."
        )
    return found


def cuts_for(
    part: SubModel, shapes: Mapping[str, Shape], path: Path, used: InUse, key: str
) -> Cuts:
    """What stays of weights so that a network takes them that was built for fewer characters.

    Args:
        part: the network, as it was built for the dictionary in use.
        shapes: those in the file, by the names there.
        path: the file, which may be of a network that lost characters itself.
        used: the dictionary in use.
        key: the setting that names the file, for messages.

    Returns:
        Nothing where the weights have these classes already, or no classes at all.

    Raises:
        PruneError: the weights have another number of classes than their dictionary.
    """
    axes = class_axes(part)
    prefix = part.prefix_in(shapes)
    there = {
        name: shapes[prefix + name]
        for name in axes
        if prefix + name in shapes and len(shapes[prefix + name]) > max(axes[name])
    }
    if not there:
        return {}
    whole, lines = used.trained_with(path), used.dictionary.lines
    lost = 0 if whole is None else len(whole) - len(lines)
    for name, shape in there.items():
        for axis, length in axes[name].items():
            if shape[axis] != length + lost:
                raise _misfit(part, prefix + name, shape[axis], length, path, used, key, whole)
    if whole is None or lost == 0:
        return {}
    try:
        places = np.array(places_of(whole, lines), np.int64)
    except ValueError:
        raise PruneError(
            f"{key}: {path} was left with other characters than those in use. One model reads with "
            "one dictionary: take weights that agree."
        ) from None
    layouts = _Layouts(part, used)
    return {
        prefix + name: {
            axis: _stays(layouts.first(name, length), length + lost, places, len(whole))
            for axis, length in axes[name].items()
        }
        for name in there
    }


def cut_shapes(shapes: Mapping[str, Shape], cuts: Cuts) -> dict[str, Shape]:
    """Shapes in a file as they are once it was cut."""
    return {
        name: tuple(
            len(cuts[name][axis]) if axis in cuts.get(name, {}) else length
            for axis, length in enumerate(shape)
        )
        for name, shape in shapes.items()
    }


def cut_weights(content: dict[str, Any], cuts: Cuts) -> None:
    """Cut the arrays of a weights file, in place."""
    for name, axes in cuts.items():
        content[name] = _taken(content[name], axes)


def cut_beside(content: Any, model: paddle.nn.Layer, cuts: Cuts) -> None:
    """Cut along what a checkpoint has of an optimizer or an average, in place: arrays in mappings
    whose keys are the parameters' names, or Paddle's own with a suffix.

    Args:
        content: what was read, mappings in mappings.
        model: the whole model; its parameters have the names of ``cuts``.
        cuts: what stays of its weights.
    """
    own = {tensor.name: name for name, tensor in tensors_of(model).items()}
    if not isinstance(content, dict):
        return
    for key, value in content.items():
        if isinstance(value, dict):
            cut_beside(value, model, cuts)
            continue
        name = key if key in cuts else _parameter(key, own)
        axes = cuts.get(name or "", {})
        shape = tuple(getattr(value, "shape", ()))
        if (
            axes
            and len(shape) > max(axes)
            and all(
                shape[axis] > int(stays[-1]) and shape[axis] > len(stays)
                for axis, stays in axes.items()
            )
        ):
            content[key] = _taken(value, axes)


def _parameter(key: object, own: Mapping[str, str]) -> str | None:
    """The parameter that an accumulator belongs to."""
    text = str(key)
    while text and text not in own:
        text = text.rpartition("_")[0]
    return own.get(text)


def _taken(value: Any, axes: Mapping[int, npt.NDArray[np.int64]]) -> Any:
    for axis, stays in axes.items():
        if isinstance(value, np.ndarray):
            value = value.take(stays, axis=axis)
        elif value.dtype == paddle.bfloat16:  # which NumPy does not know
            value = paddle.index_select(value, paddle.to_tensor(stays), axis)
        else:
            value = paddle.to_tensor(value.numpy().take(stays, axis=axis), place=value.place)
    return value


def _stays(
    first: int, length: int, places: npt.NDArray[np.int64], count: int
) -> npt.NDArray[np.int64]:
    """Places on an axis of the length before the cut: what is before and behind the ``count``
    characters that begin at ``first``, and those that are kept of them."""
    before, behind = np.arange(first), np.arange(first + count, length)
    return np.concatenate([before, first + places, behind]).astype(np.int64)


def _misfit(
    part: SubModel, name: str, found: int, length: int, path: Path, used: InUse, key: str,
    whole: Lines | None,
) -> PruneError:  # fmt: skip
    lines = used.dictionary.lines
    if whole is None:
        return PruneError(
            f"{key}: {path} has {found} classes ({name}), and the {len(lines)} characters in use "
            f"make {length}. The dictionary that it was trained with is not known: name it in "
            f"{SETTING}, where {used.stated_path} cannot be read."
        )
    return PruneError(
        f"{key}: {path} has {found} classes ({name}), but with its dictionary of {len(whole)} "
        f"characters {part.name or 'the model'} has {length + len(whole) - len(lines)}. Name the "
        f"dictionary that it was trained with in {SETTING} (now {used.stated_path}), with the same "
        "Global.use_space_char."
    )


class _Layouts:
    """Where the characters begin on the axes of a network."""

    def __init__(self, part: SubModel, used: InUse) -> None:
        self._part, self._used = part, used
        self._layers: dict[str, paddle.nn.Layer] = dict(part.model.named_sublayers())
        self._known: dict[str, tuple[int, int]] = {}

    def first(self, name: str, length: int) -> int:
        """Of a parameter's axis that has this length in the network as it is built."""
        decoder = self._decoder(name)
        first, classes = self._list_of(decoder)
        extra = length - classes
        if abs(extra) <= _EXTRA:
            return first
        layer = self._layers[name.rpartition(".")[0]]
        if extra > 0 and isinstance(layer, paddle.nn.layer.rnn.RNNCellBase):
            return extra + first  # reads features, and behind them which class came last
        raise PruneError(
            f"Prune.characters: {name} of {self._part.name or 'the model'} has {length} places "
            f"for {classes} classes of {decoder}, and where the characters are is not known."
        )

    def _decoder(self, name: str) -> str:
        head = self._layers.get("head")
        if type(head).__name__ != "MultiHead":
            stated = str((self._part.config.get("PostProcess") or {}).get("name"))
            return stated.removeprefix("Distillation")
        words = name.split(".")
        for end in range(len(words), 1, -1):
            kind = type(self._layers.get(".".join(words[:end]))).__name__
            if kind in _DECODERS:
                return _DECODERS[kind]
        raise PruneError(
            f"Prune.characters: {name} is of a head of MultiHead whose classes are not known; "
            f"known are {', '.join(_DECODERS)}."
        )

    def _list_of(self, decoder: str) -> tuple[int, int]:
        """Where a decoder's list of classes has the first character, and how long it is."""
        if decoder not in self._known:
            self._known[decoder] = self._looked_up(decoder)
        return self._known[decoder]

    def _looked_up(self, decoder: str) -> tuple[int, int]:
        from ppocr.postprocess import build_post_process

        settings = {**self._part.config["Global"], "character_dict_path": str(self._used.file)}
        built = build_post_process({"name": decoder}, settings)
        classes = list(getattr(built, "character", ()))
        lines = list(self._used.dictionary.lines)
        for first in range(len(classes) - len(lines) + 1):
            if classes[first : first + len(lines)] == lines:
                one = decoder in _FROM_ONE
                return first + one, len(classes) + one
        raise PruneError(
            f"Prune.characters: PostProcess.name: {decoder} does not list its classes with the "
            "characters of the dictionary in a row, so that this recogniser cannot lose any."
        )


def _shapes_of(config: Mapping[str, Any], extra: int) -> dict[str, Shape]:
    """Shapes of the network that a config builds, with some classes more."""
    architecture = copy.deepcopy(dict(config["Architecture"]))
    head = architecture.get("Head") or {}
    if isinstance(head.get("out_channels_list"), Mapping):
        numbers = head["out_channels_list"].items()
        head["out_channels_list"] = {name: number + extra for name, number in numbers}
    elif isinstance(head.get("out_channels"), int):
        head["out_channels"] += extra
    with chance_of_its_own():
        model = built_apart(architecture, "classes_")
    # With all names of a parameter that several layers share, as weights files have them.
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
