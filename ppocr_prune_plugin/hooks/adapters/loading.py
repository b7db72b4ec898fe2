"""What a weights file makes of the networks that it is about to be loaded into.

A file whose plan lies beside it is pruned as the plan says, or loading it is an error. A file
without one may be pruned as well: its shapes tell. Tools that only read a model (evaluation,
inference, export) get the structure worked out of them. Training does not guess, since what it
would save is the guess: weights of a narrower model of the same family, under the wrong config,
look the same as pruned ones. A user who states that nothing is to be pruned (``Prune.enable:
false``) may train such weights.
"""

from __future__ import annotations

import enum
import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import paddle
from paddle.nn.layer.conv import _ConvNd
from paddle.nn.layer.rnn import RNNBase

from ...checkpoint import infer_kept_channels
from ...errors import PruneError
from ...network import plan_of
from ...plan import GroupPlan, PruningPlan, load_plan, plan_path
from ...rebuilding import placed, rebuild, structure_fits
from ...report.lines import summary
from .modes import full_precision
from .networks import Networks
from .state import add_loaded, set_file, set_plan
from .state import plan_of as plan_of_model
from .sub_models import SubModel, own_plan

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

_TOGETHER = "Keep both files of one checkpoint together, and the config that it was trained with."


class Purpose(enum.Enum):
    """What weights are loaded for, which decides about narrower ones without a plan."""

    READ = "a tool evaluates, runs or exports them: the structure is worked out"
    TRAIN_STATED = "they are trained and stated not to be pruned: the same, with a warning"
    TRAIN = "they are trained, nobody speaks of pruning: PaddleOCR's own, with a warning"
    PRUNE = "they are to be pruned: an error"


@dataclass
class Loading:
    """One call that loads a weights file into the networks of a model.

    ``key`` is the setting that names the file, for messages; ``done`` says whether one was read.
    """

    parts: Sequence[SubModel]
    key: str
    purpose: Purpose
    logger: logging.Logger
    done: bool = field(init=False, default=False)
    _networks: Networks = field(init=False, default_factory=Networks)

    def read(self, path: Path, content: Any) -> None:
        """Rebuild the networks for a weights file that was read, and is loaded next.

        Args:
            path: the ``.pdparams`` file.
            content: what it holds; anything but arrays by name is left to PaddleOCR.

        Raises:
            PruneError: the plan beside it cannot be applied, or is needed and not there.
        """
        self.done = True
        for part in self.parts:
            set_file(part.model, path)
        shapes = _shapes(content)
        beside = plan_path(path)
        plan = load_plan(beside) if beside.exists() else None
        left = []
        for part in self.parts:
            carried = plan_of_model(part.model)
            if carried is None:
                left.append(part)
            elif not _has_structure(carried, _own(shapes, part)):
                raise PruneError(
                    f"{path}: {part.name or 'the model'} has other widths there than in "
                    f"{_before(part)}, which is pruned too. Omit that: these weights replace it."
                )
        if plan is not None:
            self._by_plan(plan, beside, path, shapes, left)
        else:
            for part in left:
                self._without_plan(part, path, _own(shapes, part))
        for part in self.parts:
            add_loaded(part.model, _own(shapes, part))

    def _by_plan(
        self, plan: PruningPlan, beside: Path, path: Path, shapes: Shapes, left: Sequence[SubModel]
    ) -> None:
        names = {part.name: _name_in(plan, part, _own(shapes, part)) for part in self.parts}
        if not any(name is not None for name in names.values()):
            raise PruneError(
                f"{beside}: is the plan of {_listed(plan.structures)}, but the model that is "
                f"loaded is {_listed(names)}. {_TOGETHER}"
            )
        unpruned = []
        for part in left:
            name = names[part.name]
            if name is None:
                continue
            try:
                if not self._rebuild(part, own_plan(plan, name), path, _own(shapes, part)):
                    unpruned.append(part.name)
            except PruneError as error:
                raise PruneError(f"{beside}: {error}. {_TOGETHER}") from error
        if not unpruned:
            return
        if any(plan_of_model(part.model) is not None for part in self.parts):
            raise PruneError(
                f"{beside}: does not fit the weights beside it, in which {_listed(unpruned)} is "
                f"not pruned. {_TOGETHER}"
            )
        self.logger.warning(
            f"prune: {beside} is ignored: the weights beside it are not pruned. It may be left "
            "over from another run."
        )

    def _rebuild(self, part: SubModel, plan: PruningPlan, path: Path, found: Shapes) -> bool:
        """Give a network the structure of weights; False where these are not pruned."""
        with full_precision(part.model):
            others = rebuild(part.model, plan.structures[""], found)
        if others is None:
            return False
        set_plan(part.model, plan)
        what = f"{part.name} of {path}" if part.name else str(path)
        self.logger.info(
            f"prune: rebuilt the pruned network of {what}: {summary(plan, None, None, None)}"
        )
        if others:
            self.logger.warning(
                f"prune: {what} is of other sizes where pruning touches nothing, as with another "
                f"dictionary or other classes: {_with_shapes(others)} not loaded, random as with "
                "unpruned weights. The costs above are those before that."
            )
        return True

    def _without_plan(self, part: SubModel, path: Path, found: Shapes) -> None:
        narrower = _narrower(part.model, found)
        if not narrower:
            return
        missing = plan_path(path).name
        first, (here, there) = next(iter(narrower.items()))
        layers = f"{len(narrower)} layers read" if len(narrower) > 1 else "a layer reads"
        what = (
            f"{path}: {layers} fewer channels there than in {part.name or 'this model'} "
            f"({part.prefix}{first} is {list(there)} there and {list(here)} here), and no "
            f"{missing} lies beside it"
        )
        copy = f"If it is pruned, copy {missing} from where it was trained"
        if self.purpose is Purpose.PRUNE:
            raise PruneError(
                f"{self.key}: {what}. {copy}; if not, take the config that it was trained with."
            )
        if self.purpose is Purpose.TRAIN:
            self.logger.warning(
                f"prune: {what}: what does not match is not loaded and starts with random values. "
                f"{copy}, or set Prune.enable=false to have its structure worked out from its "
                "shapes; if not, take the config that it was trained with."
            )
            return
        reason = "no pruning of this model gives such shapes"
        try:
            with full_precision(part.model):
                plan = self._worked_out(part, found)
            if plan is not None:
                self._say_worked_out(what, path)
                self._rebuild(part, plan, path, found)
                return
        except Exception as error:  # a stock run goes on as it would without this package
            reason = f"{type(error).__name__}: {error}"
        self.logger.warning(
            f"prune: {what}. Its structure cannot be worked out ({reason}): what does not match "
            f"is not loaded and keeps random values. {copy}."
        )

    def _say_worked_out(self, what: str, path: Path) -> None:
        if self.purpose is Purpose.TRAIN_STATED:
            self.logger.warning(
                f"prune: {what}. Prune.enable is false, so that it is trained as it is: narrower "
                f"than the config says. Structure worked out from {path.name}."
            )
        else:
            missing = plan_path(path).name
            self.logger.info(f"prune: no {missing}: structure worked out from {path.name}")

    def _worked_out(self, part: SubModel, found: Shapes) -> PruningPlan | None:
        """The plan that explains the shapes of weights; None where none does."""
        with _without_features(part.model):
            network = self._networks.of(part)
        read = {(name, axis) for name, axis, _ in _read(part.model)}
        kept = infer_kept_channels(network.graph, found, read)
        if not kept:
            return None
        sizes = {group.name: group.size for group in network.graph.groups}
        items = [GroupPlan(name, sizes[name], None, width) for name, width in kept.items()]
        return plan_of(network, "unknown", items)


