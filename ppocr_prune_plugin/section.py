"""The ``Prune`` section of a PaddleOCR config: its fields, their defaults, and what is refused.

Only plain data goes in (what YAML gives) and only :class:`PruneSection` comes out, so the rest of
the program never meets a wrong type or a forgotten key.
"""

from __future__ import annotations

import functools
import importlib.metadata
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, TypeAlias

from .engines import known
from .errors import PruneError, did_you_mean, quoted
from .files import is_possible

CRITERIA = ("l1", "l2", "fpgm", "bn_scale", "taylor", "obs", "random")
CRITERIA_ENTRY_POINTS = "ppocr_prune_plugin.criteria"
MEASURES = ("metric", "output")
AUTO = "auto"
TARGETS = ("ratio", "max_loss", "pruned_flops", "pruned_params", "pruned_latency")

Target: TypeAlias = float | dict[str, float]

_LARGEST = 10**9  # of whole numbers: beyond it nothing that they count can be

# package.module:Class, or a pruner of PaddleSlim's.
_OUTSIDE_CRITERION = re.compile(r"[^\W\d]\w*(\.\w+)*:[^\W\d]\w*(\.\w+)*|paddleslim\.[^\W\d]\w*")


@dataclass(frozen=True)
class SensitivityOptions:
    """How the sensitivity of the layers is measured.

    ``by`` is what a loss is: ``metric``, the share of the main metric that is lost, or ``output``,
    how far the outputs move from the unpruned network's on training images, without labels.
    ``file`` is the sensitivity file (None: ``<save_model_dir>/prune/sen.pickle``), ``ratios`` the
    pruning ratios tried per group, rising; ``samples`` the number of images (None: all of the
    evaluation set, few of the training images), ``stop_loss`` the loss beyond which a group is not
    cut deeper (None: chosen by the target) and ``cache_mb`` the memory for decoded evaluation
    batches, in MiB (0: no cache). With ``exact`` every point is measured on all of those images,
    not on as few as its loss allows.
    """

    file: str | None = None
    ratios: tuple[float, ...] = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    samples: int | None = None
    stop_loss: float | None = None
    cache_mb: int = 2048
    exact: bool = False
    by: str = "metric"


@dataclass(frozen=True)
class LatencyOptions:
    """How latency is measured: with an engine on this machine's CPU.

    ``engine`` names it (None: the first that is installed of openvino, onnxruntime and paddle),
    ``threads`` are threads of the CPU, ``onednn`` whether Paddle Inference uses oneDNN; ``batch``
    is the number of images per run and ``shape`` their ``(channels, height, width)`` (None: the
    size that FLOPs are counted at).
    """

    threads: int = 1
    onednn: bool = True
    batch: int = 1
    shape: tuple[int, int, int] | None = None
    engine: str | None = None


@dataclass(frozen=True)
class DistillOptions:
    """How the unpruned network teaches the pruned one while that is fine-tuned: ``weight`` is that
    of the lesson beside the loss of the config, with ``features`` what the parts of the network
    hand to each other is compared as well."""

    weight: float = 1.0
    features: bool = True


@dataclass(frozen=True)
class RecoveryOptions:
    """What is given back after a cut, and how the network is fine-tuned.

    ``compensate`` gives the layers that read removed channels new weights, by what the network
    computes on ``images`` training images, without training. ``distill`` (None: false) lets the
    unpruned network teach; ``unlabelled`` are folders of images for that alone. With ``freeze_bn``
    batch norms keep their statistics while training (None: auto).
    """

    compensate: bool = True
    images: int = 32
    distill: DistillOptions | None = None
    unlabelled: tuple[str, ...] = ()
    freeze_bn: bool | None = None


@dataclass(frozen=True)
class ScheduleOptions:
    """Pruning in ``steps`` cuts, with ``epochs`` of training after each but the last, which is
    followed by all that are left."""

    steps: int
    epochs: int


