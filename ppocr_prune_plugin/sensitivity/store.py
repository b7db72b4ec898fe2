"""The sensitivity file: every measured point, on disk before the next one is measured.

Two files side by side. ``sensitivity.json`` says what was measured, of what; ``sen.pickle`` is the
same as PaddleSlim's documented dictionary ``{weight_name: {ratio: loss}}``, for others.
"""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from .. import documents
from ..documents import Misfit, listed, mapping, maybe, number, record, row, text, whole
from ..errors import PruneError
from ..files import read_file, write_atomically
from ..graph.groups import ChannelGroup
from ..ratios.budget import Curve
from ..unpickling import Object, read_pickle
from .identity import differences

FORMAT = "ppocr-prune-sensitivity/2"
_WHAT = "the sensitivity file"
_STATUS = frozenset({"paddleslim.dygraph.prune.filter_pruner.Status"})
# How far a loss may be from the metrics beside it: files of several machines, which do not round
# alike, may have been merged.
_NEAR = 0.02


@dataclass
class Point:
    """Loss of a group at one ratio; the metric behind it, how many images it was taken on, and
    the interval of confidence of the loss on the whole set where those were not all."""

    loss: float
    metric: float | None = None
    images: int | None = None
    interval: tuple[float, float] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The form it has in JSON; a metric that is no finite number is left out."""
        known = {key: value for key, value in asdict(self).items() if value is not None}
        if self.metric is not None and not math.isfinite(self.metric):
            del known["metric"]
        return known

    @property
    def foreign(self) -> bool:
        """Whether it is from a file that says no more than the loss, as PaddleSlim's do."""
        return self.images is None and self.metric is None

    @property
    def low(self) -> float:
        """The least that the loss on the whole set may be."""
        return self.interval[0] if self.interval else self.loss

    @property
    def high(self) -> float:
        """The most that the loss on the whole set may be."""
        return self.interval[1] if self.interval else self.loss


@dataclass
class SensitivityFile:
    """Points of all groups, tied to one model, weights, data, criterion, metric and settings.

    ``path`` is where the pickle is; ``weight_names`` are Paddle's own, of the groups of this run
    and of those that a file from another run has beside them.
    """

    path: Path
    fingerprint: Mapping[str, str]
    weight_names: Mapping[str, str]
    baseline: float | None = None
    spread: tuple[float, float] | None = None
    points: dict[str, dict[float, Point]] = field(default_factory=dict)
    skipped: dict[str, list[float]] = field(default_factory=dict)

    @property
    def json_path(self) -> Path:
        """Where the structured half is."""
        return pair_of(self.path)[1]

    def curve(self, group: str) -> Curve:
        """The measured curve of a group."""
        items = sorted(self.points.get(group, {}).items())
        return Curve(tuple(r for r, _ in items), tuple(p.loss for _, p in items))

    def merge(self, other: SensitivityFile) -> None:
        """Take over what another file has and this one has not."""
        if self.baseline is None:
            self.baseline, self.spread = other.baseline, other.spread
        self.weight_names = {**other.weight_names, **self.weight_names}
        for name, points in other.points.items():
            mine = self.points.setdefault(name, {})
            for ratio, point in points.items():
                if ratio not in mine or (point.images or 0) > (mine[ratio].images or 0):
                    mine[ratio] = point
            skipped = {*self.skipped.get(name, []), *other.skipped.get(name, [])}
            self.skipped[name] = sorted(skipped - set(mine))

    def reopened(self, path: Path) -> SensitivityFile:
        """Another file that belongs to the same, as it is on disk; empty where there is none."""
        other = replace(self, path=path, points={}, skipped={}, baseline=None, spread=None)
        if other.json_path.exists():
            _read_json(other)
        return other

    def of_rank(self, folder: Path, rank: int | str) -> Path:
        """Where a process of several keeps its points of what this file belongs to. Points of
        anything else have another name, and are never overwritten."""
        what = json.dumps(self.fingerprint, sort_keys=True)
        return folder / f"rank{rank}-{hashlib.sha256(what.encode()).hexdigest()[:12]}.pickle"

    def merge_ranks(self, folder: Path) -> None:
        """Take over what processes of earlier runs have measured and nobody collected.

        Raises:
            PruneError: such a file is damaged; it is left as it is.
        """
        pattern = pair_of(self.of_rank(folder, "*"))[1].name
        for found in sorted(folder.glob(pattern)):
            self.merge(self.reopened(pair_of(found)[0]))

    def save(self) -> None:
        """Write both files; each is complete or as it was before."""
        content = {
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "baseline": self.baseline,
            "spread": self.spread,
            "groups": {
                name: {
                    "weight": self.weight_names[name],
                    "points": {repr(ratio): p.as_dict() for ratio, p in sorted(points.items())},
                    "skipped": self.skipped.get(name, []),
                }
                for name, points in self.points.items()
            },
        }
        documents.write(self.json_path, content)
        write_atomically(self.path, pickle.dumps(self.plain, protocol=2))

    @property
    def plain(self) -> dict[str, dict[float, float]]:
        """``{weight_name: {ratio: loss}}``."""
        return {
            self.weight_names[name]: {ratio: point.loss for ratio, point in sorted(points.items())}
            for name, points in self.points.items()
        }


