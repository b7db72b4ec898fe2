"""Check that pruning is hooked into PaddleOCR's tools, and say what to do where it is not.

Every finding is one line: ``ok``, ``note`` (works, but worth knowing) or ``FAIL`` with a remedy.
With a config its model is built, traced, pruned by a little and exported, too, with random weights.
"""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from .. import __version__
from .._startup import switched_off
from ..errors import PruneError
from ..export.converter import LAST_PYTHON, OTHER_PYTHON, no_converter
from ..hooks.adapters.algorithms import unknown_algorithms
from ..hooks.adapters.tree import find_tree, require_tree
from ..hooks.points import check_tree
from ..hooks.release import Release, release_numbers, release_of
from .config_options import add_config_options

STARTUP_FILE = "ppocr_prune_plugin.pth"
_PROBE_SECONDS = 60
_PADDLES = ("paddlepaddle", "paddlepaddle-gpu", "paddlepaddle-xpu")

# Newest release whose oneDNN is whole, and those since whose is not (Paddle's issue 77340).
_WHOLE_ONEDNN, _BROKEN_ONEDNN = "3.2.2", ((3, 3, 0), (3, 3, 1))
# From this release on exports have tags that earlier ones and this paddle2onnx do not read.
_WIDE_TAGS, _LAST_PADDLE2ONNX = (3, 3), "2.1.0"
# Debian's packages with libraries that those of Python do not bring.
_DEBIAN, _DEBIAN_OPENCV = {"libgomp.so.1": "libgomp1"}, "libgl1 libglib2.0-0"
# The last release that traces through its old intermediate representation.
_OLD_IR = (3, 0)


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
    add_config_options(parser, required=False, help="try pruning and export on this config")


def run(args: argparse.Namespace) -> int:
    """Print the report; 0 where pruning works, 1 where something is missing."""
    print(f"ppocr-prune-plugin {__version__}")
    failures = 0
    for finding in findings(args.tree, args.config, args.opt):
        failures += finding.level == "FAIL"
        print(f"  {finding.level:<4}  {finding.text}", flush=True)
        if finding.remedy:
            print(f"        -> {finding.remedy}", flush=True)
    print("All is well." if not failures else f"{failures} to mend.")
    return 1 if failures else 0


def findings(
    tree: Path | None, config: Path | None = None, options: Sequence[str] = ()
) -> Iterator[Finding]:
    """Everything that is checked, in the order of a tool's start."""
    yield from _startup_findings()
    found: Path | None = None
    try:
        # A folder given by hand is the tree or lies in it; nothing else will do.
        found = require_tree(tree) if tree is not None else find_tree()
    except PruneError as error:
        yield Finding("FAIL", "PaddleOCR tree: none", str(error))
    release = release_of(found) if found is not None else None
    yield from _version_findings(release, found)
    _, paddle = _first_installed(*_PADDLES)
    old_ir = found is not None and _exports_through_old_ir(found)
    yield from paddle_findings(paddle or "", old_ir)
    yield from _converter_findings()
    if found is not None:
        yield Finding("ok", f"PaddleOCR {release} at {found}")
        yield from _hook_findings(found)
        yield from _algorithm_findings(found)
    if config is not None and found is not None:
        from ..hooks.rehearsal import rehearse

        yield from (Finding(*step) for step in rehearse(config, options, found))


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
            "sys.path.insert(0, '.')\n"
            "import ppocr\n"
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


def _version_findings(tree: Release | None, root: Path | None) -> Iterator[Finding]:
    python = sys.version_info[:2]
    yield _ranged("Python", ".".join(map(str, sys.version_info[:3])), python, (3, 10), (3, 13))

    paddle_name, paddle = _first_installed(*_PADDLES)
    if paddle is None:
        yield Finding(
            "FAIL",
            "Paddle is not installed",
            'pip install "paddlepaddle>=3.0,<3.4" (or a GPU build)',
        )
    else:
        release = release_numbers(paddle)
        found = _ranged(f"Paddle ({paddle_name})", paddle, release[:2], (3, 0), (3, 3))
        yield import_failure("paddle", f"Paddle {paddle} ({paddle_name})") or found

    _, numpy = _first_installed("numpy")
    known = None if tree is None else tree.before if tree.stated is None else tree.stated
    old = known is not None and release_numbers(known) <= (2, 10, 0)
    if numpy is not None and release_numbers(numpy) >= (2, 4) and root and _crops_by_arrays(root):
        yield Finding(
            "FAIL",
            f"NumPy {numpy}: this PaddleOCR can no longer crop a detector's training images (only "
            "0-dimensional arrays can be converted), and takes others without end, like a hang",
            'pip install "numpy<2" albumentations==1.4.10 albucore==0.0.13'
            if old
            else 'pip install "numpy<2.4"',
        )
    else:
        yield Finding("ok", f"NumPy {numpy or 'not installed'}")
    yield from _opencv_findings(numpy)
    yield from _paddleslim_findings(numpy)


def _crops_by_arrays(tree: Path) -> bool:
    """Whether the tree takes arrays of one number for numbers, as NumPy did before 2.4."""
    file = tree / "ppocr" / "data" / "imaug" / "random_crop_data.py"
    return file.is_file() and "int(np.random.choice(axis, size=1))" in file.read_text("utf-8")


