"""The pruning plan: what is kept of which channel group, as plain data that travels in JSON.

Indices refer to the unpruned network, so that a plan means the same wherever it is read.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import documents
from .documents import Misfit, listed, mapping, maybe, number, record, row, text, whole
from .frame import Frame

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
class Change:
    """A quantity of the whole network before and after pruning."""

    before: int
    after: int

    @property
    def pruned(self) -> float:
        """Share removed, between 0 and 1."""
        return 1 - self.after / self.before if self.before else 0.0

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON."""
        return {"before": self.before, "after": self.after, "pruned": round(self.pruned, 6)}


@dataclass(frozen=True)
class PruningPlan:
    """What is kept of every group that loses something, and what that saves.

    ``frame`` is None in files of earlier versions, and where the plan is that of several networks.
    """

    criterion: str
    groups: tuple[GroupPlan, ...]
    flops: Change
    params: Change
    frame: Frame | None = None

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
        }
        if self.frame is not None:
            content["frame"] = self.frame.as_dict()
        return documents.signed(content)

    def save(self, path: Path) -> None:
        """Write the plan; the file is complete or not there."""
        documents.write(path, self.as_dict())


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
    frame = Frame.from_dict(content["frame"]) if "frame" in content else None
    return PruningPlan(content["criterion"], groups, flops, params, frame)


_MEND = (
    "A plan is not meant to be edited: copy the original file again, or change the Prune section "
    "and prune again; beside a .pdparams it may also be deleted: the structure is then worked out "
    "from the weights."
)
_CHANGE = record({"before": whole(0), "after": whole(0), "pruned": number()})
_SHAPE = listed(whole(0))
_FRAME = record(
    {
        "shapes": mapping(row(_SHAPE, _SHAPE)),
        "multipliers": mapping(whole(1)),
        # layer, name, value, parameter, axis, length, place
        "attributes": listed(row(text, text, whole(0), text, whole(0), whole(1), maybe(whole(0)))),
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
    },
    optional={"frame": _FRAME},
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
    for name, (before, after) in content.get("frame", {}).get("shapes", {}).items():
        if len(before) != len(after) or any(a > b for a, b in zip(after, before, strict=True)):
            raise Misfit(f"frame.shapes.{name}", f"no larger than {before}", after)
    for key in ("flops", "params"):
        if content[key]["after"] > content[key]["before"]:
            raise Misfit(f"{key}.after", "less than before", content[key]["after"])
