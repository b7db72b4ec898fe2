"""The latency table: every measurement, on disk before the next one is made.

One file, ``latency.json``, tied to a machine, an engine, the options and a network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from .. import documents
from ..documents import mapping, number, record, row, text
from ..errors import PruneError

FORMAT = "ppocr-prune-latency/4"
_TIME = number(0)
_SCHEMA = record(
    {
        "fingerprint": mapping(text),
        "how": text,
        "networks": mapping(row(_TIME, _TIME)),
    }
)


@dataclass
class LatencyTable:
    """``networks``: widths, as text → milliseconds (unpruned, pruned), measured in turns. ``how``
    says in which engine."""

    path: Path
    fingerprint: Mapping[str, str]
    how: str = ""
    networks: dict[str, tuple[float, float]] = field(default_factory=dict)

    def save(self) -> None:
        """Write the file; it is complete or as it was before."""
        content = {
            "format": FORMAT,
            "fingerprint": dict(self.fingerprint),
            "how": self.how,
            "networks": self.networks,
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
    table.how = content["how"]
    table.networks = {key: (before, after) for key, (before, after) in content["networks"].items()}
    return table, ""