def _opencv_findings(numpy: str | None) -> Iterator[Finding]:
    name, opencv = _first_installed(
        "opencv-python", "opencv-python-headless", "opencv-contrib-python",
        "opencv-contrib-python-headless",
    )  # fmt: skip
    if opencv is None:
        yield Finding(
            "FAIL", "OpenCV is not installed", "pip install opencv-python-headless==4.10.0.84"
        )
    elif numpy is not None and release_numbers(numpy) >= (2,) and release_numbers(opencv) < (4, 10):
        yield Finding(
            "FAIL",
            f"OpenCV {opencv} ({name}) cannot be imported beside NumPy {numpy}",
            f'pip install {name}==4.10.0.84, or "numpy<2"',
        )
    else:
        title = f"OpenCV {opencv} ({name})"
        yield import_failure("cv2", title) or Finding("ok", title)


def import_failure(module: str, title: str) -> Finding | None:
    """What keeps an installed module from being imported, which its version does not show."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            importlib.import_module(module)
    except Exception as error:
        remedy = "look at what it says"
        if isinstance(error, ModuleNotFoundError):
            remedy = f"pip install {error.name}"
        elif library := re.match(r"(lib[^\s:]+): cannot open shared object file", str(error)):
            packages = _DEBIAN.get(library[1], _DEBIAN_OPENCV)
            remedy = f"on Debian: apt-get install {packages}"
        said = f"{type(error).__name__}: {error}".splitlines()[0]
        return Finding("FAIL", f"{title} cannot be imported: {said}", remedy)
    return None


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
    elif numpy is not None and release_numbers(numpy) >= (2,):
        yield Finding(
            "note",
            f"PaddleSlim {paddleslim} calls np.product, which NumPy {numpy} no longer has",
            'pip install "numpy<2", if you use PaddleSlim\'s criteria',
        )
    else:
        yield Finding("ok", f"PaddleSlim {paddleslim}")


def _converter_findings() -> Iterator[Finding]:
    if sys.version_info[:2] > LAST_PYTHON and _first_installed("paddle2onnx")[1] is None:
        yield Finding(
            "note",
            f"{no_converter()}: no `ppocr-prune onnx`, pruned_latency in Paddle Inference alone",
            f"for them, {OTHER_PYTHON}",
        )


def paddle_findings(paddle: str, old_ir: bool) -> Iterator[Finding]:
    """What a release of Paddle cannot do, and what to use instead.

    Args:
        paddle: its version.
        old_ir: the PaddleOCR tree exports through Paddle's old IR unless it is told otherwise.
    """
    release = release_numbers(paddle)
    if release in _BROKEN_ONEDNN:
        yield Finding(
            "note",
            f"Paddle {paddle} cannot run detectors with oneDNN (nearest_interp: "
            "ConvertPirAttribute2RuntimeAttribute not support ... DoubleAttribute); times measured "
            "on what is left of its oneDNN say little",
            f"use Paddle {_WHOLE_ONEDNN}, the newest release whose oneDNN is whole",
        )
    if release[:2] >= _WIDE_TAGS:
        yield Finding(
            "note",
            f"paddle2onnx {_LAST_PADDLE2ONNX} and Paddle up to 3.2 cannot read the detectors that "
            f"Paddle {paddle} exports (64-bit scales: the 0th elementwise MUST be "
            "ir::FloatAttribute)",
            "convert with `ppocr-prune onnx`, or write for them with `ppocr-prune convert --paddle "
            f"{_WHOLE_ONEDNN}`",
        )
    if release[:2] > _OLD_IR and old_ir:
        yield Finding(
            "note",
            f"this PaddleOCR exports through Paddle's old IR, where Paddle {paddle} cannot trace "
            "most networks: pruned models are exported through PIR",
            "for unpruned ones set Global.export_with_pir=true",
        )


def _exports_through_old_ir(tree: Path) -> bool:
    """Whether a tree knows PIR and does not use it unless it is told to."""
    try:
        text = (tree / "ppocr" / "utils" / "export_model.py").read_text(encoding="utf-8")
    except OSError:
        return False
    return re.search(r"""["']export_with_pir["'], *False""", text) is not None


def _hook_findings(tree: Path) -> Iterator[Finding]:
    for check in check_tree(tree):
        where = f"hook point {check.module}.{check.point.name}"
        if not check.fits:
            file = check.file.relative_to(tree)
            yield Finding(
                "FAIL",
                f"{where}: {file} "
                + (f"lacks {check.lacks}" if check.file.is_file() else "is not there"),
                "use an unmodified PaddleOCR from release/2.6 to the current main branch",
            )
        elif check.found:
            yield Finding("ok", where)
        else:
            yield Finding("ok", f"{where}: not in this release, which does without it")


def _algorithm_findings(tree: Path) -> Iterator[Finding]:
    unknown = unknown_algorithms(tree)
    if unknown:
        yield Finding(
            "note",
            f"algorithms of this tree that are not known here: {', '.join(unknown)}; what their "
            "networks take is read from the tree's code and from the config",
        )


def _first_installed(*names: str) -> tuple[str, str | None]:
    for name in names:
        try:
            return name, metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return names[0], None


def _ranged(
    name: str, version: str, release: tuple[int, ...], first: tuple[int, int], last: tuple[int, int]
) -> Finding:
    if first <= release <= last:
        return Finding("ok", f"{name} {version}")
    supported = f"{first[0]}.{first[1]} to {last[0]}.{last[1]}"
    return Finding("FAIL", f"{name} {version} is not supported", f"use {supported}")


def _quoted(output: str) -> str:
    return f'; it said "{output.splitlines()[-1]}"' if output else ""
