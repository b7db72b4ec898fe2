"""What is built and what it says of itself; installing into fresh environments, normally and
editable, and leaving nothing behind."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
import zipfile
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import pytest
import yaml

import ppocr_prune_plugin

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


@pytest.fixture(scope="module")
def dist_check() -> ModuleType:
    """``benchmarks/dist_check.py``, which looks at what was built."""
    path = PROJECT / "benchmarks" / "dist_check.py"
    spec = importlib.util.spec_from_file_location("dist_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def project(tmp_path: Path, dist_check: ModuleType) -> Path:
    """A copy of what is built, so that the checkout stays clean."""
    copied: Path = dist_check.copy_sources(tmp_path / "project")
    return copied


@pytest.fixture(scope="module")
def built(
    build_tools: Path, dist_check: ModuleType, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """The wheel and the source distribution."""
    folder = tmp_path_factory.mktemp("built")
    sources = dist_check.copy_sources(folder / "sources")
    script = (
        "import sys; from setuptools import build_meta\n"
        "folder = sys.argv[1]  # which setuptools replaces\n"
        "build_meta.build_wheel(folder); build_meta.build_sdist(folder)\n"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, folder], cwd=sources, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(build_tools), "PPOCR_PRUNE": "0"}, timeout=300,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout + result.stderr
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def test_wheel_and_source_distribution_are_complete(
    built: tuple[Path, Path], dist_check: ModuleType
) -> None:
    wheel, sdist = built
    assert dist_check.wheel_problems(wheel) == []
    assert dist_check.sdist_problems(sdist) == []
    assert wheel.name.split("-")[1] == ppocr_prune_plugin.__version__
    assert dist_check.supported() == ["3.10", "3.11", "3.12", "3.13"]


def test_what_is_wrong_with_a_wheel_is_named(
    built: tuple[Path, Path], dist_check: ModuleType, tmp_path: Path
) -> None:
    spoiled = tmp_path / "spoiled.whl"
    with zipfile.ZipFile(built[0]) as source, zipfile.ZipFile(spoiled, "w") as target:
        for name in source.namelist():
            data = source.read(name)
            if name.endswith("/METADATA"):
                data = data.replace(b"Keywords:", b"Keyless:").replace(
                    b"Requires-Dist: six;", b"Requires-Dist: opencv-python==4.6.0.66;"
                )
            if not name.endswith("py.typed"):
                target.writestr(name, data)
        target.writestr("demo/__main__.py", "")
    found = "; ".join(dist_check.wheel_problems(spoiled))
    for fault in ("lacks ppocr_prune_plugin/py.typed", "brings demo", "Keywords is empty"):
        assert fault in found
    assert re.search(r"asks for opencv-python==4\.6\.0\.66; extra == .paddleslim", found)


def test_the_extra_and_the_message_name_what_paddleslim_imports(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as wheel:
        (name,) = (name for name in wheel.namelist() if name.endswith("/METADATA"))
        extra = re.findall(
            r'^Requires-Dist: (\S+); extra == "paddleslim"', wheel.read(name).decode(), re.M
        )
    from ppocr_prune_plugin.criteria import paddleslim

    first, second = paddleslim.INSTALL.split(" && ")
    assert first == "pip install --no-deps paddleslim==2.6.0"
    assert sorted(second.split()[2:]) == sorted(extra)


def test_the_workflow_runs_what_is_run_here(dist_check: ModuleType) -> None:
    path = PROJECT / ".github" / "workflows" / "checks.yml"
    jobs = yaml.safe_load(path.read_text(encoding="utf-8"))["jobs"]
    steps = {name: [step.get("run", "") for step in job["steps"]] for name, job in jobs.items()}
    assert ".ci/run" in steps["run"]
    # Where the pinned environment works, and where the package installs.
    check = (PROJECT / "requirements" / "check.py").read_text(encoding="utf-8")
    first, last = re.findall(r"\(3, (\d+)\)", check)[:2]
    minors = range(int(first), int(last) + 1)
    matrix = jobs["run"]["strategy"]["matrix"]["python"]
    assert matrix == [f"3.{minor}" for minor in minors]
    assert any("make dist-check" in step and "--all" in step for step in steps["distributions"])
    (setup,) = (step["with"] for step in jobs["distributions"]["steps"] if "setup" in str(step))
    assert setup["python-version"].split() == dist_check.supported()


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
        "sys.path.insert(0, sys.path[0] + '/..')\n"
        "import ppocr\n"
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
