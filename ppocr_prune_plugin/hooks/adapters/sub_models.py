"""The networks inside a model: one, or the sub-models of a distillation model.

To the rest of the package each of them is a network by itself, with names of its own
(``backbone.conv1``); only here and in files do the sub-models' names stand before them
(``Student.backbone.conv1``).
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import paddle

from ...errors import PruneError, did_you_mean
from ...plan import Change, GroupPlan, PruningPlan
from ...section import PruneSection
from .state import inner

Config = Mapping[str, Any]


@dataclass(frozen=True)
class SubModel:
    """One network: its name (empty where it is the whole model), the layer, and the config as it
    would be if this network were all of the model."""

    name: str
    model: paddle.nn.Layer
    config: Config

    @property
    def prefix(self) -> str:
        """What stands before its parameters' names in a weights file."""
        return f"{self.name}." if self.name else ""

    def prefix_in(self, names: Iterable[str]) -> str:
        """The same in a file with these names, which may be of this network alone."""
        return self.prefix if any(name.startswith(self.prefix) for name in names) else ""

    @property
    def structure(self) -> Config:
        """Equal for networks of one structure."""
        architecture = dict(self.config["Architecture"])
        for key in ("pretrained", "freeze_params"):
            architecture.pop(key, None)
        return architecture


def sub_models(config: Config) -> dict[str, Config]:
    """``Architecture.Models`` of a distillation config; empty for any other."""
    architecture = config.get("Architecture") or {}
    return dict(architecture.get("Models") or {})


def sub_model_config(config: Config, name: str) -> Config:
    """The config as it would be if the sub-model were all of the model."""
    return {**config, "Architecture": sub_models(config)[name]}


def sub_models_of(config: Config, model: paddle.nn.Layer) -> list[SubModel]:
    """The networks inside a live model, in the order of the config."""
    whole = inner(model)
    names = [name for name in sub_models(config) if hasattr(whole, name)]
    if not names:
        return [SubModel("", whole, config)]
    return [SubModel(name, getattr(whole, name), sub_model_config(config, name)) for name in names]


def check_models(section: PruneSection, config: Config, source: str) -> None:
    """Raise :class:`PruneError` where ``Prune.models`` does not fit the architecture."""
    chosen_models(section, config, source)


def chosen_models(section: PruneSection, config: Config, source: str) -> list[str]:
    """Names of the sub-models to prune, in the order of the config; ``[""]`` for a single network.

    Raises:
        PruneError: there is no such sub-model, it is frozen, or none is trained.
    """
    known = sub_models(config)
    stated = section.models
    if not known:
        if stated is not None:
            raise PruneError(
                f"{source}: Prune.models names {', '.join(stated)}, but this is no distillation "
                "config: Architecture has no Models. Leave the key away."
            )
        return [""]
    trained = [name for name, part in known.items() if not part.get("freeze_params")]
    if stated is None:
        if not trained:
            raise PruneError(
                f"{source}: every sub-model of Architecture.Models has freeze_params: true, so "
                "none would be trained after pruning. Set it to false for the student."
            )
        return trained
    for name in stated:
        if name not in known:
            raise PruneError(
                f'{source}: Prune.models names "{name}"{did_you_mean(name, known)}, but '
                f"Architecture.Models has {', '.join(known)}."
            )
        if name not in trained:
            raise PruneError(
                f"{source}: Prune.models names {name}, which has freeze_params: true: it would "
                "be pruned and never trained afterwards. "
                + (f"Those that are trained: {', '.join(trained)}." if trained else "None is.")
            )
    return [name for name in known if name in stated]


def section_of(section: PruneSection, name: str, names: Iterable[str]) -> PruneSection:
    """The section as it reads for the sub-model ``name`` of ``names``.

    A pattern that begins with a sub-model's name and a dot speaks of that one alone; others of all.
    """
    others = set(names) - {name}

    def local(pattern: str) -> str | None:
        head, dot, rest = pattern.partition(".")
        if dot and head in others:
            return None
        return rest if dot and head == name else pattern

    ratio = section.ratio
    if isinstance(ratio, Mapping):
        own: dict[str, float] = {}
        for pattern, value in ratio.items():
            mine = local(pattern)
            if mine is not None:
                own.setdefault(mine, value)  # the first match wins
        ratio = own
    skip = tuple(mine for pattern in section.skip if (mine := local(pattern)) is not None)
    return dataclasses.replace(section, models=None, ratio=ratio, skip=skip)


@dataclass(frozen=True)
class Family:
    """Networks of one structure that the section treats alike: they get the same widths.

    The first is the one to measure. Each ranks its own filters: networks that were trained apart
    have nothing in common channel by channel.
    """

    members: tuple[SubModel, ...]
    section: PruneSection


