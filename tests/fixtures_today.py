"""PaddleOCR's tools of today over the networks of 2.10; no one package carries both."""

from __future__ import annotations

import hashlib
import re
import shutil
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest

_REQUIREMENTS = Path(__file__).parent.parent / "requirements" / "sources.txt"
# From the source archive, and from the package of 2.10.
_TODAY = ("tools", "ppocr/data", "ppocr/postprocess", "ppocr/utils")
_NETWORKS = ("ppocr/losses", "ppocr/metrics", "ppocr/modeling", "ppocr/optimizer")

# Today's train.py asks for a third thing, the schedule of the weight decay, and takes None.
_THIRD_RESULT = """

_build_optimizer = build_optimizer


def build_optimizer(*args, **kwargs):
    return (*_build_optimizer(*args, **kwargs), None)
"""


@pytest.fixture(scope="session")
def today_tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A PaddleOCR tree with the tools, data, post-processing and utilities of ``paddleocr`` 3.7
    (``train.py`` with weight averages, ``save_load``) and the networks and losses of 2.10."""
    networks = find_spec("unstructured_paddleocr")
    if networks is None or networks.origin is None:
        pytest.fail("unstructured-paddleocr, whose networks are needed, is not installed: make env")
    tree = tmp_path_factory.mktemp("today") / "PaddleOCR"
    with tarfile.open(_archive()) as archive:
        members = [member for member in archive.getmembers() if _below_root(member).parts]
        for member in members:
            member.name = str(_below_root(member))
            if member.name.startswith(tuple(f"{folder}/" for folder in _TODAY)):
                archive.extract(member, tree, filter="data")
    package = Path(networks.origin).parent
    ignored = shutil.ignore_patterns("__pycache__")
    for folder in _NETWORKS:
        shutil.copytree(package / folder, tree / folder, ignore=ignored)
    shutil.copy(package / "ppocr" / "__init__.py", tree / "ppocr")
    with open(tree / "ppocr" / "optimizer" / "__init__.py", "a", encoding="utf-8") as file:
        file.write(_THIRD_RESULT)
    return tree


def _below_root(member: tarfile.TarInfo) -> Path:
    """Where a member lies below the archive's one folder."""
    return Path(*Path(member.name).parts[1:])


def _archive() -> Path:
    """The archive that ``make env`` fetched, which is the one whose hash the requirements give."""
    found = re.search(r"^(\w+)==(\S+) --hash=sha256:(\w+)$", _REQUIREMENTS.read_text(), re.M)
    assert found, f"{_REQUIREMENTS} names no archive"
    name, version, digest = found.groups()
    path = Path(sys.prefix) / "sources" / f"{name}-{version}.tar.gz"
    if not path.is_file():
        pytest.fail(f"{path} is not there: make env, with VENV={sys.prefix}")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == digest, f"{path} is another archive"
    return path
