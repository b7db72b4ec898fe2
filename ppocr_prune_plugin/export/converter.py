"""ONNX files as they are deployed: converted by ``paddle2onnx``, and rewritten for speed.

Nothing is compared here; :mod:`.onnx_file` does that for what users are given.
"""

from __future__ import annotations

import importlib.util
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

from ..engines.process import Failure, Process
from ..errors import PruneError
from .onnx_graph import rewrite
from .program_file import load_program
from .versions import retag

OPSET = 14  # of operators, unless another is asked for
_NEEDED = ("paddle2onnx", "onnx")
# The last that there is a paddle2onnx for (2.1.0, the newest), and what to do in a later one.
LAST_PYTHON = (3, 12)
OTHER_PYTHON = (
    "an environment of Python 3.10 to 3.12, where `ppocr-prune onnx` takes what was exported here"
)


def require_converter(what: str, packages: Iterable[str] = _NEEDED) -> None:
    """Raise :class:`PruneError` that says how to install what is missing for something."""
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if not missing:
        return
    install = 'pip install "ppocr-prune-plugin[onnx]"'
    if "paddle2onnx" in missing and sys.version_info[:2] > LAST_PYTHON:
        install = f"{no_converter()}: {install} in {OTHER_PYTHON}"
    raise PruneError(
        f"{what} needs packages that are not installed: {', '.join(missing)}. {install}"
    )


def no_converter() -> str:
    """What this Python has no release of ``paddle2onnx`` for."""
    return "There is no paddle2onnx for Python {}.{}".format(*sys.version_info)


def readable(prefix: Path, copy: Path, wide: bool) -> Path:
    """An exported model for who reads such tags of scales (:mod:`.versions`): itself, or a copy
    where it has others. Both paths are without extensions."""
    if not Path(f"{prefix}.json").is_file():
        return prefix
    program = load_program(prefix)
    if not retag(program, wide):
        return prefix
    program.save(copy)
    return copy


def to_onnx(
    prefix: Path, target: Path, process: Process, opset: int = OPSET, rewritten: bool = True
) -> None:
    """Convert an exported model.

    Args:
        prefix: of the model, without an extension.
        target: the .onnx file.
        process: converts; ``paddle2onnx`` ends the process that it is called in on what it cannot
            convert.
        opset: version of the operator set; raised where the model needs a newer one.
        rewritten: whether the graph is rewritten for speed (:mod:`.onnx_graph`).

    Raises:
        Failure: it cannot be converted.
        PruneError: its files cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-onnx-") as folder:
        source = readable(prefix, Path(folder) / "narrow", wide=False)
        try:
            process.ask("convert", source=str(source), target=str(target), opset=opset)
        except Failure as error:
            raise Failure(f"{prefix}: paddle2onnx cannot convert this model: {error}") from error
    if rewritten:
        import onnx

        model = onnx.load(str(target))
        rewrite(model)
        onnx.save(model, str(target))
