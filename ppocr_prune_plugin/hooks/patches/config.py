"""The seam at PaddleOCR's configuration: ``-o Prune.…``, ``--prune-plan`` and the early check.

What a stock run sees of this is nothing: a config without a ``Prune`` section, and without
``-o Prune…``, comes out exactly as it went in (train.py writes it to config.yml).
"""

from __future__ import annotations

import functools
import inspect
import os
import sys
from argparse import Namespace
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from ...errors import PruneError, exit_on_error
from ...section import PruneSection, parse_section
from .. import finder
from ..adapters.dictionaries import settle
from ..adapters.sub_models import check_models
from ..points import TABLE, pruned_weights, require_fitting
from ..request import warn_of_near_names

# The value of export_model.py's --prune-plan: an existing .json file, or None.
prune_plan_file: str | None = None
# Its --fold (True) or --no-fold (False); None where neither is given.
fold: bool | None = None


@dataclass
class _State:
    """What is known of this process's configuration so far."""

    watching: bool = False  # merge_config is wrapped
    training: bool = False  # the tool has said that it is going to train
    involved: bool | None = None  # None until merge_config was called
    config_path: str | None = None
    config: Mapping[str, Any] | None = None  # as the tool has it, once merged
    preprocessing: bool = False  # the tool is still at it, and writes the config as it stands
    section: PruneSection | None = None  # of that
    options: list[str] = field(default_factory=list)  # keys of -o that are ours


_state = _State()


def patch(module: ModuleType) -> None:
    """Wrap ``load_config``, ``merge_config`` and ``ArgsParser`` of ``tools.program``."""
    tree = Path(module.__file__ or ".").resolve().parent.parent
    wrapped: Any = module
    wrapped.load_config = _wrap_load_config(wrapped.load_config)
    wrapped.merge_config = _wrap_merge_config(wrapped.merge_config, tree)
    _state.watching = True
    if hasattr(module, "preprocess"):
        wrapped.preprocess = _wrap_preprocess(wrapped.preprocess)
    if os.path.basename(sys.argv[0]) == "export_model.py":
        _add_export_options(wrapped.ArgsParser)


def is_watching() -> bool:
    """Whether a failed hook will be noticed here once the config is merged."""
    return _state.watching and _state.involved is None


def involves_pruning() -> bool | None:
    """Whether the merged config has an enabled section or names pruned weights; None before it is
    merged."""
    return _state.involved


def merged_config() -> Mapping[str, Any] | None:
    """The config that the tool works with; None before it is merged."""
    return _state.config


def is_training() -> bool:
    """Whether the tool has said that it is going to train; False as long as it has not."""
    return _state.training


def current_section(
    config: Mapping[str, Any], source: str | None = None, prunes: bool = False
) -> PruneSection | None:
    """The section of a merged config, checked; None where there is none or it is disabled.

    Args:
        config: the merged config.
        source: where the section is written, for messages; by default what the tool loaded.
        prunes: the model is to be pruned by the section, so that it has to say how much.

    Raises:
        PruneError: the section is not valid.
    """
    if config is _state.config and source is None and (_state.training or not prunes):
        return _state.section  # parsed when the config was merged
    return _parse(config, source or section_source(), prunes)


def _parse(config: Any, source: str, prunes: bool) -> PruneSection | None:
    if not isinstance(config, Mapping) or "Prune" not in config:
        return None
    section = parse_section(config["Prune"], source, prunes)
    return section if section.enable else None


def add_option_parents(config: dict[str, Any], options: Mapping[str, Any]) -> None:
    """Make the sections that ``-o Prune.key=value`` writes into, in ``config`` itself.

    PaddleOCR's ``merge_config`` asserts that they are there. Without such options nothing changes.
    """
    ours = [key for key in options if key.split(".")[0] == "Prune"]
    if not ours:
        return
    if "Prune" in options and not isinstance(options["Prune"], dict):
        parse_section(options["Prune"], "-o Prune")  # raises: not a mapping
    if config.get("Prune") is None:
        config["Prune"] = {}
    for key in ours:
        parents = key.split(".")[:-1]
        section: Any = config
        for depth, name in enumerate(parents):
            if section.get(name) is None:
                section[name] = {}
            section = section[name]
            if not isinstance(section, dict):
                written = ".".join(parents[: depth + 1])
                raise PruneError(
                    f"-o {key}: {written} is {section!r} in {_state.config_path or 'the config'},"
                    " which has no keys below it. Set the whole of it, or correct the file."
                )


def _wrap_load_config(original: Any) -> Any:
    @functools.wraps(original)
    def load_config(file_path: Any, *args: Any, **kwargs: Any) -> Any:
        config = original(file_path, *args, **kwargs)
        _state.config_path = os.fspath(file_path)
        _state.options.clear()
        return config

    return load_config


