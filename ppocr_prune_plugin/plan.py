"""The pruning plan: what is kept of which channel group, as plain data that travels in JSON.

Indices refer to the unpruned network, so that a plan means the same wherever it is read.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .errors import PruneError
from .files import write_atomically
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
        frame = Frame.from_dict(content["frame"]) if "frame" in content else None
        return PruningPlan(str(content["criterion"]), groups, flops, params, frame)
    except (KeyError, TypeError, ValueError) as error:
        raise PruneError(f"{path}: the pruning plan lacks or misspells {error}.") from error


def _checksum(content: Mapping[str, Any]) -> str:
    body = {key: value for key, value in content.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()[:16]
