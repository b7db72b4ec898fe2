"""Pickles made to do harm: refused in one line, no code run, no crash, no memory taken."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hostile import pickles

_READER = """
import json, resource, sys, time
from pathlib import Path
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.sensitivity.store import load_pickle

pages = int(Path("/proc/self/statm").read_text().split()[0])
limit = pages * resource.getpagesize() + 2**29
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
for path in sorted(Path(sys.argv[1]).iterdir()):
    said = []
    for read in (read_shapes, load_pickle):
        begin = time.process_time()
        try:
            said.append(["read", repr(read(path))[:200]])
        except PruneError as error:
            said.append(["refused", str(error)])
        except BaseException as error:
            said.append(["failed", f"{type(error).__name__}: {error}"])
        said[-1].append(time.process_time() - begin)
    print(json.dumps([path.name, said]), flush=True)
"""


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[list[str]]]:
    """What the readers of weights and of sensitivities make of each, in a process that may take
    512 MiB for it."""
    folder, marker = tmp_path_factory.mktemp("pickles"), tmp_path_factory.mktemp("code") / "ran"
    names = {}
    for number, (name, content) in enumerate(pickles(marker).items()):
        names[f"{number:03}"] = name
        (folder / f"{number:03}").write_bytes(content)
    done = subprocess.run(
        [sys.executable, "-c", _READER, folder], capture_output=True, text=True, timeout=120
    )
    found = {names[file]: said for file, said in map(json.loads, done.stdout.splitlines())}
    rest = [name for name in names.values() if name not in found]
    assert done.returncode == 0, (
        f"{rest[:1]} ended the process: {done.returncode} {done.stderr[-500:]}"
    )
    assert not marker.exists(), "code from a file was run"
    return found


def test_each_is_refused_or_harmless(outcomes: dict[str, list[list[str]]]) -> None:
    assert len(outcomes) > 130
    for name, said in outcomes.items():
        for kind, message, seconds in said:
            assert kind in ("read", "refused"), f"{name}: {message}"
            assert len(message.splitlines()) <= 1 and message.isprintable(), name
            assert float(seconds) < 5, f"{name} took {seconds} seconds of the processor"


def test_what_is_read_of_them_is_nothing(outcomes: dict[str, list[list[str]]]) -> None:
    """Losses are refused as a whole. A number among weights is no array, and is passed over."""
    for name, (weights, losses) in outcomes.items():
        assert losses[:2] == ["read", "{}"] or losses[0] == "refused", name
        assert weights[:2] == ["read", "{}"] or weights[0] == "refused", name


def test_what_looks_alike_and_is_none_of_them_is_read(tmp_path: Path) -> None:
    """Pickles of all protocols with NumPy's numbers, as everybody writes them."""
    import pickle

    import numpy as np

    from ppocr_prune_plugin.checkpoint import read_shapes
    from ppocr_prune_plugin.sensitivity.store import load_pickle

    losses = {"conv2d_0.w_0": {np.float64(0.25): np.float32(0.5), 0.5: 1, np.float16(0.75): -0.25}}
    weights = {
        "whole": np.zeros((2, 3), "float32"),
        "half": np.zeros((4,), ">f2"),
        "pair": ("conv2d_0.w_0", np.zeros((0, 5))),
        "turned": np.zeros((3, 2), order="F"),
        "number": np.float32(3),
        "empty": np.zeros(()),
        "names": {"a": "b"},
    }
    path = tmp_path / "file"
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        path.write_bytes(pickle.dumps(losses, protocol=protocol))
        assert load_pickle(path) == {"conv2d_0.w_0": {0.25: 0.5, 0.5: 1.0, 0.75: -0.25}}
        path.write_bytes(pickle.dumps(weights, protocol=protocol))
        assert read_shapes(path) == {
            "whole": (2, 3), "half": (4,), "pair": (0, 5), "turned": (3, 2), "empty": (),
        }, protocol  # fmt: skip
