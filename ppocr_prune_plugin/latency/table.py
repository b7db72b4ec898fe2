"""The latency table: every measurement, on disk before the next one is made.

One file, ``latency.json``, tied to a machine, a Paddle, the options and a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import documents
from ..documents import mapping, maybe, number, record, row, text
from ..errors import PruneError

FORMAT = "ppocr-prune-latency/2"
_TIME = number(0)
_SCHEMA = record(
    {
        "fingerprint": mapping(text),
        "onednn": maybe(text),
        "networks": mapping(row(_TIME, _TIME)),
        "layers": mapping(mapping(_TIME)),
    }
)


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
        documents.write(self.path, content)


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
        content = documents.read(path, "the latency table", FORMAT, _SCHEMA, "")
    except PruneError as error:
        return table, f"it cannot be used ({error})"
    for item, expected in fingerprint.items():
        found = content["fingerprint"].get(item)
        if found != expected:
            return table, (
                f"it was measured with another {item}: it says {found!r}, this run has {expected!r}"
            )
    table.onednn, table.layers = content["onednn"], content["layers"]
    table.networks = {key: (before, after) for key, (before, after) in content["networks"].items()}
    return table, ""
