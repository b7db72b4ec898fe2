"""The sensitivity file: every measured point, on disk before the next one is measured.

Two files side by side. ``sen.pickle`` is PaddleSlim's documented dictionary
``{weight_name: {ratio: loss}}``; ``sensitivity.json`` says what it belongs to.
"""

from __future__ import annotations

import io
import json
import pickle
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import PruneError
from ..files import write_atomically
from ..graph.groups import ChannelGroup
from ..ratios.budget import Curve

FORMAT = "ppocr-prune-sensitivity/1"


@dataclass
class Point:
    """Loss of a group at one ratio; the metric behind it, how many images it was taken on, and
    the interval of confidence of the loss on the whole set where those were not all."""

    loss: float
    metric: float | None = None
    images: int | None = None
    interval: tuple[float, float] | None = None

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
    """Points of all groups, tied to one model, weights, data, criterion and metric."""

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
        return json_path(self.path)

    def curve(self, group: str) -> Curve:
        """The measured curve of a group."""
        items = sorted(self.points.get(group, {}).items())
        return Curve(tuple(r for r, _ in items), tuple(p.loss for _, p in items))

    def merge(self, other: SensitivityFile) -> None:
        """Take over what another file has and this one has not."""
        if self.baseline is None:
            self.baseline, self.spread = other.baseline, other.spread
        for name, points in other.points.items():
            mine = self.points.setdefault(name, {})
            for ratio, point in points.items():
                if ratio not in mine or (point.images or 0) > (mine[ratio].images or 0):
                    mine[ratio] = point
            skipped = {*self.skipped.get(name, []), *other.skipped.get(name, [])}
            self.skipped[name] = sorted(skipped - set(mine))

    def reopened(self, path: Path) -> SensitivityFile:
        """Another file that belongs to the same, as it is on disk; empty where there is none."""
        other = replace(self, path=path, points={}, skipped={})
        if other.json_path.exists():
            _read_json(other)
        return other

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
                    "points": {
                        repr(ratio): {k: v for k, v in asdict(p).items() if v is not None}
                        for ratio, p in sorted(points.items())
                    },
                    "skipped": self.skipped.get(name, []),
                }
                for name, points in self.points.items()
            },
        }
        plain = {
            self.weight_names[name]: {ratio: point.loss for ratio, point in sorted(points.items())}
            for name, points in self.points.items()
        }
        write_atomically(self.json_path, json.dumps(content, indent=1))
        write_atomically(self.path, pickle.dumps(plain, protocol=2))


def json_path(path: Path) -> Path:
    """``sen.pickle`` → ``sensitivity.json``; ``other.pickle`` → ``other.json``."""
    return path.with_name("sensitivity.json" if path.name == "sen.pickle" else path.stem + ".json")


def open_sensitivity(
    path: Path,
    fingerprint: Mapping[str, str],
    groups: Sequence[ChannelGroup],
    paddle_names: Mapping[str, str],
) -> SensitivityFile:
    """Take up a sensitivity file, or start one.

    Args:
        path: the ``.pickle`` file; the JSON lies beside it.
        fingerprint: what the points must belong to, item by item.
        groups: the groups of this model.
        paddle_names: structured parameter name → Paddle's own.

    Raises:
        PruneError: the file is damaged, or belongs to something else; it is left as it is.
    """
    names = {group.name: paddle_names[group.root.parameter] for group in groups}
    file = SensitivityFile(path, fingerprint, names)
    if file.json_path.exists():
        _read_json(file)
    elif path.exists():
        _read_pickle(file, groups, paddle_names)
    return file


def load_sensitivity(path: Path) -> SensitivityFile:
    """Read a finished file as it is, whatever it belongs to.

    Args:
        path: the ``.pickle`` or the ``.json`` of a pair.

    Raises:
        PruneError: there is no such pair, or its JSON is damaged.
    """
    if path.suffix == ".json":
        stem = "sen" if path.name == "sensitivity.json" else path.stem
        path = path.with_name(stem + ".pickle")
    source = json_path(path)
    if not source.exists():
        raise PruneError(f"{source}: there is no such sensitivity file.")
    file = SensitivityFile(path, {}, {})
    content = _parsed(file)
    file.fingerprint = dict(content["fingerprint"])
    file.weight_names = {name: str(g["weight"]) for name, g in content["groups"].items()}
    _take(file, content)
    return file


