"""What a report says, as plain data: written as ``report.json``, from which it is drawn again."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ..errors import PruneError
from ..plan import Change

FORMAT = "ppocr-prune-report/1"


@dataclass(frozen=True)
class Point:
    """One measurement of a layer pruned by itself: ``loss`` is a fraction of the metric, negative
    where pruning helped; ``metric`` and ``images`` are None where the file did not say;
    ``interval`` is where the loss on all images lies where it was taken on fewer."""

    ratio: float
    loss: float
    metric: float | None = None
    images: int | None = None
    interval: tuple[float, float] | None = None


@dataclass(frozen=True)
class Layer:
    """One prunable channel group, in the order of the forward pass.

    ``kept`` is its width after pruning, ``predicted_loss`` what its curve says of that width,
    ``points`` the measured curve (rising in ratio), ``skipped`` ratios that were left out because
    the loss was out of bounds before them.
    """

    name: str
    channels: int
    kept: int
    predicted_loss: float | None = None
    points: tuple[Point, ...] = ()
    skipped: tuple[float, ...] = ()

    @property
    def ratio(self) -> float:
        """Share of the channels removed."""
        return 1 - self.kept / self.channels


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one run: the unpruned network, what was predicted of the pruned one, and
    what was measured of it; ``how`` they were measured."""

    before: float
    predicted: float
    after: float
    how: str

    @property
    def pruned(self) -> float:
        """Share of the time saved, as measured."""
        return 1 - self.after / self.before

    @property
    def predicted_pruned(self) -> float:
        """The same, as predicted."""
        return 1 - self.predicted / self.before


@dataclass(frozen=True)
class FrozenChannels:
    """Channels that no plan may remove, and why; ``channels`` counts those that this is about."""

    name: str
    channels: int
    reason: str


@dataclass(frozen=True)
class Report:
    """Everything that the report shows.

    ``target`` is the key that said how much to prune, ``target_value`` its value; ``metric`` the
    main indicator's name, ``before`` and ``after`` its values on ``images`` images of the
    unpruned model and right after pruning (None where there is no evaluation set), ``spread``
    where the unpruned model's would lie on other sets of as many images (95 of 100).
    ``feasibility`` are rows (share of ``feasibility_of`` removed, predicted loss; None where that
    much is out of reach). ``latency`` is there where it was the target. ``unknown`` counts the
    operations without a rule. ``files`` and ``versions`` are shown as they
    are: label → path, name → version.
    """

    criterion: str
    target: str
    target_value: float | Mapping[str, float]
    flops: Change
    params: Change
    layers: tuple[Layer, ...]
    metric: str | None = None
    before: float | None = None
    after: float | None = None
    images: int | None = None
    spread: tuple[float, float] | None = None
    latency: Latency | None = None
    frozen: tuple[FrozenChannels, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    feasibility: tuple[tuple[float, float | None], ...] = ()
    feasibility_of: str = "FLOPs"
    round_to: int = 1
    dry_run: bool = False
    source: str = ""
    command: str = ""
    created: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types; what is not a finite number becomes null."""
        content = asdict(self)
        content["flops"], content["params"] = self.flops.as_dict(), self.params.as_dict()
        plain: dict[str, Any] = _plain({"format": FORMAT, **content})
        return plain

    @staticmethod
    def from_dict(content: object, source: str) -> Report:
        """Read what :meth:`as_dict` gave; ``source`` names the file in messages.

        Raises:
            PruneError: another format, or something missing or of the wrong type.
        """
        if not isinstance(content, Mapping) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, Mapping) else None
            raise PruneError(
                f"{source}: this is not the data of a report (format is {found!r}, expected "
                f"{FORMAT!r}). It is called report.json, in <save_model_dir>/prune."
            )
        try:
            return _read(content)
        except (LookupError, TypeError, ValueError, AttributeError) as error:
            what = f"{error} is missing" if isinstance(error, KeyError) else str(error)
            raise PruneError(
                f"{source}: the report's data is damaged: {what}. Run the pruning again (the "
                "measured sensitivity is reused) to write it anew."
            ) from error


def load_report(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        PruneError: the file is not there, cut off, or not a report.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PruneError(f"{path}: the report cannot be read: {error.strerror}.") from error
    except ValueError as error:
        raise PruneError(
            f"{path}: the report's data is not complete JSON ({error}). Name the report.json in "
            "<save_model_dir>/prune; if this is it, run the pruning again to write it anew."
        ) from error
    return Report.from_dict(content, str(path))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(content: Mapping[str, Any]) -> Report:
    target = content["target_value"]
    return Report(
        criterion=_text(content, "criterion"),
        target=_text(content, "target"),
        target_value=(
            {str(key): float(value) for key, value in target.items()}
            if isinstance(target, Mapping)
            else float(target)
        ),
        flops=_change(content["flops"]),
        params=_change(content["params"]),
        layers=tuple(_layer(item) for item in content["layers"]),
        metric=None if content["metric"] is None else _text(content, "metric"),
        before=_optional(content["before"]),
        after=_optional(content["after"]),
        images=None if content["images"] is None else int(content["images"]),
        spread=_pair(content.get("spread")),
        latency=_latency(content.get("latency")),
        frozen=tuple(
            FrozenChannels(_text(item, "name"), int(item["channels"]), _text(item, "reason"))
            for item in content["frozen"]
        ),
        unknown={str(name): int(count) for name, count in content["unknown"].items()},
        feasibility=tuple(
            (float(share), _optional(loss)) for share, loss in content["feasibility"]
        ),
        feasibility_of=_text(content, "feasibility_of"),
        round_to=int(content["round_to"]),
        dry_run=bool(content["dry_run"]),
        source=_text(content, "source"),
        command=_text(content, "command"),
        created=_text(content, "created"),
        files={str(name): str(path) for name, path in content["files"].items()},
        versions={str(name): str(version) for name, version in content["versions"].items()},
    )


def _layer(item: Mapping[str, Any]) -> Layer:
    channels, kept = int(item["channels"]), int(item["kept"])
    if not 0 < kept <= channels:
        raise ValueError(f"layer {item['name']} keeps {kept} of {channels} channels")
    return Layer(
        _text(item, "name"),
        channels,
        kept,
        _optional(item["predicted_loss"]),
        tuple(
            Point(
                float(point["ratio"]),
                float(point["loss"]),
                _optional(point["metric"]),
                None if point["images"] is None else int(point["images"]),
                _pair(point.get("interval")),
            )
            for point in item["points"]
        ),
        tuple(float(ratio) for ratio in item["skipped"]),
    )


def _change(item: Mapping[str, Any]) -> Change:
    return Change(int(item["before"]), int(item["after"]))


def _latency(item: Mapping[str, Any] | None) -> Latency | None:
    if item is None:
        return None
    before, predicted, after = (float(item[key]) for key in ("before", "predicted", "after"))
    return Latency(before, predicted, after, _text(item, "how"))


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _text(item: Mapping[str, Any], key: str) -> str:
    value = item[key]
    if not isinstance(value, str):
        raise TypeError(f"{key} is {value!r}, expected text")
    return value