def pair_of(path: Path) -> tuple[Path, Path]:
    """The pickle and the JSON of a pair, by the name of either: ``sen.pickle`` with
    ``sensitivity.json``, ``other.pickle`` with ``other.json``; never twice the same."""
    if path.suffix.lower() == ".json":
        stem = "sen" if path.name == "sensitivity.json" else path.stem
        return path.with_name(stem + ".pickle"), path.with_suffix(".json")
    stem = "sensitivity" if path.name == "sen.pickle" else path.stem
    return path, path.with_name(stem + ".json")


def open_sensitivity(
    path: Path,
    fingerprint: Mapping[str, str],
    groups: Sequence[ChannelGroup],
    paddle_names: Mapping[str, str],
) -> tuple[SensitivityFile, str]:
    """Take up a sensitivity file, or start one.

    Args:
        path: either file of the pair.
        fingerprint: what the points must belong to, item by item.
        groups: the groups of this model, pruned or not.
        paddle_names: structured parameter name → Paddle's own.

    Returns:
        The file, and what has to be said about where its points are from ("" where all is known).

    Raises:
        PruneError: the file is damaged, or belongs to something else; it is left as it is.
    """
    names = {group.name: paddle_names[group.root.parameter] for group in groups}
    file = SensitivityFile(pair_of(path)[0], fingerprint, names)
    remark = ""
    if file.json_path.exists():
        _read_json(file)
        remark = _compare_pickle(file)
    elif file.path.exists():
        _read_pickle(file, groups, paddle_names)
        remark = (
            f"{file.path} is taken as it is: there is no {file.json_path.name} beside it, so that "
            "nothing says which weights, data and settings its losses were measured with. Its "
            "layers have the right names, no more is known. To measure anew, name another file "
            "with Prune.sensitivity.file"
        )
    return file, remark


def load_sensitivity(path: Path) -> SensitivityFile:
    """Read a finished file as it is, whatever it belongs to.

    Args:
        path: the pickle or the JSON of a pair.

    Raises:
        PruneError: there is no such pair, or its JSON is damaged.
    """
    pickled, source = pair_of(path)
    if not source.exists():
        raise PruneError(f"{source}: there is no such sensitivity file.")
    file = SensitivityFile(pickled, {}, {})
    content = _content(file)
    file.fingerprint = content["fingerprint"]
    _take(file, content)
    return file


def _read_json(file: SensitivityFile) -> None:
    content = _content(file)
    different = differences(content["fingerprint"], file.fingerprint)
    if different:
        raise PruneError(
            f"{file.json_path}: this sensitivity file belongs to {different}. {_mend(file)}"
        )
    _take(file, content)


_RATIO = number(0, 1)
_POINT = record(
    {"loss": number()},
    {"metric": number(), "images": whole(1), "interval": row(number(), number())},
)
_PLAIN = mapping(mapping(number(), _RATIO), text)
_SCHEMA = record(
    {
        "fingerprint": mapping(text),
        "baseline": maybe(number()),
        "spread": maybe(row(number(), number())),
        "groups": mapping(
            record({"weight": text, "points": mapping(_POINT), "skipped": listed(_RATIO)})
        ),
    }
)


def _content(file: SensitivityFile) -> dict[str, Any]:
    return documents.read(file.json_path, _WHAT, FORMAT, _checked, _mend(file))


def _checked(content: Any, place: str) -> None:
    """The schema, and that what is said twice is said alike."""
    _SCHEMA(content, place)
    baseline, spread = content["baseline"], content["spread"]
    if spread is not None:
        if baseline is None or not spread[0] - _NEAR <= baseline <= spread[1] + _NEAR:
            raise Misfit("baseline", f"within its spread {spread}", baseline)
    for name, group in content["groups"].items():
        for ratio, point in group["points"].items():
            where = f"groups.{name}.points"
            if not _is_ratio(ratio):
                raise Misfit(where, "named by ratios from 0 to 1", ratio)
            _check_point(point, baseline, f"{where}.{ratio}.loss")


