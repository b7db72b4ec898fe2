"""PaddleOCR trees that are put together for tests.

Today's tools are laid over the networks of release 2.10, both from PyPI: the sdist of ``paddleocr``
3.7.0 has ``tools/`` and ``ppocr/{data,postprocess,utils}`` and no networks;
``unstructured-paddleocr`` has those.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

_REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "sources.txt"
_TODAY = ("tools", "ppocr/data", "ppocr/postprocess", "ppocr/utils")
_NETWORKS = ("ext_op", "losses", "metrics", "modeling")
# Today's build_optimizer gives a third thing, a scheduler of the weight decay or None.
_THIRD = """

def build_optimizer(*args, _original=build_optimizer, **kwargs):
    return (*_original(*args, **kwargs), None)
"""


@pytest.fixture(scope="session")
def today_sdist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked sdist, which ``make env`` has fetched and whose hash the requirements give."""
    found = re.search(r"^(\w+)==(\S+) --hash=sha256:(\w+)$", _REQUIREMENTS.read_text(), re.M)
    assert found, f"{_REQUIREMENTS} names no sdist"
    name, version, digest = found.groups()
    sdist = Path(sys.prefix) / "sources" / f"{name}-{version}.tar.gz"
    if not sdist.is_file():
        pytest.fail(f"{sdist} is not there; run: make env VENV={sys.prefix}")
    assert hashlib.sha256(sdist.read_bytes()).hexdigest() == digest, f"{sdist} is another file"
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    return folder / f"{name}-{version}"


@pytest.fixture(scope="session")
def today_tree(tree: Path, today_sdist: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with today's tools, data, post-processing and utilities; networks are of 2.10."""
    made = tmp_path_factory.mktemp("today") / "PaddleOCR"
    for folder in _TODAY:
        shutil.copytree(today_sdist / folder, made / folder)
    shutil.copy(today_sdist / "ppocr" / "__init__.py", made / "ppocr")
    shutil.copy(today_sdist / "pyproject.toml", made)
    for name in _NETWORKS:
        if (tree / "ppocr" / name).is_dir():
            (made / "ppocr" / name).symlink_to(tree / "ppocr" / name)
    shutil.copytree(
        tree / "ppocr" / "optimizer",
        made / "ppocr" / "optimizer",
        ignore=shutil.ignore_patterns("__pycache__"),
    )
    with open(made / "ppocr" / "optimizer" / "__init__.py", "a", encoding="utf-8") as file:
        file.write(_THIRD)
    return made


def changed_tree(tree: Path, made: Path, file: str, changes: Mapping[str, str]) -> Path:
    """A tree at ``made`` in which one file says something else; what lies elsewhere are links."""
    for folder in ("tools", "ppocr/utils"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(tree / folder, made / folder, ignore=ignored)
    for item in (tree / "ppocr").iterdir():
        if item.name not in ("utils", "__pycache__"):
            (made / "ppocr" / item.name).symlink_to(item)
    text = (made / file).read_text(encoding="utf-8")
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    (made / file).write_text(text, encoding="utf-8")
    return made
