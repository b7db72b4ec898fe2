"""Prune any ``paddle.nn.Layer`` from Python: without PaddleOCR, its tools or a config.

Four steps: :func:`network` finds out what hangs together, :func:`groups` shows it, :func:`plan`
chooses what stays, :func:`prune` removes the rest in place. :func:`load_plan` and :func:`rebuild`
bring a pruned network back. What is here stays as it is from one minor version to the next; other
modules of the package may change. The guide is docs/api.md.

    from ppocr_prune_plugin import api

    net = api.network(model, [((1, 3, 640, 640), "float32")])
    plan = api.plan(net, pruned_flops=0.4, images=batches)
    api.prune(net, plan, images=batches)
"""

from __future__ import annotations

import functools
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt
import paddle

from . import plan as plans
from . import rebuilding, surgery
from .errors import PruneError
from .graph.groups import ChannelGroup
from .graph.live import tensors_of
from .graph.trace import is_spec, map_inputs
from .moments import collect, evaluating
from .network import Network, apply_checked, as_tensors, inspect, random_inputs
from .plan import GroupPlan, PruningPlan
from .recovery.recovery import Recovered, Recovery
from .section import parse_section
from .sensitivity.function import FunctionEvaluation
from .sensitivity.spill import ArrayStore
from .structure import Change
from .workflow import PruningRun

__all__ = [
    "Change",
    "ChannelGroup",
    "GroupPlan",
    "Network",
    "PruneError",
    "Pruned",
    "PruningPlan",
    "Recovered",
    "groups",
    "load_plan",
    "network",
    "plan",
    "prune",
    "rebuild",
]

Batch = Any
"""What ``forward`` takes: an array or tensor ``[images, ...]``, or a list of them where it takes
several arguments."""

_logger = logging.getLogger("ppocr_prune_plugin")
_NORM_BATCHES = 2  # as many as Prune.bn_batches has by default
_NORM_IMAGES = 32  # of each


def network(
    model: paddle.nn.Layer, inputs: Sequence[Any], training_inputs: Sequence[Any] | None = None
) -> Network:
    """Trace a network: which of its channels can only be removed together, and what they cost.

    Nothing is computed, and the model is left as it was. What is found belongs to the model as
    wide as it is now.

    Args:
        model: the network, with trained weights.
        inputs: the positional arguments of ``forward`` as it is deployed, with a batch of one: a
            ``(shape, dtype)`` pair, an array or a tensor for each tensor, ``((1, 3, 640, 640),
            "float32")`` for instance. FLOPs are counted at these shapes.
        training_inputs: those of ``forward`` in training mode where they are others (labels).

    Returns:
        The network: ``graph`` holds its channel groups and what is frozen, and why; ``costs`` its
        FLOPs (multiply-accumulates) and parameters.

    Raises:
        PruneError: Paddle cannot trace the model.
    """
    given = _described(inputs)
    return inspect(model, given, None if training_inputs is None else _described(training_inputs))


def groups(net: Network) -> tuple[ChannelGroup, ...]:
    """The channel groups that can be pruned, in the order of the forward pass.

    A group has a ``name`` (that of its first layer), a ``size`` (its number of channels) and
    ``members``: parameter, axis, role, and where each channel stands along that axis. Groups that
    only training uses are left out: there is nothing to gain. ``print`` shows a group.
    """
    training = set(net.training_only)
    return tuple(group for group in net.graph.groups if group not in training)