@contextmanager
def _without_features(model: paddle.nn.Layer) -> Iterator[None]:
    """In this block heads put out what they predict alone, as when the model was pruned.

    tools/export_center.py has them put out their features as well, which fixes their widths.
    """
    heads: list[Any] = [x for x in model.sublayers() if getattr(x, "return_feats", None) is True]
    for head in heads:
        head.return_feats = False
    try:
        yield
    finally:
        for head in heads:
            head.return_feats = True


def _shapes(content: Any) -> dict[str, Shape]:
    """Shapes of the arrays in a weights file, by name."""
    if not isinstance(content, Mapping):
        return {}
    return {
        str(name): tuple(value.shape) for name, value in content.items() if hasattr(value, "shape")
    }


def _own(shapes: Shapes, part: SubModel) -> Shapes:
    return {
        name.removeprefix(part.prefix): shape
        for name, shape in shapes.items()
        if name.startswith(part.prefix)
    }


def _name_in(plan: PruningPlan, part: SubModel, found: Shapes) -> str | None:
    """Under which name a plan has the structure of a network; None where it has none.

    Weights of one sub-model, taken out of a distillation checkpoint, may have the plan of the whole
    beside them.
    """
    if part.name or "" in plan.structures:
        return part.name if part.name in plan.structures else None
    names = list(plan.structures)
    fitting = [name for name in names if structure_fits(plan.structures[name], found)]
    return next(iter(fitting or names), None)


def _has_structure(plan: PruningPlan, found: Shapes) -> bool:
    """Whether weights, as far as they are a network's at all, have the structure that it has."""
    structure = plan.structures[""]
    return structure_fits(structure, found) or not placed(structure.axes, found)


def _before(part: SubModel) -> str:
    """The setting that a network was loaded by before."""
    return f"Architecture.Models.{part.name}.pretrained" if part.name else "Global.pretrained_model"


def _listed(names: Iterable[str]) -> str:
    return ", ".join(name or "a single network" for name in names) or "no network"


def _with_shapes(others: Mapping[str, tuple[Shape, Shape]]) -> str:
    shown = [f"{n} ({list(there)} there, {list(here)} here)" for n, (here, there) in others.items()]
    rest = len(shown) - 4
    return ", ".join(shown[:4]) + (f" and {rest} more" if rest > 0 else "")


def _narrower(model: paddle.nn.Layer, found: Shapes) -> dict[str, tuple[Shape, Shape]]:
    """Weights that read fewer channels in a file than in a network, with the shape here and there.

    What a layer reads is what another has left. A dictionary or a number of classes changes what
    the last layers put out.
    """
    return {
        name: (shape, found[name])
        for name, axis, shape in _read(model)
        if name in found and axis < len(found[name]) and found[name][axis] < shape[axis]
    }


def _read(model: paddle.nn.Layer) -> Iterator[tuple[str, int, Shape]]:
    """Weights with the axis along which they read channels, and their shape."""
    for prefix, layer in model.named_sublayers(include_self=True):
        for key, parameter in layer._parameters.items():
            if parameter is None:
                continue
            if key == "weight" and isinstance(layer, _ConvNd):
                axis = 0 if "Transpose" in type(layer).__name__ else 1
            elif key == "weight" and isinstance(layer, paddle.nn.Linear):
                axis = 0
            elif key.startswith("weight_ih") and isinstance(layer, RNNBase):
                axis = 1
            else:
                continue
            yield f"{prefix}.{key}" if prefix else key, axis, tuple(parameter.shape)
