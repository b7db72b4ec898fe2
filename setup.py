"""Adds the start-up files to the wheel; everything else is in pyproject.toml.

``startup/ppocr_prune_plugin.pth`` and ``.start`` must land at the root of site-packages, where
Python's ``site`` module reads them. A wheel puts there what lies at its own root, and because
both kinds of wheel (normal and editable) list the files in RECORD, uninstalling removes them.
"""

from __future__ import annotations

import base64
import hashlib
import os
import zipfile
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

STARTUP_FILES = ("ppocr_prune_plugin.pth", "ppocr_prune_plugin.start")
STARTUP_DIR = Path(__file__).parent / "startup"


class BuildWithStartupFiles(build_py):
    """The normal build: the files go to the root of the build library."""

    def run(self) -> None:
        super().run()
        if self.editable_mode:
            return  # an editable wheel does not take files from build_lib; see below
        os.makedirs(self.build_lib, exist_ok=True)
        for name in STARTUP_FILES:
            self.copy_file(str(STARTUP_DIR / name), os.path.join(self.build_lib, name))

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        outputs = list(super().get_outputs(include_bytecode))
        if not self.editable_mode:
            outputs += [os.path.join(self.build_lib, name) for name in STARTUP_FILES]
        return outputs


class EditableWithStartupFiles(editable_wheel):
    """The editable build: the files are added to the finished wheel.

    Working on the wheel itself depends on the wheel format only, not on the inner methods of
    setuptools, which change from release to release.
    """

    def run(self) -> None:
        super().run()
        dist_dir = Path(self.dist_dir or "dist")
        wheel = max(
            dist_dir.glob("ppocr_prune_plugin-*.whl"), key=lambda path: path.stat().st_mtime
        )
        _add_to_wheel(wheel, {name: (STARTUP_DIR / name).read_bytes() for name in STARTUP_FILES})


def _add_to_wheel(wheel: Path, added: dict[str, bytes]) -> None:
    """Put files at the root of a wheel and enter them in its RECORD."""
    temporary = wheel.with_suffix(".tmp")
    with (
        zipfile.ZipFile(wheel) as source,
        zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for info in source.infolist():
            data = source.read(info)
            if info.filename.endswith(".dist-info/RECORD"):
                data = "".join([_record_line(*item) for item in added.items()]).encode() + data
            target.writestr(info, data)
        for name, data in added.items():
            target.writestr(name, data)
    os.replace(temporary, wheel)


def _record_line(name: str, data: bytes) -> str:
    digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
    return f"{name},sha256={digest},{len(data)}\n"


setup(cmdclass={"build_py": BuildWithStartupFiles, "editable_wheel": EditableWithStartupFiles})