def plan(
    net: Network,
    *,
    ratio: float | Mapping[str, float] | None = None,
    max_loss: float | None = None,
    pruned_flops: float | None = None,
    pruned_params: float | None = None,
    criterion: str = "obs",
    skip: Sequence[str] = (),
    round_to: int = 8,
    images: Sequence[Batch] = (),
    evaluate: Callable[[], float] | None = None,
    folder: str | os.PathLike[str] | None = None,
) -> PruningPlan:
    """Choose which channels stay. The model is left as it was.

    Exactly one of the first four says how much goes. They, ``criterion``, ``skip`` and
    ``round_to`` mean what they mean in a ``Prune`` section. All but ``ratio`` measure what the
    network loses when each group is cut by itself: by ``evaluate``, or else by how far its outputs
    on ``images`` move from those of the unpruned network.

    Args:
        net: what :func:`network` found.
        ratio: share of every group's channels to remove, or ``{layer-name pattern: share}``, of
            which the first that matches counts.
        max_loss: the most that cutting any one group may cost by itself, as a share of what
            ``evaluate`` returns for the unpruned network, or as a distance between 0 and 1.
        pruned_flops: share of the network's FLOPs to remove, where it hurts least.
        pruned_params: the same for parameters.
        criterion: how filters are ranked. ``obs`` needs images; ``fpgm``, ``l1``, ``l2``,
            ``bn_scale`` and ``random`` look at weights alone. Also ``package.module:Class``.
        skip: patterns of layer names that are not pruned.
        round_to: widths are multiples of it, where a group has that many channels.
        images: batches like those that the network was trained on, without labels; 32 images
            are enough.
        evaluate: returns a number above 0 for the model as it is now, higher for better.
        folder: keeps measurements (``sen.pickle``, ``sensitivity.json``): a second call with the
            same weights, images and criterion goes on where the first ended. Where ``evaluate``
            has changed, give another folder.

    Returns:
        The plan: ``groups`` with the channels kept of each, ``flops`` and ``params`` before and
        after. ``save(path)`` writes it.

    Raises:
        PruneError: an argument is not what it may be, the target cannot be reached or prunes
            nothing, or the criterion fails.
    """
    asked = {
        "ratio": ratio, "max_loss": max_loss, "pruned_flops": pruned_flops,
        "pruned_params": pruned_params, "criterion": criterion, "skip": list(skip),
        "round_to": round_to, "sensitivity": {"by": "output" if evaluate is None else "metric"},
    }  # fmt: skip
    section = parse_section(asked, "api.plan")
    _require_unpruned(net)
    batches = _batches(net, images, "api.plan")
    if not batches and criterion == "obs":
        raise PruneError(
            "api.plan: the criterion obs looks at what the network computes on images, and there "
            "are none. Give some (images=…), or take a criterion of weights alone: "
            "criterion='l1'."
        )
    if not batches and evaluate is None and ratio is None:
        raise PruneError(
            f"api.plan: {section.target[0]} needs a measure of what a cut costs, and there is "
            "none. Give images=… (losses are then distances of outputs) or evaluate=…, or prune "
            "by ratio=…."
        )
    shown = [functools.partial(_forward, net.model, batch) for batch in batches]
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-") as temporary:
        place = Path(temporary if folder is None else folder)
        place.mkdir(parents=True, exist_ok=True)
        evaluation = None
        if evaluate is not None and ratio is None:
            run = functools.partial(_in_evaluation_mode, net)
            evaluation = FunctionEvaluation(evaluate, run, ArrayStore(0, place))
        choice = PruningRun(
            net,
            section,
            "api.plan",
            evaluation,
            _norm_batches(net, batches),
            shown,
            _no_gradients,
            place,
            _logger,
            settings=lambda looks: {"images": _digest(batches)},
        ).choose()
    return choice.plan


@dataclass(frozen=True)
class Pruned:
    """What :func:`prune` did. ``recovered`` says what was given back (None without images);
    ``restore`` puts the model back as it was."""

    plan: PruningPlan
    recovered: Recovered | None
    _net: Network
    _undo: surgery.Undo

    def restore(self) -> None:
        """Put the model back as it was before: widths and weights. What was trained since is
        lost."""
        surgery.restore(self._net.model, self._undo)


def prune(net: Network, plan: PruningPlan, images: Sequence[Batch] = ()) -> Pruned:
    """Remove what a plan does not keep, in place, and check that the model still runs.

    Parameters stay the same objects with other shapes. Build an optimizer afterwards: one that has
    made a step holds accumulators of the old shapes.

    Args:
        net: the network that the plan was made for, or one that is built alike; unpruned.
        plan: of :func:`plan` or :func:`load_plan`.
        images: batches, as in :func:`plan`. Layers that read removed channels get weights that
            make up for them, and batch norms are re-estimated where that helps. Without images
            all weights that stay are as they were.

    Raises:
        PruneError: the plan is for another network, or the pruned model does not run as the
            unpruned one did; it is then put back.
    """
    _require_unpruned(net)
    recovery = None
    if batches := _batches(net, images, "api.prune"):
        shown = [functools.partial(_forward, net.model, batch) for batch in batches]
        read = collect(net.model, net.graph, shown)
        norms = _norm_batches(net, batches)
        recovery = Recovery(net.model, net.graph, norms, read, shown)
    undo = apply_checked(net, plan)
    recovered = None
    if recovery is not None:
        recovered = recovery.finish(net.graph, plan.groups, undo)
        _logger.info("prune: %s", recovered)
    return Pruned(plan, recovered, net, undo)


def load_plan(path: str | os.PathLike[str]) -> PruningPlan:
    """Read a plan that ``PruningPlan.save`` or a run of PaddleOCR's tools has written.

    Raises:
        PruneError: the file is not there, damaged, edited or no plan.
    """
    return plans.load_plan(Path(path))


