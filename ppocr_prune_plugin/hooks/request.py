"""Does this command line ask for pruning? Answered without PaddleOCR's own config loader.

Needed only where that loader cannot be hooked: such a run must stop if it asks for pruning and
must not be disturbed if it does not.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import yaml

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
