"""The pruning plan: what is kept of which channel group, as plain data that travels in JSON.

Indices refer to the unpruned network, so that a plan means the same wherever it is read.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import documents
from .documents import Misfit, listed, mapping, maybe, number, record, row, text, whole
from .structure import Change, PrunedStructure

__all__ = [
    "Change",
    "GroupPlan",
    "Progress",
    "PruningPlan",
    "WeightsFile",
    "load_plan",
    "plan_path",
]

FORMAT = "ppocr-prune-plan/1"
SUFFIX = ".prune.json"


@dataclass(frozen=True)
class GroupPlan:
    """One channel group: its width before, how many channels stay, and which.

    ``kept`` is sorted, counted from 0 in the unpruned network. It is None where the structure was
    worked out from the shapes in a weights file, which do not tell which channels they are.
    """

    name: str
    channels: int
    kept: tuple[int, ...] | None
    kept_channels: int

    @property
    def ratio(self) -> float:
        """Share of the channels removed."""
        return 1 - self.kept_channels / self.channels

    @property
    def removed(self) -> list[int]:
        """Indices that go; raises ValueError where they are not known."""
        if self.kept is None:
            raise ValueError(f"the kept channels of {self.name} are not known")
        kept = set(self.kept)
        return [index for index in range(self.channels) if index not in kept]


@dataclass(frozen=True)
class WeightsFile:
    """The unpruned weights that a plan was made for: where they were, and their SHA-256 in
    hexadecimal digits."""

    path: str
    checksum: str


@dataclass(frozen=True)
class Progress:
    """How far a schedule has come: ``step`` of ``steps`` is done, ``epochs`` are trained after
    each, and the first step came before epoch ``first_epoch``."""

    step: int
    steps: int
    epochs: int
    first_epoch: int

    @property
    def next_epoch(self) -> int:
        """The epoch before which the next step comes."""
        return self.first_epoch + self.step * self.epochs

    @property
    def done(self) -> bool:
        """Whether there is no further step."""
        return self.step >= self.steps


@dataclass(frozen=True)
class PruningPlan:
    """What is kept of every group that loses something, and what that saves.

    ``structures`` holds the pruned structure of each network, by name: of each pruned sub-model of
    a distillation model, or of the one network under an empty name. ``flops`` and ``params`` are
    those of all of them together. ``unpruned`` names the weights of each network before it was
    pruned, where they are known: of the teacher of a run that is resumed. ``progress`` is there
    where a schedule prunes in steps.
    """

    criterion: str
    groups: tuple[GroupPlan, ...]
    flops: Change
    params: Change
    structures: Mapping[str, PrunedStructure] = field(default_factory=dict)
    unpruned: Mapping[str, WeightsFile] = field(default_factory=dict)
    progress: Progress | None = None

    def kept_channels(self) -> dict[str, int]:
        """Width of every pruned group afterwards."""
        return {group.name: group.kept_channels for group in self.groups}

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON types, with a checksum over the rest."""
        content: dict[str, Any] = {
            "format": FORMAT,
            "criterion": self.criterion,
            "groups": [
                {
                    "name": group.name,
                    "channels": group.channels,
                    "kept_channels": group.kept_channels,
                    "kept": None if group.kept is None else list(group.kept),
                }
                for group in self.groups
            ],
            "flops": self.flops.as_dict(),
            "params": self.params.as_dict(),
            "structures": {name: item.as_dict() for name, item in self.structures.items()},
        }
        if self.unpruned:
            content["unpruned"] = {name: vars(file) for name, file in self.unpruned.items()}
        if self.progress is not None:
            content["progress"] = vars(self.progress)
        return documents.signed(content)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the plan; the file is complete, or as it was before."""
        documents.write(Path(path), self.as_dict())


def plan_path(prefix: str | os.PathLike[str]) -> Path:
    """``output/best_accuracy[.pdparams]`` → ``output/best_accuracy.prune.json``."""
    return Path(str(os.fspath(prefix)).removesuffix(".pdparams") + SUFFIX)


def load_plan(path: Path) -> PruningPlan:
    """Read a plan.

    Raises:
        PruneError: the file is not there, truncated, edited by hand or of another format.
    """
    content = documents.read(path, "the pruning plan", FORMAT, _checked, _MEND)
    groups = tuple(
        GroupPlan(
            item["name"],
            item["channels"],
            None if item["kept"] is None else tuple(item["kept"]),
            item["kept_channels"],
        )
        for item in content["groups"]
    )
    flops, params = (Change(content[k]["before"], content[k]["after"]) for k in ("flops", "params"))
    structures = {
        name: PrunedStructure.from_dict(item) for name, item in content["structures"].items()
    }
    unpruned = {name: WeightsFile(**item) for name, item in content.get("unpruned", {}).items()}
    progress = Progress(**content["progress"]) if "progress" in content else None
    return PruningPlan(content["criterion"], groups, flops, params, structures, unpruned, progress)


_MEND = (
    "A plan is not meant to be edited: copy the original file again, or change the Prune section "
    "and prune again; beside a .pdparams it may also be deleted: the structure is then worked out "
    "from the weights."
)
_CHANGE = record({"before": whole(0), "after": whole(0), "pruned": number()})
_STRUCTURE = record(
    {
        "flops": _CHANGE,
        "params": _CHANGE,
        # parameter → axis → length before and after
        "axes": mapping(mapping(row(whole(1), whole(1)))),
        "multipliers": mapping(whole(1)),
        "attributes": listed(
            record(
                {
                    "layer": text,
                    "name": text,
                    "value": whole(0),
                    "parameter": text,
                    "axis": whole(0),
                    "length": whole(1),
                    "place": maybe(whole(0)),
                }
            )
        ),
    }
)
_SCHEMA = record(
    {
        "criterion": text,
        "groups": listed(
            record(
                {
                    "name": text,
                    "channels": whole(1),
                    "kept": maybe(listed(whole(0))),
                    "kept_channels": whole(1),
                }
            )
        ),
        "flops": _CHANGE,
        "params": _CHANGE,
        "structures": mapping(_STRUCTURE),
    },
    {
        "unpruned": mapping(record({"path": text, "checksum": text})),
        "progress": record(dict.fromkeys(("step", "steps", "epochs", "first_epoch"), whole(1))),
    },
)


def _checked(content: Any, place: str) -> None:
    """The schema, and that what is said twice is said alike."""
    _SCHEMA(content, place)
    names = set()
    for index, item in enumerate(content["groups"]):
        kept, where = item["kept"], f"groups[{index}]"
        if item["name"] in names:
            raise Misfit(f"{where}.name", "a group that is not there already", item["name"])
        names.add(item["name"])
        if item["kept_channels"] > item["channels"]:
            raise Misfit(
                f"{where}.kept_channels", f"{item['channels']} or less", item["kept_channels"]
            )
        if kept is not None and (
            len(kept) != item["kept_channels"]
            or any(a >= b for a, b in zip(kept, kept[1:], strict=False))
            or kept[-1] >= item["channels"]
        ):
            raise Misfit(f"{where}.kept", f"{item['kept_channels']} rising channels", kept)
    for name, structure in content["structures"].items():
        for parameter, axes in structure["axes"].items():
            for axis, (before, after) in axes.items():
                where = f"structures.{name}.axes.{parameter}.{axis}"
                if not axis.isdecimal():
                    raise Misfit(where, "the number of an axis", axis)
                if after >= before:
                    raise Misfit(where, f"less than {before}", after)
    for key in ("flops", "params"):
        if content[key]["after"] > content[key]["before"]:
            raise Misfit(f"{key}.after", "less than before", content[key]["after"])