def families(
    config: Config, model: paddle.nn.Layer, section: PruneSection, source: str
) -> list[Family]:
    """What the section prunes of a live model. Raises as :func:`chosen_models` does.

    In each family the sub-model that the metric's ``key`` names comes first, if it is in it.
    Patterns may be Paddle's own names of weights (``conv2d_57.w_0``), as PaddleSlim has them.
    """
    chosen = chosen_models(section, config, source)
    section = _with_layer_names(section, inner(model))
    found: list[tuple[Any, list[SubModel], PruneSection]] = []
    for part in sub_models_of(config, model):
        if part.name not in chosen:
            continue
        own = section_of(section, part.name, sub_models(config))
        for structure, members, same in found:
            if structure == part.structure and own == same:
                members.append(part)
                break
        else:
            found.append((part.structure, [part], own))
    main = (config.get("Metric") or {}).get("key")
    for _, members, _ in found:
        members.sort(key=lambda part: part.name != main)
    return [Family(tuple(members), own) for _, members, own in found]


def _with_layer_names(section: PruneSection, model: paddle.nn.Layer) -> PruneSection:
    """The section with the layer that holds the weight where a pattern is a weight's name."""
    layers = {p.name: name.rpartition(".")[0] for name, p in model.named_parameters()}
    ratio = section.ratio
    if isinstance(ratio, Mapping):
        own: dict[str, float] = {}
        for pattern, value in ratio.items():
            own.setdefault(layers.get(pattern, pattern), value)  # the first match wins
        ratio = own
    skip = tuple(layers.get(pattern, pattern) for pattern in section.skip)
    return dataclasses.replace(section, ratio=ratio, skip=skip)


def combined(plans: Mapping[str, PruningPlan]) -> PruningPlan | None:
    """The plan of a whole model from those of its networks, by name; None where there are none.

    Costs are those of the pruned networks together: others do not count.
    """
    if not plans or "" in plans:
        return plans.get("")
    groups = tuple(
        dataclasses.replace(group, name=f"{name}.{group.name}")
        for name, plan in plans.items()
        for group in plan.groups
    )

    def total(quantity: str) -> Change:
        changes = [getattr(plan, quantity) for plan in plans.values()]
        return Change(sum(c.before for c in changes), sum(c.after for c in changes))

    criteria = dict.fromkeys(plan.criterion for plan in plans.values())
    structures = {name: plan.structures[""] for name, plan in plans.items()}
    unpruned = {name: plan.unpruned[""] for name, plan in plans.items() if plan.unpruned}
    first = next(iter(plans.values()))
    return PruningPlan(
        ", ".join(criteria),
        groups,
        total("flops"),
        total("params"),
        structures,
        unpruned,
        first.progress,
        first.dictionary,
    )


def own_groups(plan: PruningPlan, name: str) -> list[GroupPlan]:
    """What a whole model's plan says of one of its networks, in that one's own names."""
    prefix = f"{name}." if name else ""
    return [
        dataclasses.replace(group, name=group.name.removeprefix(prefix))
        for group in plan.groups
        if group.name.startswith(prefix)
    ]


def own_plan(plan: PruningPlan, name: str) -> PruningPlan:
    """The plan of one network of a whole model's; raises KeyError where it has none."""
    structure = plan.structures[name]
    groups = tuple(own_groups(plan, name))
    unpruned = {"": plan.unpruned[name]} if name in plan.unpruned else {}
    return PruningPlan(
        plan.criterion,
        groups,
        structure.flops,
        structure.params,
        {"": structure},
        unpruned,
        plan.progress,
        plan.dictionary,
    )


def arguments_of(part: SubModel, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What ``program.train`` was called with, as if this network were all of the model."""
    if not part.name:
        return arguments
    own = {**arguments, "config": part.config, "model": part.model}
    if arguments["post_process_class"] is not None:
        own["post_process_class"] = _OnePostProcess(part.name, arguments["post_process_class"])
    own["eval_class"] = _OneMetric(part.name, arguments["eval_class"])
    return own


class _OnePostProcess:
    """PaddleOCR's post-processing of a distillation model, on one network's own output."""

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self._original = copy.copy(original)
        self._original.model_name = [name]

    def __call__(self, preds: Any, *args: Any, **kwargs: Any) -> Any:
        return self._original({self._name: preds}, *args, **kwargs)[self._name]


class _OneMetric:
    """PaddleOCR's metric of a distillation model, of one network; keeps no count of the others.

    The original makes one metric per network that it meets first: this one has to be a copy.
    """

    def __init__(self, name: str, original: Any) -> None:
        self._name = name
        self.main_indicator: str = original.main_indicator
        self._metric = copy.copy(original)
        self._metric.key, self._metric.metrics = name, None

    def __call__(self, preds: Any, batch: Any, **kwargs: Any) -> None:
        self._metric({self._name: preds}, batch, **kwargs)

    def get_metric(self) -> Any:
        return self._metric.get_metric()

    def reset(self) -> None:
        if self._metric.metrics is not None:
            self._metric.reset()
