"""The latency table: every measurement, on disk before the next one is made.

One file, ``latency.json``, tied to a machine, a Paddle, the options and a network.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import write_atomically

FORMAT = "ppocr-prune-latency/1"


@dataclass
class LatencyTable:
    """Milliseconds. ``layers``: operation → its channels, as text → time of it alone.
    ``networks``: widths, as text → (unpruned, pruned), measured in turns."""

    path: Path
    fingerprint: Mapping[str, str]
    onednn: str | None = None
    layers: dict[str, dict[str, float]] = field(default_factory=dict)
    networks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file; it is complete or as it was before."""
        content = {
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "onednn": self.onednn,
            "networks": self.networks,
            "layers": self.layers,
        }
        write_atomically(self.path, json.dumps(content, indent=1))


def open_table(path: Path, fingerprint: Mapping[str, str]) -> tuple[LatencyTable, str]:
    """Take up a table, or start one.

    Returns:
        The table, and why what is on disk was not taken up ("" where it was or nothing is there).
        The next measurement replaces it.
    """
    table = LatencyTable(path, fingerprint)
    if not path.exists():
        return table, ""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        found = content["fingerprint"]
        if content["format"] != FORMAT:
            return table, f"its format is {content['format']!r}, not {FORMAT!r}"
        for item, expected in fingerprint.items():
            if found.get(item) != expected:
                return table, (
                    f"it was measured with another {item}: it says {found.get(item)!r}, this run "
                    f"has {expected!r}"
                )
        return _read(table, content), ""
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return LatencyTable(path, fingerprint), f"it is damaged ({type(error).__name__}: {error})"


def _read(table: LatencyTable, content: Mapping[str, Any]) -> LatencyTable:
    table.onednn = content["onednn"]
    for key, (before, after) in content["networks"].items():
        table.networks[key] = (float(before), float(after))
    for key, times in content["layers"].items():
        table.layers[key] = {sizes: float(time) for sizes, time in times.items()}
    return table
