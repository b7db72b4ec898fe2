"""What a report says, as plain data: written as ``report.json``, from which it is drawn again."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from .. import documents
from ..documents import (
    Misfit,
    boolean,
    either,
    listed,
    mapping,
    maybe,
    number,
    record,
    row,
    text,
    whole,
)
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
class Characters:
    """The alphabet of a recogniser that lost characters: ``kept`` of ``whole`` classes, how many
    characters of each script, and for each character how often the labels have it (None where
    they were not counted); ``before`` is the metric with the whole dictionary, ``after`` that with
    what is left of it, before any channel goes (None: not known)."""

    kept: int
    whole: int
    scripts: Mapping[str, int]
    counts: tuple[tuple[str, int | None], ...]
    before: float | None = None
    after: float | None = None


@dataclass(frozen=True)
class Report:
    """Everything that the report shows.

    ``target`` is the key that said how much to prune, ``target_value`` its value; ``metric`` the
    main indicator's name, ``before`` and ``after`` its values on ``images`` images of the
    unpruned model and right after pruning (None where there is no evaluation set), ``spread``
    where the unpruned model's would lie on other sets of as many images (95 of 100), ``beside``
    what else was counted before (None: not known) and after, by name.
    ``feasibility`` are rows (share of ``feasibility_of`` removed, predicted loss; None where that
    much is out of reach). ``loss_of`` is what losses are, where they are not shares of the metric:
    the unit of a distance between outputs. ``latency`` is there where it was the target.
    ``unknown`` counts the operations without a rule. ``files`` and ``versions`` are shown as they
    are: label → path, name → version. ``alphabet`` is there where a recogniser lost characters.
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
    beside: Mapping[str, tuple[float | None, float | None]] = field(default_factory=dict)
    latency: Latency | None = None
    frozen: tuple[FrozenChannels, ...] = ()
    unknown: Mapping[str, int] = field(default_factory=dict)
    feasibility: tuple[tuple[float, float | None], ...] = ()
    feasibility_of: str = "FLOPs"
    loss_of: str = ""
    round_to: int = 1
    dry_run: bool = False
    source: str = ""
    command: str = ""
    created: str = ""
    files: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    alphabet: Characters | None = None

    def as_dict(self) -> dict[str, Any]:
        """The report as JSON types; what is not a finite number becomes null."""
        content = asdict(self)
        content["flops"], content["params"] = self.flops.as_dict(), self.params.as_dict()
        plain: dict[str, Any] = _plain({"format": FORMAT, **content})
        return plain


def load_report(path: Path) -> Report:
    """Read a ``report.json``.

    Raises:
        PruneError: the file is not there, cut off, changed, or not a report.
    """
    content = documents.read(
        path,
        "the report",
        FORMAT,
        _checked,
        "Name the report.json in <save_model_dir>/prune; if this is it, run the pruning again to "
        "write it anew: what was measured is used again.",
    )
    return _read(content)


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _read(content: Mapping[str, Any]) -> Report:
    plain = dict(content)
    latency, target = plain["latency"], plain["target_value"]
    return Report(
        **{
            **plain,
            "target_value": target if isinstance(target, dict) else float(target),
            "flops": _change(plain["flops"]),
            "params": _change(plain["params"]),
            "layers": tuple(_layer(item) for item in plain["layers"]),
            "spread": _pair(plain["spread"]),
            "beside": {name: tuple(pair) for name, pair in plain.get("beside", {}).items()},
            "latency": None if latency is None else Latency(**latency),
            "frozen": tuple(FrozenChannels(**item) for item in plain["frozen"]),
            "feasibility": tuple((share, loss) for share, loss in plain["feasibility"]),
            "alphabet": _alphabet(plain.get("alphabet")),
        }
    )


def _alphabet(item: Mapping[str, Any] | None) -> Characters | None:
    if item is None:
        return None
    counts = tuple((character, count) for character, count in item["counts"])
    return Characters(**{**item, "counts": counts})


def _layer(item: Mapping[str, Any]) -> Layer:
    points = tuple(Point(**{**p, "interval": _pair(p["interval"])}) for p in item["points"])
    return Layer(**{**item, "points": points, "skipped": tuple(item["skipped"])})


def _change(item: Mapping[str, Any]) -> Change:
    return Change(item["before"], item["after"])


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


_SHARE = number(0, 1)
_CHANGE = record({"before": whole(0), "after": whole(0), "pruned": number()})
_SPREAD = maybe(row(number(), number()))
_POINT = record(
    {
        "ratio": _SHARE,
        "loss": number(),
        "metric": maybe(number()),
        "images": maybe(whole(1)),
        "interval": _SPREAD,
    }
)
_LAYER = record(
    {
        "name": text,
        "channels": whole(1),
        "kept": whole(1),
        "predicted_loss": maybe(number()),
        "points": listed(_POINT),
        "skipped": listed(_SHARE),
    }
)
_SCHEMA = record(
    {
        "criterion": text,
        "target": text,
        "target_value": either(mapping(number()), number()),
        "flops": _CHANGE,
        "params": _CHANGE,
        "layers": listed(_LAYER),
        "metric": maybe(text),
        "before": maybe(number()),
        "after": maybe(number()),
        "images": maybe(whole(1)),
        "spread": _SPREAD,
        "latency": maybe(
            record({"before": number(0), "predicted": number(0), "after": number(0), "how": text})
        ),
        "frozen": listed(record({"name": text, "channels": whole(0), "reason": text})),
        "unknown": mapping(whole(0)),
        "feasibility": listed(row(number(), maybe(number()))),
        "feasibility_of": text,
        "round_to": whole(1),
        "dry_run": boolean,
        "source": text,
        "command": text,
        "created": text,
        "files": mapping(text),
        "versions": mapping(text),
    },
    {
        "loss_of": text,
        "beside": mapping(row(maybe(number()), maybe(number()))),
        "alphabet": maybe(
            record(
                {
                    "kept": whole(1),
                    "whole": whole(1),
                    "scripts": mapping(whole(1)),
                    "counts": listed(row(text, maybe(whole(0)))),
                },
                {"before": maybe(number()), "after": maybe(number())},
            )
        ),
    },
)


def _checked(content: Any, place: str) -> None:
    """The schema, and that no layer keeps more than it has."""
    _SCHEMA(content, place)
    for index, layer in enumerate(content["layers"]):
        if layer["kept"] > layer["channels"]:
            raise Misfit(f"layers[{index}].kept", f"{layer['channels']} or less", layer["kept"])