@dataclass(frozen=True)
class PruneSection:
    """A valid ``Prune`` section. All ratios and losses are fractions, not percentages.

    Of ``ratio``, ``max_loss``, ``pruned_flops``, ``pruned_params`` and ``pruned_latency`` exactly
    one is not None where ``enable`` is true, or none where ``characters`` is given: the file of
    those that a recogniser keeps, or ``auto``, those that occur in the labels, at least
    ``characters_min_count`` times. ``models`` names the sub-models of a distillation
    model to prune (None: every one that is trained). ``bn_batches`` is the number of training
    batches on which batch-norm statistics are re-estimated after a cut (0: they stay as they are).
    """

    enable: bool = True
    criterion: str = "obs"
    ratio: Target | None = None
    max_loss: float | None = None
    pruned_flops: float | None = None
    pruned_params: float | None = None
    pruned_latency: float | None = None
    characters: str | None = None
    characters_min_count: int = 1
    models: tuple[str, ...] | None = None
    skip: tuple[str, ...] = ()
    round_to: int = 8
    bn_batches: int = 2
    sensitivity: SensitivityOptions = field(default_factory=SensitivityOptions)
    latency: LatencyOptions = field(default_factory=LatencyOptions)
    recovery: RecoveryOptions = field(default_factory=RecoveryOptions)
    schedule: ScheduleOptions | None = None
    dry_run: bool = False
    allow_untrained: bool = False

    @property
    def targets(self) -> list[str]:
        """The keys that say how much to prune, beside characters."""
        return [name for name in TARGETS if getattr(self, name) is not None]

    @property
    def has_target(self) -> bool:
        """Whether one does."""
        return bool(self.targets)

    def without_target(self) -> PruneSection:
        """The same where no channel is to be pruned."""
        return replace(self, **dict.fromkeys(TARGETS))  # type: ignore[arg-type]

    @property
    def target(self) -> tuple[str, Target]:
        """Which of the targets says how much to prune, and its value.

        Raises :class:`PruneError` where none does (possible only in a disabled section).
        """
        for name in self.targets:
            return name, getattr(self, name)
        raise PruneError(f"Prune does not say how much to prune: set one of {', '.join(TARGETS)}.")


@functools.cache
def registered_criteria() -> dict[str, str]:
    """Criteria of other installed packages: entry point name → ``package.module:name``."""
    found = importlib.metadata.entry_points(group=CRITERIA_ENTRY_POINTS)
    return {point.name: point.value for point in found}


def parse_section(raw: object, source: str, prunes: bool = True) -> PruneSection:
    """Check a section as YAML gives it and fill in the defaults; null means a key's default.

    Args:
        raw: the value of the config's ``Prune`` key.
        source: where it was written, for messages.
        prunes: a model is to be pruned by it, so that it has to say how much, in one way. Tools
            that evaluate, run or export a model need no target.

    Raises:
        PruneError: the section is not valid.
    """
    check = _Checker(source)
    values = check.mapping(raw, "Prune", _names(PruneSection))
    section: dict[str, Any] = {}
    for key, value in values.items():
        if value is not None and key not in _SUBSECTIONS:
            section[key] = _SECTION_CHECKS[key](check, f"Prune.{key}", value)
    for name, (kind, checks) in _SUBSECTIONS.items():
        inner = check.mapping(values.get(name), f"Prune.{name}", _names(kind))
        section[name] = kind(
            **{
                key: checks[key](check, f"Prune.{name}.{key}", value)
                for key, value in inner.items()
                if value is not None
            }
        )
    parsed = PruneSection(**section)
    if parsed.recovery.unlabelled and parsed.recovery.distill is None:
        raise check.fail(
            "Prune.recovery.unlabelled",
            "needs the teacher: without labels there is no other loss. Set Prune.recovery.distill: "
            "true, or leave the key away.",
        )
    if parsed.schedule is not None and parsed.max_loss is not None:
        raise check.fail(
            "Prune.schedule",
            "needs a target that counts what is removed, and max_loss is what a single cut may "
            "cost. Keep one of ratio, pruned_flops, pruned_params and pruned_latency.",
        )
    if parsed.schedule is not None and parsed.characters is not None and not parsed.has_target:
        raise check.fail(
            "Prune.schedule",
            f"prunes channels in steps, and characters go at once. Add one of {', '.join(TARGETS)}"
            " or leave the key away.",
        )
    if values.get("characters_min_count") is not None and parsed.characters != AUTO:
        raise check.fail(
            "Prune.characters_min_count",
            f"counts characters in labels, which only `characters: {AUTO}` looks at. Leave the key "
            "away, or set that.",
        )
    if parsed.enable and prunes:
        check.one_target(parsed.targets, needed=parsed.characters is None)
    return parsed