def _wrap_preprocess(original: Any) -> Any:
    signature = inspect.signature(original)

    @functools.wraps(original)
    def preprocess(*args: Any, **kwargs: Any) -> Any:
        call = signature.bind(*args, **kwargs)
        call.apply_defaults()
        _state.training = bool(call.arguments.get("is_train"))
        _state.preprocessing = True
        try:
            result = original(*args, **kwargs)
        finally:
            _state.preprocessing = False
        _settle_dictionary(result[0])
        return result

    return preprocess


def _wrap_merge_config(original: Any, tree: Path) -> Any:
    # preprocess() calls it twice, the second time with the profiler's options.
    @functools.wraps(original)
    @exit_on_error
    def merge_config(config: Any, opts: Any, *args: Any, **kwargs: Any) -> Any:
        if isinstance(config, dict) and isinstance(opts, Mapping):
            add_option_parents(config, opts)
            _state.options += [key for key in opts if key.split(".")[0] == "Prune"]
        merged = original(config, opts, *args, **kwargs)
        _state.section = _parse(merged, section_source(), _state.training)
        _state.config = merged
        _check(merged, _state.section, tree)
        if not _state.preprocessing:
            _settle_dictionary(merged)
        return merged

    return merge_config


@exit_on_error
def _settle_dictionary(config: dict[str, Any]) -> None:
    """Name the dictionary of a recogniser that lost characters, or will."""
    if not _state.involved:
        return
    from ppocr.utils.logging import get_logger

    settle(
        config, _state.section, _state.training, _labelled(), section_source(), prune_plan_file,
        get_logger(),
    )  # fmt: skip


def _labelled() -> tuple[str, ...]:
    """The parts of the config whose labels the tool reads."""
    if _state.training:
        return ("Train", "Eval")
    return ("Eval",) if os.path.basename(sys.argv[0]) == "eval.py" else ()


def _check(config: Any, section: PruneSection | None, tree: Path) -> None:
    """Everything that can be wrong before any work is done."""
    warn_of_near_names(config, _state.config_path or "the config")
    weights = pruned_weights([config.get(key) for key in ("Global", "Architecture")])
    _state.involved = not (section is weights is prune_plan_file is None)
    if section is not None:
        if isinstance(config.get("Architecture"), Mapping):
            check_models(section, config, section_source())
        require_fitting(tree)
    elif _state.involved:
        require_fitting(tree, [point for point in TABLE if point.loading])
    if _state.involved and finder.failures:
        raise PruneError(finder.describe_failures()) from finder.failures[-1][1]


def section_source() -> str:
    """Where the section was written, for messages."""
    options = "-o " + " ".join(dict.fromkeys(_state.options)) if _state.options else ""
    if not _state.config_path:
        return options or "config"
    return f"{_state.config_path} with {options}" if options else _state.config_path


def _add_export_options(parser_class: Any) -> None:
    """Give ``ArgsParser`` the options ``--prune-plan``, ``--fold`` and ``--no-fold``.

    Its methods are replaced, not the class: they name their class in ``super(ArgsParser, self)``.
    """
    original_init, original_parse = parser_class.__init__, parser_class.parse_args

    @functools.wraps(original_init)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:
        original_init(self, *args, **kwargs)
        self.add_argument(
            "--prune-plan",
            metavar="FILE",
            default=None,
            help="export an unpruned checkpoint with this plan applied (a .prune.json file)",
        )
        choice = self.add_mutually_exclusive_group()
        choice.add_argument(
            "--fold",
            action="store_true",
            default=None,
            help="fold batch norms, scales and shifts into the layers around them, exactly; pruned "
            "models are folded without this, too",
        )
        choice.add_argument(
            "--no-fold", dest="fold", action="store_false", help="export a pruned model unfolded"
        )

    @functools.wraps(original_parse)
    @exit_on_error
    def parse_args(self: Any, *args: Any, **kwargs: Any) -> Namespace:
        global prune_plan_file, fold
        parsed: Namespace = original_parse(self, *args, **kwargs)
        fold = parsed.fold
        prune_plan_file = _checked_plan_file(parsed.prune_plan)
        return parsed

    parser_class.__init__ = __init__
    parser_class.parse_args = parse_args


def _checked_plan_file(path: str | None) -> str | None:
    if path is None:
        return None
    if not path.endswith(".json"):
        raise PruneError(
            f"--prune-plan {path}: a plan is a .json file, such as the best_accuracy.prune.json"
            " that training writes beside best_accuracy.pdparams."
        )
    if not os.path.isfile(path):
        raise PruneError(f"--prune-plan {path}: there is no such file.")
    return path
