"""Build the wheel and the source distribution, and install both in clean environments.

    python benchmarks/dist_check.py            (or: make dist-check)

Each Python that the classifiers name gets an environment of its own for each of the two, with the
requirements of the package and nothing else. There it is asked what a user would see: version,
commands, start-up file, types, and what is left after uninstalling. Pythons that are not on this
machine are named; with --all that is an error. What the two files hold is looked at as well
(``wheel_problems``, ``sdist_problems``), also by the tests.
"""

from __future__ import annotations

import argparse
import email
import email.message
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = "ppocr_prune_plugin"
STARTUP_FILES = ("ppocr_prune_plugin.pth", "ppocr_prune_plugin.start")
# What a source distribution needs so that the project can be worked on from it.
PROJECT_FILES = (
    "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "MANIFEST.in", "Makefile", "README.md",
    "README_ch.md", "SECURITY.md", "pyproject.toml", "setup.py", ".ci/run", "benchmarks/bench.py",
    "configs/det/ppocrv4_mobile_det_prune.yml", "demo/__main__.py", "docs/security.md",
    "requirements/ocr.txt", "startup/ppocr_prune_plugin.pth", "tests/conftest.py",
    f"{PACKAGE}/py.typed",
)  # fmt: skip
# Not for the build, nor for a copy to build from.
NOT_SOURCES = (
    ".git", ".venv*", "*.egg-info", "build", "dist", "demo_output*", "output", "inference", "site",
    "__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache",
)  # fmt: skip

# Run by the Python of a clean environment, outside the project.
_PROBE = """
import importlib.metadata, importlib.util, sys
before = set(sys.modules)
import ppocr_prune_plugin
heavy = {"numpy", "yaml", "paddle"} & (set(sys.modules) - before)
assert not heavy, f"importing the package imports {heavy}"
version = importlib.metadata.version("ppocr-prune-plugin")
assert ppocr_prune_plugin.__version__ == version, ppocr_prune_plugin.__version__
assert importlib.util.find_spec("demo") is None, "the demo is installed"
import ppocr_prune_plugin.section  # with what the package requires, and no Paddle
print(version)
"""
_TOOL = """
import sys
print(sum(type(finder).__name__ == "PostImportFinder" for finder in sys.meta_path))
"""


def supported(root: Path = ROOT) -> list[str]:
    """Versions of Python that the classifiers name, such as ``3.10``."""
    text = (root / "pyproject.toml").read_text(encoding="utf-8")
    return re.findall(r'"Programming Language :: Python :: (\d+\.\d+)"', text)


def find_python(version: str) -> Path | None:
    """An interpreter of this version that can make environments: of pyenv, on PATH, or uv's."""
    pyenv = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    on_path = shutil.which(f"python{version}")
    candidates = [*pyenv, *([Path(on_path)] if on_path else [])]
    if uv := shutil.which("uv"):
        found = _run([uv, "python", "find", "--no-python-downloads", version], check=False)
        candidates += [Path(line) for line in found.splitlines()[:1]]
    asked = "import sys, venv, ensurepip; print('%d.%d' % sys.version_info[:2])"
    for python in candidates:
        # A shim of pyenv's is there for versions that are not chosen, too.
        if _run([python, "-c", asked], check=False).strip() == version:
            return python
    return None


def copy_sources(target: Path, root: Path = ROOT) -> Path:
    """The project without what was built or made in it, so that a build is clean."""
    shutil.copytree(root, target, ignore=shutil.ignore_patterns(*NOT_SOURCES))
    return target


def wheel_problems(wheel: Path) -> list[str]:
    """What is wrong with a wheel: files that are missing or do not belong, and its metadata."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
        (metadata,) = (name for name in names if name.endswith(".dist-info/METADATA"))
        message = email.message_from_bytes(archive.read(metadata))
        line = archive.read(STARTUP_FILES[0]) if STARTUP_FILES[0] in names else b""
    info = metadata.rpartition("/")[0]
    wanted = {
        *STARTUP_FILES,
        f"{PACKAGE}/py.typed",
        f"{info}/licenses/LICENSE",
        f"{info}/entry_points.txt",
        *(path.relative_to(ROOT).as_posix() for path in (ROOT / PACKAGE).rglob("*.py")),
    }
    problems = [f"lacks {name}" for name in sorted(wanted - names)]
    at_root = {name.partition("/")[0] for name in names}
    problems += [
        f"brings {name} into site-packages"
        for name in sorted(at_root - {PACKAGE, info, *STARTUP_FILES})
    ]
    if line != (ROOT / "startup" / STARTUP_FILES[0]).read_bytes():
        problems.append("has another start-up line than startup/ has")
    return [*problems, *metadata_problems(message)]


def sdist_problems(sdist: Path) -> list[str]:
    """What is wrong with a source distribution."""
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    problems = [f"lacks {name}" for name in PROJECT_FILES if name not in names]
    unwanted = re.compile(r"(^|/)(__pycache__|\.git|\.venv|demo_output|build|dist)(/|$)|\.py[co]$")
    return [*problems, *(f"holds {name}" for name in sorted(names) if unwanted.search(name))]


def metadata_problems(message: email.message.Message) -> list[str]:
    """What a package index or an installer would miss, and requirements that harm."""
    single = {
        "License-Expression": "Apache-2.0",
        "Description-Content-Type": "text/markdown",
        "Requires-Python": f">={supported()[0]}",
    }
    problems = [
        f"{key} is {message[key]!r} instead of {value!r}"
        for key, value in single.items()
        if message[key] != value
    ]
    problems += [
        f"{key} is empty"
        for key in ("Summary", "Keywords", "Project-URL", "Author")
        if not message[key]
    ]
    if "LICENSE" not in message.get_all("License-File", []):
        problems.append("the licence is not named as a file")
    payload = message.get_payload()
    if not isinstance(payload, str) or "# ppocr-prune-plugin" not in payload:
        problems.append("the README is not the description")
    classifiers = message.get_all("Classifier", [])
    problems += [
        f"there is no classifier {name}"
        for name in ("Typing :: Typed", "Programming Language :: Python :: 3")
        if name not in classifiers
    ]
    plain = [r for r in message.get_all("Requires-Dist", []) if "extra ==" not in r]
    if {re.split(r"[^\w-]", name.lower())[0] for name in plain} != {"pyyaml", "numpy", "tqdm"}:
        problems.append(f"requires {plain}")
    problems += [
        f"asks for {requirement}, which pins an OpenCV that fits no NumPy 2"
        for requirement in message.get_all("Requires-Dist", [])
        if re.match(r"paddleslim\b|opencv", requirement, re.I)
    ]
    return problems


def build(sources: Path, folder: Path, python: Path) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it; both into ``folder``."""
    tools = folder / "build-tools"
    _run([python, "-m", "venv", tools])
    _run([*_pip(tools), "install", "-q", "build", "twine"])
    _run([_python(tools), "-m", "build", "--outdir", folder, sources])
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    _run([_python(tools), "-m", "twine", "check", "--strict", wheel, sdist])
    return wheel, sdist


