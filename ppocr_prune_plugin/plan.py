"""The pruning plan: what is kept of which channel group, as plain data that travels in JSON.

Indices refer to the unpruned network, so that a plan means the same wherever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import PruneError
from .files import write_atomically
from .structure import Change, PrunedStructure

__all__ = ["Change", "GroupPlan", "PruningPlan", "load_plan", "plan_path"]

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
class PruningPlan:
    """What is kept of every group that loses something, and what that saves.

    ``structures`` holds the pruned structure of each network, by name: of each pruned sub-model of
    a distillation model, or of the one network under an empty name. ``flops`` and ``params`` are
    those of all of them together.
    """

    criterion: str
    groups: tuple[GroupPlan, ...]
    flops: Change
    params: Change
    structures: Mapping[str, PrunedStructure] = field(default_factory=dict)

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
        content["checksum"] = _checksum(content)
        return content

    def save(self, path: Path) -> None:
        """Write the plan; the file is complete or not there."""
        write_atomically(path, json.dumps(self.as_dict(), indent=1))


def plan_path(prefix: str | os.PathLike[str]) -> Path:
    """``output/best_accuracy[.pdparams]`` → ``output/best_accuracy.prune.json``."""
    return Path(str(os.fspath(prefix)).removesuffix(".pdparams") + SUFFIX)


def load_plan(path: Path) -> PruningPlan:
    """Read a plan.

    Raises:
        PruneError: the file is not there, truncated, edited by hand or of another format.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PruneError(f"{path}: the pruning plan cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise PruneError(
            f"{path}: the pruning plan is not complete JSON ({error}); it was probably cut off "
            "while it was copied. Copy it again; beside a .pdparams it may also be deleted: the "
            "structure is then worked out from the weights."
        ) from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise PruneError(f"{path}: format is {found!r}, but this version reads {FORMAT!r}.")
    if content.get("checksum") != _checksum(content):
        raise PruneError(
            f"{path}: the pruning plan was changed after it was written (its checksum does not "
            "fit). A plan is not meant to be edited: change the Prune section and prune again, or "
            "take the original file."
        )
    try:
        groups = tuple(
            GroupPlan(
                str(item["name"]),
                int(item["channels"]),
                None if item["kept"] is None else tuple(int(k) for k in item["kept"]),
                int(item["kept_channels"]),
            )
            for item in content["groups"]
        )
        flops, params = (
            Change(int(content[key]["before"]), int(content[key]["after"]))
            for key in ("flops", "params")
        )
        structures = {
            str(name): PrunedStructure.from_dict(item)
            for name, item in content["structures"].items()
        }
        return PruningPlan(str(content["criterion"]), groups, flops, params, structures)
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise PruneError(f"{path}: the pruning plan lacks or misspells {error}.") from error


def _checksum(content: Mapping[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
