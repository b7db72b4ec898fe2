"""Check that pruning is hooked into PaddleOCR's tools, and say what to do where it is not.

Every finding is one line: ``ok``, ``note`` (works, but worth knowing) or ``FAIL`` with a remedy.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import __version__
from .._startup import switched_off
from ..errors import PruneError
from ..hooks.adapters.tree import find_tree, require_tree, tree_version
from ..hooks.points import check_hook_points

STARTUP_FILE = "ppocr_prune_plugin.pth"
_PROBE_SECONDS = 60


@dataclass(frozen=True)
class Finding:
    """One line of the report: ``level`` is "ok", "note" or "FAIL"."""

    level: str
    text: str
    remedy: str = ""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--tree", type=Path, default=None, help="the PaddleOCR tree (default: search for one)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 where pruning works, 1 where something is missing."""
    print(f"ppocr-prune-plugin {__version__}")
    failures = 0
    for finding in findings(args.tree):
        failures += finding.level == "FAIL"
        print(f"  {finding.level:<4}  {finding.text}", flush=True)
        if finding.remedy:
            print(f"        -> {finding.remedy}", flush=True)
    print("All is well." if not failures else f"{failures} to mend.")
    return 1 if failures else 0


def findings(tree: Path | None) -> Iterator[Finding]:
    """Everything that is checked, in the order of a tool's start."""
    yield from _startup_findings()
    found: Path | None = None
    try:
        # A folder given by hand is the tree or lies in it; nothing else will do.
        found = require_tree(tree) if tree is not None else find_tree()
    except PruneError as error:
        yield Finding("FAIL", "PaddleOCR tree: none", str(error))
    version = tree_version(found) if found is not None else None
    yield from _version_findings(version)
    if found is not None:
        yield Finding("ok", f"PaddleOCR {version or '(version not stated)'} at {found}")
        yield from _hook_findings(found)


def _startup_findings() -> Iterator[Finding]:
    file = startup_file()
    reinstall = f"{sys.executable} -m pip install --force-reinstall --no-deps ppocr-prune-plugin"
    if file is None:
        yield Finding(
            "FAIL",
            f"start-up file: {STARTUP_FILE} is in no site-packages folder",
            f"{reinstall}, or start tools with `ppocr-prune run tools/train.py ...`",
        )
    else:
        yield Finding("ok", f"start-up file: {file}")
        active, output = probe()
        if active:
            yield Finding("ok", f"a tool started with {sys.executable} is hooked")
        else:
            yield Finding(
                "FAIL",
                f"a tool started with {sys.executable} is not hooked{_quoted(output)}",
                f"{reinstall}, or start tools with `ppocr-prune run tools/train.py ...`",
            )
    if switched_off():
        yield Finding("FAIL", "PPOCR_PRUNE=0 in this shell switches pruning off", "unset it")


def startup_file() -> Path | None:
    """The start-up file in the site-packages of this Python, or None."""
    for folder in sys.path:
        candidate = Path(folder or ".") / STARTUP_FILE
        if candidate.parent.name in ("site-packages", "dist-packages") and candidate.is_file():
            return candidate
    return None