def _is_ratio(name: str) -> bool:
    """Whether a point's name is a ratio, written as we write it."""
    try:
        ratio = float(name)
    except ValueError:
        return False
    return repr(ratio) == name and 0 <= ratio <= 1


def _check_point(point: Mapping[str, Any], baseline: float | None, place: str) -> None:
    loss, metric, interval = point["loss"], point.get("metric"), point.get("interval")
    if interval is not None:
        if not interval[0] <= loss <= interval[1]:
            raise Misfit(place, f"within its interval {interval}", loss)
    elif metric is not None and baseline:
        expected = (baseline - metric) / baseline
        if abs(loss - expected) > _NEAR * max(1.0, abs(expected)):
            raise Misfit(place, f"{expected:.4f}, by the metrics there", loss)


def _take(file: SensitivityFile, content: Mapping[str, Any]) -> None:
    file.baseline = content["baseline"]
    file.spread = _pair(content["spread"])
    stored = {name: group["weight"] for name, group in content["groups"].items()}
    file.weight_names = {**stored, **file.weight_names}
    for name, group in content["groups"].items():
        file.points[name] = {
            float(ratio): Point(
                p["loss"], p.get("metric"), p.get("images"), _pair(p.get("interval"))
            )
            for ratio, p in group["points"].items()
        }
        file.skipped[name] = [float(ratio) for ratio in group["skipped"]]


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


def _compare_pickle(file: SensitivityFile) -> str:
    """Keep a copy of a pickle that is not of these measurements, before it is overwritten."""
    if not file.path.exists():
        return ""
    try:
        foreign = not _within(load_pickle(file.path), file.plain)
    except PruneError:
        foreign = True
    if not foreign:
        return ""
    return (
        f"{file.path} is not what {file.json_path.name} beside it says was measured; the latter is "
        f"used, and what was in {file.path.name} is kept as {_keep(file.path).name}"
    )


def _within(
    found: Mapping[str, Mapping[float, float]], known: Mapping[str, Mapping[float, float]]
) -> bool:
    """Whether all points of one file are in another: a killed process may have left the pickle
    behind the JSON."""
    return all(points.items() <= known.get(name, {}).items() for name, points in found.items())


def _keep(path: Path) -> Path:
    """Copy a file beside it under a name that is free; one that has this content already will do.

    Returns:
        The copy.
    """
    content, number = read_file(path, _WHAT), 0
    while True:
        copy = path.with_name(path.name + (f".original{number}" if number else ".original"))
        if not copy.exists():
            write_atomically(copy, content)
        if read_file(copy, _WHAT) == content:
            return copy
        number += 1


def _read_pickle(
    file: SensitivityFile, groups: Sequence[ChannelGroup], paddle_names: Mapping[str, str]
) -> None:
    """A file from elsewhere: nothing says what it belongs to but its weight names.

    Layers that are not pruned here may be in it. The file as it was is kept beside ours.
    """
    owners = {paddle_names[m.parameter]: group.name for group in groups for m in group.producers}
    content = load_pickle(file.path)
    for weight in content:
        if weight not in paddle_names.values():
            raise PruneError(
                f"{file.path}: this sensitivity file belongs to another model: it has the weight "
                f"{weight!r}, which this one has not. {_mend(file)}"
            )
    roots = set(file.weight_names.values())
    # Layers that are one group here may have been measured one by one: the root's losses count.
    for weight in sorted(content.keys() & owners.keys(), key=lambda w: (w in roots, w)):
        losses = {ratio: Point(loss) for ratio, loss in content[weight].items()}
        file.points[owners[weight]] = losses
    _keep(file.path)


def load_pickle(path: Path) -> dict[str, dict[float, float]]:
    """Read ``{weight_name: {ratio: loss}}``, as such or in the ``Status`` object that PaddleSlim's
    ``FilterPruner.sensitive`` saves, without running code from the file.

    Raises:
        PruneError: the file is damaged or holds anything else, such as ratios that are none.
    """
    try:
        content = read_pickle(path, "a sensitivity file", _STATUS)
        if isinstance(content, Object):
            content = content.fields.get("sensitivies")  # spelled as they spell it
        _PLAIN(content, "")
    except ValueError as error:
        raise PruneError(
            f"{path}: not a sensitivity file ({error}). It should hold {{weight_name: {{ratio: "
            "loss}}, or PaddleSlim's Status. Name another with Prune.sensitivity.file."
        ) from error
    return {
        name: {float(ratio): float(loss) for ratio, loss in points.items()}
        for name, points in content.items()
    }


def _mend(file: SensitivityFile) -> str:
    return (
        "Nothing was changed. Name another file with Prune.sensitivity.file, or move "
        f"{file.path.name} and {file.json_path.name} away to measure anew."
    )
