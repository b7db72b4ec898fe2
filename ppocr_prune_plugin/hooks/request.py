"""Does this run ask for pruning, and in words that are read? If not, one line says so.

The command line is judged without PaddleOCR's own config loader. That is needed where the loader
cannot be hooked (such a run must stop if it asks for pruning, and must not be disturbed if it does
not), and where pruning is switched off.
"""

from __future__ import annotations

import argparse
import difflib
import json
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import yaml

SECTION = "Prune"

# What else people call it, without regard to case.
_OTHER_NAMES = frozenset({"prune", "pruned", "pruner", "prunes", "pruning"})
_NEAR = 0.8  # of a key mistyped by a letter, by difflib's measure

_TOP_LEVEL_KEY = re.compile(r"^(Prune|'Prune'|\"Prune\")\s*:", re.MULTILINE)


def section_requested(argv: Sequence[str]) -> bool:
    """Whether ``-o Prune…`` or a top-level ``Prune:`` of the ``-c`` file asks for pruning.

    ``argv`` is a tool's ``sys.argv``, script first. A section switched off does not ask.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False)
    parser.add_argument("-c", "--config")
    parser.add_argument("-o", "--opt", nargs="*", default=[])
    try:
        args, _ = parser.parse_known_args(list(argv[1:]))
    except (argparse.ArgumentError, SystemExit):
        return any(re.match(r"Prune[.=]", item) for item in argv[1:])
    options = dict(item.strip().partition("=")[::2] for item in args.opt)
    ours = {key: value for key, value in options.items() if key.split(".")[0] == "Prune"}
    if "Prune.enable" in ours:
        return _as_yaml(ours["Prune.enable"]) is not False
    return bool(ours) or (args.config is not None and _file_has_section(Path(args.config)))


def _file_has_section(path: Path) -> bool:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False  # PaddleOCR itself will say so
    config = _as_yaml(text)
    if not isinstance(config, dict):  # Python tags, for one, that the safe loader refuses
        return bool(_TOP_LEVEL_KEY.search(text))
    if "Prune" not in config:
        return False
    section = config["Prune"]
    return not (isinstance(section, dict) and section.get("enable") is False)


def _as_yaml(text: str) -> object:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def warn_of_near_names(config: object, source: str) -> None:
    """Warn of every section that is meant to be ``Prune`` and is not read, because of its name or
    its place in the config."""
    for path, switched_on in near_names(config):
        if switched_on:
            shown = ".".join(json.dumps(key) for key in path)
            _warn(
                f"{source}: the section {shown} is not read, and nothing is pruned by it. Write "
                f'"{SECTION}", at the top level beside Global, if pruning is meant.'
            )


def near_names(config: object) -> Iterator[tuple[tuple[str, ...], bool]]:
    """Keys that are nearly ``Prune``, or are it inside of another section, from the top level on;
    with each, whether it says anything but ``enable: false``."""
    if not isinstance(config, Mapping):
        return
    for key, value in config.items():
        if key != SECTION and _is_near(key):
            yield (key,), _is_on(value)
        elif key != SECTION and isinstance(value, Mapping):
            for inner, setting in value.items():
                if _plain(inner) in _OTHER_NAMES and isinstance(setting, Mapping):
                    yield (key, inner), _is_on(setting)


def _is_near(key: object) -> bool:
    name = _plain(key)
    likeness = difflib.SequenceMatcher(None, name, SECTION.lower()).ratio()
    return name in _OTHER_NAMES or likeness >= _NEAR


def _plain(key: object) -> str:
    """A key as it looks: without case, spaces and marks that nobody sees, letters of full width as
    usual ones."""
    text = unicodedata.normalize("NFKC", key) if isinstance(key, str) else ""
    seen = (c for c in text if not c.isspace() and unicodedata.category(c) != "Cf")
    return "".join(seen).casefold()


def _is_on(value: object) -> bool:
    return not (isinstance(value, Mapping) and value.get("enable") is False)


def warn_if_switched_off(argv: Sequence[str]) -> None:
    """Warn of a section that ``PPOCR_PRUNE=0`` keeps from being read."""
    if section_requested(argv):
        _warn(
            f"PPOCR_PRUNE=0 is set: the {SECTION} section is not read, nothing is pruned, and "
            "pruned checkpoints do not load. Unset it to prune."
        )


_warned: set[str] = set()


def _warn(message: str) -> None:
    """Say something once, by one process of a distributed run."""
    if message in _warned or os.environ.get("PADDLE_TRAINER_ID", "0") not in ("", "0"):
        return
    _warned.add(message)
    print(f"ppocr-prune: warning: {message}", file=sys.stderr, flush=True)
