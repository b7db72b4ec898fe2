"""Disks that are full or may not be written: one line each, and nothing that was there is lost.

Real file systems: a small ``tmpfs`` in a mount namespace of its own, which needs no privileges
where the kernel lets users have one; and a limit on the size of files, which works everywhere.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

# Writes one file of every kind into sys.argv[1], over and over, larger each time.
_WORK = """
import json, os, resource, sys
from pathlib import Path
import numpy as np
from ppocr_prune_plugin import arrays, documents
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import writing
from ppocr_prune_plugin.plan import Change, GroupPlan, PruningPlan
from ppocr_prune_plugin.report.data import Report
from ppocr_prune_plugin.report.html import write_report
from ppocr_prune_plugin.run_lock import own
from ppocr_prune_plugin.sensitivity.store import Point, SensitivityFile
from ppocr_prune_plugin.sensitivity.ranks import Ranks
from ppocr_prune_plugin.latency.table import LatencyTable

folder, limit = Path(sys.argv[1]) / "prune", int(sys.argv[2])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

def plan(size):
    item = GroupPlan("conv", size, tuple(range(size)), size)
    PruningPlan("l1", (item,), Change(2, 1), Change(2, 1)).save(folder / "plan.prune.json")

def points(size):
    names = {f"conv{i}": f"conv2d_{i}.w_0" for i in range(size)}
    file = SensitivityFile(folder / "sen.pickle", {}, names, baseline=1.0)
    file.points = {name: {0.5: Point(0.25, 0.75, 3)} for name in names}
    file.save()

def report(size):
    change = Change(2, 1)
    write_report(Report("l1", "ratio", 0.5, change, change, (), command="x" * 9 * size), folder)

def ranks(size):
    run = folder / "ranks" / f"run-{size}"
    with writing(run):
        run.mkdir(parents=True, exist_ok=True)
    ranks = Ranks(run, 0, 2)
    ranks.post("job-0", "x" * 9 * size), ranks.claim("conv"), ranks.post_failure(), ranks.close()

def table(size):
    times = {str(i): (2.0, 1.0) for i in range(size)}
    LatencyTable(folder / "latency.json", {}, "an engine", times).save()

work = {
    "lock": lambda size: own(folder / "lock", "it", ""),
    "plan": plan, "points": points, "report": report, "team": ranks, "table": table,
    "batches": lambda size: arrays.write(folder / "calibration.npz", [np.zeros(9 * size, "u1")]),
}
said = {}
for size in (10, 20_000) if len(sys.argv) < 4 else (10,):
    for name, write in work.items():
        try:
            write(size)
            said[f"{name} {size}"] = ""
        except PruneError as error:
            said[f"{name} {size}"] = str(error)
        except BaseException as error:
            said[f"{name} {size}"] = f"FAILED {type(error).__name__}: {error}"
files = {str(p.relative_to(folder)): p.stat().st_size for p in folder.rglob("*") if p.is_file()}
whole = {}
for path in folder.glob("*.json"):
    content = json.loads(path.read_text())
    whole[path.name] = content["checksum"] == documents.checksum(content)
print(json.dumps([said, files, whole]))
"""


def work(command: list[str], folder: Path, limit: int, *more: str) -> tuple[dict, dict, dict]:
    """What was said about each file, the files that are there, and which of ours are whole."""
    done = subprocess.run(
        [*command, sys.executable, "-c", _WORK, folder, str(limit), *more],
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    said, files, whole = json.loads(done.stdout.splitlines()[-1])
    assert not [message for message in said.values() if message.startswith("FAILED")], said
    assert all(message.isprintable() for message in said.values())
    return said, files, whole


def on_own_disk(options: str, before: str = "true") -> list[str]:
    """The beginning of a command that runs with a tmpfs of these options at ``$DISK``."""
    script = f'{before} && mount -t tmpfs -o {options} none "$DISK" && exec "$@"'
    return ["unshare", "-rm", "sh", "-c", script, "sh"]


@functools.cache
def can_mount() -> bool:
    return shutil.which("unshare") is not None and (
        subprocess.run(
            ["unshare", "-rm", "mount", "-t", "tmpfs", "none", "/mnt"], capture_output=True
        ).returncode
        == 0
    )


needs_mount = pytest.mark.skipif(
    "not __import__('test_full_disk').can_mount()", reason="this kernel lets nobody mount a tmpfs"
)


def check_full(
    said: dict[str, str], files: dict[str, int], whole: dict[str, bool], why: str
) -> None:
    small = {name: message for name, message in said.items() if name.endswith(" 10")}
    large = {name: message for name, message in said.items() if name not in small}
    assert not any(small.values()), small
    refused = {name.split()[0] for name, message in large.items() if message}
    assert refused == {"plan", "points", "report", "team", "table", "batches"}
    for message in filter(None, large.values()):
        assert "cannot be written: " in message and why in message
    # Those of before are there and whole, and nothing else is.
    assert whole == dict.fromkeys(
        ("plan.prune.json", "sensitivity.json", "report.json", "latency.json"), True
    )
    assert not [name for name in files if "tmp" in name]


@pytest.mark.long
def test_files_that_may_not_grow(tmp_path: Path) -> None:
    check_full(*work([], tmp_path, 20_000), why="ulimit -f")


@needs_mount
def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISK", str(tmp_path))
    said, files, whole = work(on_own_disk("size=120k"), tmp_path, 0)
    check_full(said, files, whole, why="No space left on device. Make room there")


@pytest.mark.long
@needs_mount
def test_a_disk_that_may_not_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also by root, whom no rights of a file keep out."""
    monkeypatch.setenv("DISK", str(tmp_path))
    said, files, _ = work(on_own_disk("ro"), tmp_path, 0, "small")
    assert not files
    for message in said.values():
        assert "Read-only file system. Make it writable" in message


@pytest.mark.skipif(os.geteuid() == 0, reason="rights of a file do not keep root out")
def test_a_folder_that_may_not_be_written(tmp_path: Path) -> None:
    (tmp_path / "prune").mkdir(mode=0o500)
    said, _, _ = work([], tmp_path, 0, "small")
    assert all("Permission denied. Make it writable" in message for message in said.values())


@pytest.mark.long
def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "prune").write_text("precious")
    said, _, _ = work([], tmp_path, 0, "small")
    assert all("A folder is needed where a file is" in message for message in said.values())
    assert (tmp_path / "prune").read_text() == "precious"