def _names(cls: type) -> list[str]:
    return [item.name for item in fields(cls)]


class _Checker:
    """One method per kind of value; each returns the value or raises :class:`PruneError`."""

    def __init__(self, source: str) -> None:
        self._source = source

    def fail(self, key: str, problem: str) -> PruneError:
        return PruneError(f"{self._source}: {key} {problem}")

    def mapping(self, value: object, key: str, allowed: list[str]) -> dict[str, Any]:
        """A mapping with known keys only; null counts as empty."""
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise self.fail(
                key,
                f"must be a section of keys and values, found {_show(value)}."
                f" Its keys are {', '.join(allowed)}.",
            )
        for name in value:
            if name not in allowed:
                hint = did_you_mean(name, allowed)
                raise self.fail(
                    key,
                    f'has an unknown key "{_short(name)}"{hint}. Known keys: {", ".join(allowed)}.',
                )
        return dict(value)

    def one_target(self, found: list[str], needed: bool) -> None:
        if len(found) == 1 or not (found or needed):
            return
        choice = f"exactly one of {', '.join(TARGETS)}"
        if found:
            raise self.fail(
                "Prune",
                f"says in {len(found)} ways how much to prune ({', '.join(found)}). Keep {choice}.",
            )
        raise self.fail(
            "Prune",
            f"does not say how much to prune. Set {choice}, for example"
            " `pruned_flops: 0.5`, or `enable: false` to leave the model as it is; a recogniser "
            "may lose `characters` alone.",
        )

    def boolean(self, key: str, value: object) -> bool:
        if isinstance(value, bool):
            return value
        raise self.fail(key, f"must be true or false, found {_show(value)}.")

    def number(self, key: str, value: object, allowed: str) -> float:
        # bool is an int in Python: `ratio: yes` must not become 1.
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise self.fail(key, f"must be {allowed}, found {_show(value)}.{_unquote(value)}")
        try:
            number = float(value)
        except OverflowError:  # a whole number beyond what any fraction can be
            number = math.inf
        if not math.isfinite(number):
            raise self.fail(key, f"must be {allowed}, found {quoted(value)}.")
        return number

    def fraction(self, key: str, value: object, closed: bool = True) -> float:
        """A share in [0, 1), or in (0, 1) where not ``closed``."""
        allowed = f"a number {'from 0 up to but not' if closed else 'between 0 and 1, not'} "
        allowed += "including 1" if closed else "including them"
        number = self.number(key, value, allowed)
        if not (0 <= number < 1) or (number == 0 and not closed):
            percent = number / 100
            hint = f" For {number:g} percent write {percent:g}." if 1 < number < 100 else ""
            raise self.fail(key, f"must be {allowed}, found {quoted(value)}.{hint}")
        return number

    def amount(self, key: str, value: object) -> float:
        """A share of the model to remove: to remove nothing is not a target."""
        return self.fraction(key, value, closed=False)

    def ratio(self, key: str, value: object) -> Target:
        if not isinstance(value, Mapping):
            return self.fraction(key, value)
        if not value:
            raise self.fail(key, "is an empty mapping. Write a number, or {layer-pattern: number}.")
        ratios: dict[str, float] = {}
        for pattern, number in value.items():
            if not isinstance(pattern, str) or not pattern:
                raise self.fail(
                    key, f'has the layer pattern {_show(pattern)}; patterns are text ("head.*").'
                )
            ratios[pattern] = self.fraction(f'{key}["{_short(pattern)}"]', number)
        return ratios

    def integer(self, key: str, value: object, least: int) -> int:
        allowed = f"a whole number of {least} or more"
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fail(key, f"must be {allowed}, found {_show(value)}.{_unquote(value)}")
        if value < least:
            raise self.fail(key, f"must be {allowed}, found {quoted(value)}.")
        if value > _LARGEST:
            raise self.fail(key, f"must be {_LARGEST} or less, found {quoted(value)}.")
        return value

    def positive(self, key: str, value: object) -> int:
        return self.integer(key, value, 1)

    def two_or_more(self, key: str, value: object) -> int:
        return self.integer(key, value, 2)

    def not_negative(self, key: str, value: object) -> int:
        return self.integer(key, value, 0)

    def image(self, key: str, value: object) -> tuple[int, int, int]:
        """Channels, height and width."""
        allowed = "a list of channels, height and width, such as [3, 640, 640]"
        items = self._list(key, value, allowed)
        if len(items) != 3:
            raise self.fail(key, f"must be {allowed}, found {_show(value)}.")
        channels, height, width = (
            self.positive(f"{key}[{i}]", item) for i, item in enumerate(items)
        )
        return channels, height, width

    def criterion(self, key: str, value: object) -> str:
        """A name as such; whether there is anything behind it shows when it is resolved."""
        if isinstance(value, str):
            if value in CRITERIA or _OUTSIDE_CRITERION.fullmatch(value):
                return value
            if value in registered_criteria():
                return value
        known = [*CRITERIA, *registered_criteria()]
        raise self.fail(
            key,
            f"must be one of {', '.join(known)}, package.module:Class or paddleslim.Class,"
            f" found {_show(value)}{did_you_mean(value, known)}.",
        )

    def engine(self, key: str, value: object) -> str:
        """A name as such; whether it is installed shows when it is used."""
        if isinstance(value, str) and value in known():
            return value
        hint = did_you_mean(value, known()) if isinstance(value, str) else ""
        raise self.fail(key, f"must be one of {', '.join(known())}, found {_show(value)}{hint}.")

    def measure(self, key: str, value: object) -> str:
        if isinstance(value, str) and value in MEASURES:
            return value
        hint = did_you_mean(value, MEASURES)
        raise self.fail(key, f"must be {' or '.join(MEASURES)}, found {_show(value)}{hint}.")

    def path(self, key: str, value: object) -> str:
        if isinstance(value, str) and value.strip() and is_possible(value):
            return value
        raise self.fail(key, f"must be the path of a file, found {_show(value)}.")

    def auto_or_boolean(self, key: str, value: object) -> bool | None:
        """None: auto."""
        if isinstance(value, bool):
            return value
        if value == "auto":
            return None
        raise self.fail(key, f"must be auto, true or false, found {_show(value)}.")

    def distill(self, key: str, value: object) -> DistillOptions | None:
        if isinstance(value, bool):
            return DistillOptions() if value else None
        if not isinstance(value, Mapping):
            raise self.fail(
                key,
                "must be true, false, or a section such as {weight: 1.0, features: true}, found "
                f"{_show(value)}.",
            )
        inner = self.mapping(value, key, _names(DistillOptions))
        checks = {"weight": self.weight, "features": self.boolean}
        found: dict[str, Any] = {
            name: checks[name](f"{key}.{name}", item)
            for name, item in inner.items()
            if item is not None
        }
        return DistillOptions(**found)

    def schedule(self, key: str, value: object) -> ScheduleOptions | None:
        if value is False:
            return None
        example = "a section such as {steps: 3, epochs: 2}"
        if not isinstance(value, Mapping):
            raise self.fail(key, f"must be {example}, found {_show(value)}.")
        inner = self.mapping(value, key, _names(ScheduleOptions))
        for name in _names(ScheduleOptions):
            if inner.get(name) is None:
                raise self.fail(key, f"must be {example}, and has no {name}.")
        return ScheduleOptions(
            self.two_or_more(f"{key}.steps", inner["steps"]),
            self.positive(f"{key}.epochs", inner["epochs"]),
        )

    def weight(self, key: str, value: object) -> float:
        """Of a loss."""
        number = self.number(key, value, "a number above 0")
        if not 0 < number <= _LARGEST:
            raise self.fail(key, f"must be a number above 0, found {quoted(value)}.")
        return number

    def folders(self, key: str, value: object) -> tuple[str, ...]:
        items = self._list(key, value, "a list of folders such as [./scans]")
        for item in items:
            if not isinstance(item, str) or not item.strip() or not is_possible(item):
                raise self.fail(key, f"has {_show(item)}, which is no path of a folder.")
        return tuple(items)

    def patterns(self, key: str, value: object) -> tuple[str, ...]:
        items = self._list(key, value, 'a list of layer-name patterns such as ["head.*"]')
        for item in items:
            if not isinstance(item, str) or not item:
                raise self.fail(
                    key, f'has the layer pattern {_show(item)}; patterns are text ("head.*").'
                )
        return tuple(items)

    def models(self, key: str, value: object) -> tuple[str, ...]:
        """Names as such; whether the architecture has them is seen where it is known."""
        items = self._list(key, value, "a list of sub-models such as [Student, Student2]")
        if not items:
            raise self.fail(
                key,
                "is empty, so that nothing would be pruned. Name the sub-models, such as [Student],"
                " omit the key for every one that is trained, or set Prune.enable: false.",
            )
        for item in items:
            if not isinstance(item, str) or not item:
                raise self.fail(key, f"has {_show(item)}; names are text, such as Student.")
        if len(set(items)) < len(items):
            raise self.fail(key, f"names a sub-model twice: {quoted(items)}.")
        return tuple(items)

    def rising_ratios(self, key: str, value: object) -> tuple[float, ...]:
        items = self._list(key, value, "a list of ratios such as [0.1, 0.3, 0.5]")
        if not items:
            raise self.fail(key, "is empty. Write the ratios to try, such as [0.1, 0.3, 0.5].")
        ratios = [self.fraction(f"{key}[{i}]", item, closed=False) for i, item in enumerate(items)]
        mended = sorted(set(ratios))
        if ratios != mended:
            raise self.fail(
                key,
                f"must rise and hold no ratio twice, found {quoted(value)}."
                f" Write {quoted(mended)}.",
            )
        return tuple(ratios)

    def _list(self, key: str, value: object, allowed: str) -> list[Any]:
        if isinstance(value, str) or not isinstance(value, list | tuple):
            raise self.fail(key, f"must be {allowed}, found {_show(value)}.")
        return list(value)