def try_out(python: Path, distribution: Path, folder: Path) -> str:
    """Install into a clean environment, look, uninstall; what pip found, or raises
    ``AssertionError`` with what is wrong."""
    venv = folder / "venv"
    _run([python, "-m", "venv", venv])
    before = _files(venv)
    _run([*_pip(venv), "install", "-q", distribution])
    _run([*_pip(venv), "check"])
    version = _run([_python(venv), "-c", _PROBE], cwd=folder).strip()
    command = venv / "bin" / "ppocr-prune"
    assert _run([command, "--version"], cwd=folder).split()[-1] == version
    assert "groups" in _run([command, "--help"], cwd=folder)
    (folder / "tree" / "tools").mkdir(parents=True)
    (folder / "tree" / "ppocr").mkdir()
    (folder / "tree" / "tools" / "program.py").touch()
    tool = folder / "tree" / "tools" / "train.py"
    tool.write_text(_TOOL)
    assert _run([_python(venv), tool]).strip() == "1", "the start-up file does not hook a tool"
    plain = folder / "plain.py"
    plain.write_text(_TOOL)
    assert _run([_python(venv), plain]).strip() == "0", "other programs are hooked as well"
    listed = _run([*_pip(venv), "list", "--format=freeze"]).split()
    _run([*_pip(venv), "uninstall", "-q", "-y", "ppocr-prune-plugin"])
    left = {name for name in _files(venv) - before if "prune" in name}
    assert not left, f"uninstalling leaves {sorted(left)}"
    return ", ".join(sorted(name for name in listed if not re.match("pip=|setuptools=", name)))


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not path.is_dir()
    }


def _python(venv: Path) -> Path:
    return venv / "bin" / "python"


def _pip(venv: Path) -> list[str | Path]:
    return [_python(venv), "-m", "pip", "--disable-pip-version-check"]


def _run(command: Iterable[str | Path], cwd: Path | None = None, check: bool = True) -> str:
    """What a command prints; raises ``AssertionError`` with all of it where the command fails."""
    words = [str(word) for word in command]
    environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PPOCR_PRUNE")}
    result = subprocess.run(
        words, cwd=cwd, env=environment, capture_output=True, text=True, timeout=900
    )
    failed = result.returncode != 0
    assert not (check and failed), f"{' '.join(words)}\n{result.stdout}{result.stderr}"
    return "" if failed else result.stdout


def main() -> int:
    """Print a line for each Python and file; 1 where something is wrong."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--all", action="store_true", help="a Python that is missing is an error")
    parser.add_argument("--out", type=Path, help="keep the two files in this folder")
    args = parser.parse_args()
    pythons = {version: find_python(version) for version in supported()}
    missing = [version for version, python in pythons.items() if python is None]
    faults = [f"Python {version} is not on this machine" for version in missing if args.all]
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        try:
            wheel, sdist = build(copy_sources(folder / "sources"), folder, Path(sys.executable))
        except AssertionError as error:
            print(error)
            return 1
        for path, found in ((wheel, wheel_problems(wheel)), (sdist, sdist_problems(sdist))):
            print(f"{path.name}: {path.stat().st_size / 1024:.0f} KB, {'; '.join(found) or 'ok'}")
            faults += found
        for version, python in pythons.items():
            if python is None:
                print(f"Python {version}: not on this machine, so not tried")
                continue
            for path in (wheel, sdist):
                kind = "wheel" if path.suffix == ".whl" else "sdist"
                place = folder / f"{version}-{kind}"
                place.mkdir()
                try:
                    print(f"Python {version}, {kind}: ok with {try_out(python, path, place)}")
                except AssertionError as error:
                    print(f"Python {version}, {kind}: {error}")
                    faults.append(version)
                shutil.rmtree(place)
        if args.out is not None:
            args.out.mkdir(parents=True, exist_ok=True)
            for path in (wheel, sdist):
                shutil.copy(path, args.out)
    if missing:
        print(f"Not tried, since they are not on this machine: Python {', '.join(missing)}")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
