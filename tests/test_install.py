"""Installing into fresh environments, normally and editable, and leaving nothing behind."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

PROJECT = Path(__file__).parent.parent
STARTUP_FILES = {"ppocr_prune_plugin.pth", "ppocr_prune_plugin.start"}


@pytest.fixture(scope="module")
def build_tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for PYTHONPATH that holds setuptools alone, so that no network is needed."""
    spec = importlib.util.find_spec("setuptools")  # importing it here would replace distutils
    if spec is None or spec.origin is None or int(version("setuptools").split(".")[0]) < 77:
        pytest.skip("setuptools 77 or newer is needed to build the package")
    folder = tmp_path_factory.mktemp("build-tools")
    installed = Path(spec.origin).parent.parent
    # Its metadata too: that is where setuptools finds its own commands.
    metadata = f"setuptools-{version('setuptools')}.dist-info"
    for name in ("setuptools", "_distutils_hack", metadata):
        (folder / name).symlink_to(installed / name)
    return folder


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of what is built, so that the checkout stays clean."""
    copy = tmp_path / "project"
    ignored = shutil.ignore_patterns("__pycache__")
    for name in ("ppocr_prune_plugin", "startup"):
        shutil.copytree(PROJECT / name, copy / name, ignore=ignored)
    for name in ("setup.py", "pyproject.toml", "LICENSE", "MANIFEST.in", "README.md"):
        if (PROJECT / name).exists():
            shutil.copy(PROJECT / name, copy)
    return copy


@pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="pip is not installed")
@pytest.mark.parametrize("editable", [False, True], ids=["normal", "editable"])
def test_install_and_uninstall(
    project: Path, build_tools: Path, tmp_path: Path, editable: bool
) -> None:
    environment = {k: v for k, v in os.environ.items() if k not in ("PPOCR_PRUNE", "PYTHONPATH")}

    def call(*command: str | Path, **extra: str) -> str:
        result = subprocess.run(
            list(map(str, command)), capture_output=True, text=True, cwd=tmp_path,
            env={**environment, **extra}, timeout=300,
        )  # fmt: skip
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout

    venv = tmp_path / "venv"
    call(sys.executable, "-m", "venv", "--without-pip", venv)
    python = venv / "bin" / "python"
    site_packages = Path(
        call(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    )
    before = _files(venv)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]

    install = [*pip, "install", "--no-deps", "--no-build-isolation"]
    call(*install, *(["-e"] if editable else []), project, PYTHONPATH=str(build_tools))
    assert {path.name for path in site_packages.iterdir()} >= STARTUP_FILES
    assert (site_packages / "ppocr_prune_plugin").exists() is not editable
    for name in STARTUP_FILES:
        assert (site_packages / name).read_bytes() == (PROJECT / "startup" / name).read_bytes()

    tool = _tool(tmp_path / "tree")
    origin, finders = call(python, tool).split()
    assert finders == "1"
    assert Path(origin).is_relative_to(project if editable else site_packages)
    assert "run" in call(venv / "bin" / "ppocr-prune", "--help")

    call(*pip, "uninstall", "-y", "ppocr-prune-plugin")
    assert _files(venv) == before


def _tool(tree: Path) -> Path:
    """A script placed and named like a tool of PaddleOCR, that reports what was hooked."""
    (tree / "tools").mkdir(parents=True)
    (tree / "ppocr").mkdir()
    (tree / "tools" / "program.py").touch()
    tool = tree / "tools" / "train.py"
    tool.write_text(
        "import sys\n"
        "print(sys.modules['ppocr_prune_plugin'].__file__)\n"
        "print(sum(type(f).__name__ == 'PostImportFinder' for f in sys.meta_path))\n"
    )
    return tool


def _files(folder: Path) -> set[str]:
    return {
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if "__pycache__" not in path.parts and not path.is_dir()
    }