def _show(value: object) -> str:
    """A value as a reader of YAML would recognise it, with its type where that is the problem."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return f'the text "{_short(value)}"'
    if isinstance(value, Mapping):
        return f"a mapping with the keys {_join(value)}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"the list {quoted(list(value))}"
    return quoted(value)


def _short(value: object) -> str:
    """Text as it is, or another value as YAML writes it, where that is not too long."""
    text = value if isinstance(value, str) else "null" if value is None else quoted(value)
    return text if len(text) <= 200 else text[:200] + "…"


def _join(values: Iterable[object]) -> str:
    shown = [_short(value) for value in itertools.islice(values, 9)]
    return ", ".join(shown[:8]) + (", …" if len(shown) > 8 else "")


def _unquote(value: object) -> str:
    """Advice for a number that YAML read as text: quoted, or ``1e-2`` (YAML wants 1.0e-2)."""
    if not isinstance(value, str):
        return ""
    try:
        number = float(value)
    except ValueError:
        return ""
    return f" Write {number:g} without quotes."


_SECTION_CHECKS = {
    "enable": _Checker.boolean,
    "criterion": _Checker.criterion,
    "ratio": _Checker.ratio,
    "max_loss": _Checker.fraction,
    "pruned_flops": _Checker.amount,
    "pruned_params": _Checker.amount,
    "pruned_latency": _Checker.amount,
    "characters": _Checker.path,
    "characters_min_count": _Checker.positive,
    "models": _Checker.models,
    "skip": _Checker.patterns,
    "round_to": _Checker.positive,
    "bn_batches": _Checker.not_negative,
    "schedule": _Checker.schedule,
    "dry_run": _Checker.boolean,
    "allow_untrained": _Checker.boolean,
}
_SENSITIVITY_CHECKS = {
    "file": _Checker.path,
    "ratios": _Checker.rising_ratios,
    "samples": _Checker.positive,
    "stop_loss": _Checker.amount,
    "cache_mb": _Checker.not_negative,
    "exact": _Checker.boolean,
    "by": _Checker.measure,
}
_LATENCY_CHECKS = {
    "engine": _Checker.engine,
    "threads": _Checker.positive,
    "onednn": _Checker.boolean,
    "batch": _Checker.positive,
    "shape": _Checker.image,
}
_RECOVERY_CHECKS = {
    "compensate": _Checker.boolean,
    "images": _Checker.two_or_more,
    "distill": _Checker.distill,
    "unlabelled": _Checker.folders,
    "freeze_bn": _Checker.auto_or_boolean,
}
_SUBSECTIONS: dict[str, tuple[type, Mapping[str, Callable[[_Checker, str, object], Any]]]] = {
    "sensitivity": (SensitivityOptions, _SENSITIVITY_CHECKS),
    "latency": (LatencyOptions, _LATENCY_CHECKS),
    "recovery": (RecoveryOptions, _RECOVERY_CHECKS),
}