def probe() -> tuple[bool, str]:
    """Start a real Python on a tool in a tree of empty files: is it hooked, and what did it say?"""
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-doctor-") as folder:
        tools = Path(folder, "tools")
        tools.mkdir()
        Path(folder, "ppocr").mkdir()
        (tools / "program.py").touch()
        (tools / "train.py").write_text(
            "import sys\n"
            "print('hooked' if any(type(f).__module__ == 'ppocr_prune_plugin.hooks.finder'"
            " for f in sys.meta_path) else 'not hooked')\n"
        )
        environment = {k: v for k, v in os.environ.items() if k != "PPOCR_PRUNE"}
        try:
            result = subprocess.run(
                [sys.executable, str(tools / "train.py")],
                env=environment,
                cwd=folder,
                capture_output=True,
                text=True,
                timeout=_PROBE_SECONDS,
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            return False, str(error)
    return result.stdout.strip() == "hooked", result.stderr.strip()


def _version_findings(tree: str | None) -> Iterator[Finding]:
    python = sys.version_info[:2]
    yield _ranged("Python", ".".join(map(str, sys.version_info[:3])), python, (3, 10), (3, 13))

    paddle_name, paddle = _first_installed("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu")
    if paddle is None:
        yield Finding(
            "FAIL",
            "Paddle is not installed",
            'pip install "paddlepaddle>=3.0,<3.4" (or a GPU build)',
        )
    else:
        release = _release(paddle)
        yield _ranged(f"Paddle ({paddle_name})", paddle, release[:2], (3, 0), (3, 3))

    _, numpy = _first_installed("numpy")
    old_loader = tree is not None and _release(tree) <= (2, 10, 0)
    if numpy is not None and _release(numpy) >= (2, 4) and old_loader:
        yield Finding(
            "FAIL",
            f"NumPy {numpy}: PaddleOCR {tree}'s data loader recurses without end, like a hang",
            'pip install "numpy<2" albumentations==1.4.10 albucore==0.0.13',
        )
    else:
        yield Finding("ok", f"NumPy {numpy or 'not installed'}")
    yield from _opencv_findings(numpy)
    yield from _paddleslim_findings(numpy)


def _opencv_findings(numpy: str | None) -> Iterator[Finding]:
    name, opencv = _first_installed(
        "opencv-python", "opencv-python-headless", "opencv-contrib-python",
        "opencv-contrib-python-headless",
    )  # fmt: skip
    if opencv is None:
        yield Finding(
            "FAIL", "OpenCV is not installed", "pip install opencv-python-headless==4.10.0.84"
        )
    elif numpy is not None and _release(numpy) >= (2,) and _release(opencv) < (4, 10):
        yield Finding(
            "FAIL",
            f"OpenCV {opencv} ({name}) cannot be imported beside NumPy {numpy}",
            f'pip install {name}==4.10.0.84, or "numpy<2"',
        )
    else:
        yield Finding("ok", f"OpenCV {opencv} ({name})")


def _paddleslim_findings(numpy: str | None) -> Iterator[Finding]:
    _, paddleslim = _first_installed("paddleslim")
    if paddleslim is None:
        return  # optional
    missing = [name for name in ("six", "decorator") if _first_installed(name)[1] is None]
    if missing:
        yield Finding(
            "note",
            f"PaddleSlim {paddleslim} imports {' and '.join(missing)} without declaring it",
            f"pip install {' '.join(missing)}, if you use PaddleSlim's criteria",
        )
    elif numpy is not None and _release(numpy) >= (2,):
        yield Finding(
            "note",
            f"PaddleSlim {paddleslim} calls np.product, which NumPy {numpy} no longer has",
            'pip install "numpy<2", if you use PaddleSlim\'s criteria',
        )
    else:
        yield Finding("ok", f"PaddleSlim {paddleslim}")


def _hook_findings(tree: Path) -> Iterator[Finding]:
    for point in check_hook_points(tree):
        if point.found:
            yield Finding("ok", f"hook point {point}")
        else:
            yield Finding(
                "FAIL",
                f"hook point {point} is not in {point.file.relative_to(tree)}",
                "use an unmodified PaddleOCR from release/2.6 to the current main branch",
            )
    newer = (tree / "ppocr" / "utils" / "export_model.py").is_file()
    if newer or (tree / "tools" / "export_model.py").is_file():
        where = "ppocr.utils.export_model" if newer else "tools/export_model.py"
        yield Finding("ok", f"export in {where}")
    else:
        yield Finding("FAIL", "no export_model.py in tools/", "restore it to export pruned models")


def _first_installed(*names: str) -> tuple[str, str | None]:
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return names[0], None


def _release(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "3.3.1.post2" gives (3, 3, 1)."""
    leading = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in leading.group().split(".")) if leading else ()


def _ranged(
    name: str, version: str, release: tuple[int, ...], first: tuple[int, int], last: tuple[int, int]
) -> Finding:
    if first <= release <= last:
        return Finding("ok", f"{name} {version}")
    supported = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    return Finding("FAIL", f"{name} {version} is not supported", f"use {supported}")


def _quoted(output: str) -> str:
    return f'; it said "{output.splitlines()[-1]}"' if output else ""