def rebuild(model: paddle.nn.Layer, plan: PruningPlan) -> None:
    """Give a network that was built unpruned the structure that a plan leaves, in place, so that
    pruned weights can be loaded: ``model.set_state_dict(paddle.load(...))``.

    Nothing is traced. The weights that the model has now are no longer of use.

    Raises:
        PruneError: the plan is for another network, or for several (a distillation model's).
    """
    if list(plan.structures) != [""]:
        named = ", ".join(plan.structures) or "no network"
        raise PruneError(f"api.rebuild: the plan is not that of one network, but of: {named}.")
    structure = plan.structures[""]
    shapes = {name: list(tensor.shape) for name, tensor in tensors_of(model).items()}
    for name, axes in structure.axes.items():
        for axis, (_, after) in axes.items():
            if axis < len(shapes.get(name, ())):
                shapes[name][axis] = after
    rebuilding.rebuild(model, structure, {name: tuple(shape) for name, shape in shapes.items()})


def _described(inputs: Sequence[Any]) -> list[Any]:
    """Inputs as the tracer takes them."""

    def leaf(item: Any) -> Any:
        if isinstance(item, paddle.Tensor):
            return item.numpy()
        return item

    if not isinstance(inputs, Sequence) or isinstance(inputs, str) or _is_pair(inputs):
        raise PruneError(
            "api.network: inputs is the list of what forward takes, for instance "
            f"[((1, 3, 640, 640), 'float32')], found {inputs!r}."
        )
    return list(map_inputs(list(inputs), leaf))


def _is_pair(inputs: Sequence[Any]) -> bool:
    """Whether the one ``(shape, dtype)`` pair was given without the list around it."""
    return len(inputs) == 2 and isinstance(inputs[1], str) and isinstance(inputs[0], list | tuple)


def _require_unpruned(net: Network) -> None:
    live = {name: tuple(tensor.shape) for name, tensor in tensors_of(net.model).items()}
    for name, shape in net.graph.shapes.items():
        if name in live and live[name] != tuple(shape):
            raise PruneError(
                f"the model has changed since it was traced: {name} has the shape "
                f"{list(live[name])} now and had {list(shape)}. Call api.network(model, …) again."
            )


def _batches(net: Network, images: Sequence[Batch], call: str) -> list[list[npt.NDArray[Any]]]:
    """Batches as lists of the arrays that ``forward`` takes.

    Raises:
        PruneError: they are not like the inputs that the network was traced with.
    """
    if not isinstance(images, list | tuple):
        raise PruneError(
            f"{call}: images is the list of batches, for instance [batch]; found a "
            f"{type(images).__name__}."
        )
    found = []
    for number, batch in enumerate(images):
        wanted = [len(item[0]) if is_spec(item) else np.ndim(item) for item in net.inputs]
        items = list(batch) if isinstance(batch, list | tuple) else [batch]
        arrays = [np.asarray(i.numpy() if isinstance(i, paddle.Tensor) else i) for i in items]
        if [array.ndim for array in arrays] != wanted:
            raise PruneError(
                f"{call}: images[{number}] has the shapes {[list(a.shape) for a in arrays]}; "
                f"forward takes {len(wanted)} with {', '.join(map(str, wanted))} axes, the first "
                "of which counts images."
            )
        found.append(arrays)
    return found


def _forward(model: paddle.nn.Layer, batch: Sequence[npt.NDArray[Any]]) -> Any:
    return model(*as_tensors(batch))


def _in_evaluation_mode(net: Network) -> Any:
    with evaluating(net.model), paddle.no_grad():
        return _forward(net.model, random_inputs(net.inputs))


def _norm_batches(
    net: Network, batches: Sequence[Sequence[npt.NDArray[Any]]]
) -> list[Callable[[], Any]]:
    """Runs in training mode, for batch norms; none where that takes more than images."""
    if net.training_inputs is not net.inputs:
        return []
    few = [[array[:_NORM_IMAGES] for array in batch] for batch in batches[:_NORM_BATCHES]]
    return [functools.partial(_forward, net.model, batch) for batch in few]


def _digest(batches: Sequence[Sequence[npt.NDArray[Any]]]) -> str:
    """What tells images from others."""
    digest = hashlib.sha256()
    for batch in batches:
        for array in batch:
            digest.update(f"{array.shape}{array.dtype}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"{sum(len(batch[0]) for batch in batches)} (sha256 {digest.hexdigest()[:16]})"


def _no_gradients() -> NoReturn:
    raise PruneError(
        "api.plan: this criterion asks for gradients of the training loss, which only a run of "
        "PaddleOCR's tools has. Take another one: criterion='obs'."
    )