def _read_json(file: SensitivityFile) -> None:
    content = _parsed(file)
    for item, expected in file.fingerprint.items():
        found = content["fingerprint"].get(item)
        if found != expected:
            raise PruneError(
                f"{file.json_path}: this sensitivity file belongs to another {item}: it says "
                f"{found!r}, this run has {expected!r}. {_mend(file)}"
            )
    _take(file, content)


def _parsed(file: SensitivityFile) -> dict[str, Any]:
    """The JSON half, with its outline checked."""
    source = file.json_path
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        known = content["format"]
        if known == FORMAT:
            dict(content["fingerprint"]), dict(content["groups"]), content["baseline"]
            return dict(content)
    except (ValueError, KeyError, TypeError, OSError) as error:
        raise PruneError(
            f"{source}: damaged ({type(error).__name__}: {error}). {_mend(file)}"
        ) from error
    raise PruneError(
        f"{source}: format is {known!r}, but this version reads {FORMAT!r}. {_mend(file)}"
    )


def _take(file: SensitivityFile, content: Mapping[str, Any]) -> None:
    try:
        file.baseline = content["baseline"]
        file.spread = _pair(content.get("spread"))
        for name, group in content["groups"].items():
            file.points[name] = {
                float(ratio): Point(
                    float(p["loss"]), p.get("metric"), p.get("images"), _pair(p.get("interval"))
                )
                for ratio, p in group["points"].items()
            }
            file.skipped[name] = [float(ratio) for ratio in group["skipped"]]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise PruneError(
            f"{file.json_path}: damaged ({type(error).__name__}: {error}). {_mend(file)}"
        ) from error


def _pair(value: Any) -> tuple[float, float] | None:
    return None if value is None else (float(value[0]), float(value[1]))


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
    for weight, points in content.items():
        if weight in owners:
            own = file.points.setdefault(owners[weight], {})
            own.update({ratio: Point(loss) for ratio, loss in points.items()})
    original = file.path.with_name(file.path.name + ".original")
    if not original.exists():
        shutil.copy2(file.path, original)


def load_pickle(path: Path) -> dict[str, dict[float, float]]:
    """Read ``{weight_name: {ratio: loss}}``, as such or in the ``Status`` object that PaddleSlim's
    ``FilterPruner.sensitive`` saves, without running code from the file.

    Raises:
        PruneError: the file is damaged or holds anything else.
    """
    try:
        content = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
        if isinstance(content, _Status):
            content = content.sensitivies
        return {
            str(name): {float(ratio): float(loss) for ratio, loss in points.items()}
            for name, points in content.items()
        }
    except Exception as error:
        raise PruneError(
            f"{path}: not a sensitivity file ({type(error).__name__}: {error}). It should hold "
            "{weight_name: {ratio: loss}}, or PaddleSlim's Status. Name another with "
            "Prune.sensitivity.file."
        ) from error


class _Status:
    """Stands in for PaddleSlim's class; unpickling gives it the fields, no code of theirs runs."""

    sensitivies: Mapping[str, Mapping[float, float]]  # spelled as they spell it


class _PlainUnpickler(pickle.Unpickler):
    _ALLOWED = {
        ("numpy", "dtype"),
        ("numpy.core.multiarray", "scalar"),
        ("numpy._core.multiarray", "scalar"),
        ("_codecs", "encode"),
        ("collections", "OrderedDict"),
    }

    def find_class(self, module: str, name: str) -> Any:
        if module.split(".")[0] == "paddleslim" and name == "Status":
            return _Status
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"{module}.{name} does not belong in it")
        return super().find_class(module, name)


def _mend(file: SensitivityFile) -> str:
    return (
        "Nothing was changed. Name another file with Prune.sensitivity.file, or move "
        f"{file.path.name} and {file.json_path.name} away to measure anew."
    )
