"""ONNX files of exported models: converted by ``paddle2onnx``, checked in ONNX Runtime."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml

from ..engines.interface import Input
from ..engines.onnx_runtime import OnnxRuntime
from ..engines.paddle import OFF, Predictor, model_files
from ..errors import PruneError, quoted
from ..files import replacing
from .check import Differs, Reference
from .exported import flat
from .onnx_graph import rewrite
from .program_file import load_program
from .versions import reads_wide_tags, retag

Array = npt.NDArray[Any]

TOLERANCE = 1e-4  # of what each output varies by
# Heights and widths that detectors take, for models that do not state theirs.
_SIZES = ((320, 320), (480, 640))
_RESIZES = ("RecResizeImg", "ClsResizeImg", "SVTRRecResizeImg")  # transforms that state a size
_SECONDS = 600
OPSET = 14  # of operators, unless another is asked for
_NEEDED = ("paddle2onnx", "onnx", "onnxruntime")
_AGAIN = "Export the model again, or move the file away."
# Paddle2ONNX ends a process on what it cannot convert, so that it gets one of its own.
_CONVERT = (
    "import sys, paddle2onnx; paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], "
    "opset_version=int(sys.argv[4]), auto_upgrade_opset=True, verbose=False)"
)


@dataclass(frozen=True)
class Converted:
    """What was written.

    ``difference`` is the largest of any output as a share of what it varies by (None: nothing could
    be compared, for the reason ``why``), on inputs of the ``shapes``. ``characters`` counts those
    that the file carries; ``unreadable`` is why it carries none, although the model has some.
    """

    difference: float | None
    shapes: tuple[tuple[int, ...], ...]
    characters: int
    why: str = ""
    unreadable: str = ""


def convert(
    folder: Path, target: Path, opset: int, sizes: Sequence[tuple[int, int]] = ()
) -> Converted:
    """Convert an exported model.

    Args:
        folder: PaddleOCR's ``save_inference_dir``.
        target: the .onnx file to write; it must not be there.
        opset: version of the operator set; raised where the model needs a newer one.
        sizes: (height, width) of images to compare on, where the model takes any; by default those
            that the model states in ``inference.yml``, or else some that detectors take.

    Raises:
        PruneError: packages or files are missing, the target is there, or the conversion fails or
            computes something else; nothing is written then.
    """
    import paddle

    require_packages()
    prefix = find_model(folder)
    if target.exists():
        raise PruneError(f"{target}: is there already, and is left as it is; name another file.")
    settings = _inference_settings(folder)
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-onnx-") as temporary:
        work = Path(temporary)
        narrow, own = _readable(prefix, work, reads_wide_tags(paddle.__version__))
        written = work / "model.onnx"
        run_converter(narrow, written, opset)
        characters, unreadable = _finish(written, settings)
        try:
            difference, shapes, why = _compare(own, written, sizes or _sizes(settings))
        except Differs as error:
            raise PruneError(
                f"{target}: ONNX Runtime gives another result than Paddle: {error}. Nothing was "
                "written; try the size that the model was made for (--size 48x192), or another "
                "--opset."
            ) from error
        with replacing(target) as final:
            final.write(written.read_bytes())
    return Converted(difference, shapes, characters, why, unreadable)


def _readable(prefix: Path, work: Path, wide: bool) -> tuple[Path, Path]:
    """The model as paddle2onnx reads it, and as this Paddle does, which reads ``wide`` tags or
    others; written into ``work`` where it is neither."""
    narrow = convertible(prefix, work / "narrow")
    if not wide or not Path(f"{prefix}.json").is_file():
        return narrow, narrow
    program = load_program(prefix)
    if not retag(program, wide=True):
        return narrow, prefix
    program.save(work / "wide")
    return narrow, work / "wide"


def convertible(prefix: Path, copy: Path) -> Path:
    """An exported model as ``paddle2onnx`` reads it: itself, or a copy that is mended."""
    if not Path(f"{prefix}.json").is_file():
        return prefix
    program = load_program(prefix)
    if not retag(program, wide=False):
        return prefix
    program.save(copy)
    return copy


def require_packages() -> None:
    """Raise :class:`PruneError` that says how to install what is missing."""
    _require("converting to ONNX", _NEEDED)


def require_converter(what: str) -> None:
    """The same of what is needed to convert alone, for something that needs that."""
    _require(what, ("paddle2onnx", "onnx"))


def _require(what: str, packages: Iterable[str]) -> None:
    missing = [name for name in packages if importlib.util.find_spec(name) is None]
    if missing:
        raise PruneError(
            f"{what} needs packages that are not installed: {', '.join(missing)}. "
            'pip install "ppocr-prune-plugin[onnx]"'
        )


def find_model(folder: Path) -> Path:
    """The exported model in a folder (or named by its prefix), as a path without an extension.

    Raises:
        PruneError: there is none.
    """
    candidates = [folder / "inference", folder / "model"]
    if folder.name:
        candidates.append(folder.with_suffix(""))
    for prefix in candidates:
        for suffix in (".json", ".pdmodel"):
            if Path(f"{prefix}{suffix}").is_file() and Path(f"{prefix}.pdiparams").is_file():
                return prefix
    raise PruneError(
        f"{folder}: holds no exported model: inference.json (or .pdmodel) and inference.pdiparams "
        "are what tools/export_model.py writes to Global.save_inference_dir."
    )


def run_converter(prefix: Path, target: Path, opset: int) -> None:
    """Convert a model that is :func:`convertible`, without comparing.

    Raises:
        PruneError: it cannot be converted.
    """
    command = [sys.executable, "-c", _CONVERT, *map(str, model_files(prefix))]
    environment = {**os.environ, "PPOCR_PRUNE": "0"}
    try:
        done = subprocess.run(
            [*command, str(target), str(opset)],
            capture_output=True, text=True, timeout=_SECONDS, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise PruneError(f"{prefix}: paddle2onnx was not done after {_SECONDS} s") from error
    if done.returncode or not target.is_file():
        said = [line.strip() for line in (done.stdout + done.stderr).splitlines() if line.strip()]
        told = [line for line in said if "ERROR" in line or "Error" in line] or said[-1:]
        raise PruneError(
            f"{prefix}: paddle2onnx cannot convert this model (it ended with {done.returncode}): "
            f"{' '.join(told)[:500]}"
        )


def _finish(path: Path, settings: Mapping[str, Any]) -> tuple[int, str]:
    """Rewrite the graph for speed, and add what ONNX-based OCR runtimes read: a recogniser's
    characters, one a line. Returns how many, and why there are none although the model has some."""
    import onnx

    model = onnx.load(str(path))
    rewrite(model)
    values, unreadable = {}, ""
    characters = (settings.get("PostProcess") or {}).get("character_dict")
    # Formula recognisers have a tokenizer there.
    texts = [str(item) for item in characters] if isinstance(characters, list) else []
    if texts and "\n".join(texts).splitlines() == texts:
        values["character"] = "\n".join(texts)
    elif texts:
        broken = next((k for k, text in enumerate(texts) if text.splitlines() != [text]), 0)
        texts, unreadable = [], f"number {broken + 1} is empty or ends a line: {texts[broken]!r}"
    name = (settings.get("Global") or {}).get("model_name")
    if name:
        values["model_name"] = str(name)
    if values:
        onnx.helper.set_model_props(model, values)
    onnx.save(model, str(path))
    return len(texts), unreadable


def _inference_settings(folder: Path) -> Mapping[str, Any]:
    path = (folder if folder.is_dir() else folder.parent) / "inference.yml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise PruneError(f"{path}: cannot be read: {type(error).__name__}. {_AGAIN}") from error
    if not isinstance(content, dict):
        raise PruneError(f"{path}: holds no settings of a model. {_AGAIN}")
    for name in ("Global", "PreProcess", "PostProcess"):
        if not isinstance(content.get(name), dict | None):
            raise PruneError(f"{path}: {name} is {quoted(content[name])}, not a mapping. {_AGAIN}")
    return content


def _sizes(settings: Mapping[str, Any]) -> Sequence[tuple[int, int]]:
    """Two sizes that a model takes: what its transforms state and twice that width, or
    detectors'."""
    transforms = (settings.get("PreProcess") or {}).get("transform_ops") or ()
    for transform in transforms:
        for name in _RESIZES:
            shape = ((transform or {}).get(name) or {}).get("image_shape")
            if isinstance(shape, list) and len(shape) == 3 and min(shape[1:]) > 0:
                return ((shape[1], shape[2]), (shape[1], 2 * shape[2]))
    return _SIZES


class _OnnxModel:
    """An .onnx file that runs in ONNX Runtime, on one thread."""

    def __init__(self, path: Path) -> None:
        try:
            self._session = OnnxRuntime().load(path)
        except Exception as error:  # whatever ONNX Runtime raises
            raise PruneError(
                f"ONNX Runtime cannot load what paddle2onnx wrote: {error}. Nothing was written; "
                "try another --opset."
            ) from error

    def inputs(self, size: tuple[int, int]) -> dict[str, tuple[list[int], str]]:
        """Name → shape and element type, images of that size where it takes any."""
        return {item.name: _spec(item, size) for item in self._session.inputs}

    def run(self, inputs: Sequence[Sequence[Any]]) -> list[list[Array]]:
        found = []
        for arrays in inputs:
            self._session.prepare(flat(arrays))
            found.append(self._session.outputs())
        return found

    def weights(self) -> dict[str, Array]:
        return {}  # converting gives them other names and shapes


def _compare(
    prefix: Path, path: Path, sizes: Sequence[tuple[int, int]]
) -> tuple[float | None, tuple[tuple[int, ...], ...], str]:
    """The largest difference as a share of what an output varies by, or why nothing can be said;
    and the shapes that were tried between them."""
    model, predictor = _OnnxModel(path), Predictor(prefix, onednn=OFF)
    found, shapes, why = [], [], ""
    for size in sizes:
        inputs = model.inputs(size)
        shape = tuple(next(iter(inputs.values()))[0])
        if shape in shapes:
            continue
        shapes.append(shape)
        names = list(inputs)

        def run(arrays: Sequence[Any], names: list[str] = names) -> list[Array]:
            feed = dict(zip(names, flat(arrays), strict=True))
            return predictor(*(feed[item.name] for item in predictor.inputs))

        try:
            agreement = Reference(run, list(inputs.values()), TOLERANCE).compare(model, {})
        except PruneError:
            raise
        except Exception as error:  # whatever Paddle or ONNX Runtime raises
            lines = [line.strip() for line in str(error).splitlines() if "rror" in line]
            said = lines[-1] if lines else type(error).__name__
            raise PruneError(
                f"{prefix}: the model does not take {'x'.join(map(str, shape))}: {said[:300]}. "
                "Nothing was written; name sizes that it takes, such as --size 48x320."
            ) from error
        if agreement.difference is None:
            why = agreement.why
        else:
            found.append(agreement.difference)
    return (max(found) if found else None), tuple(shapes), "" if found else why


def _spec(item: Input, size: tuple[int, int]) -> tuple[list[int], str]:
    """Shape and element type of an input; an image of ``size`` where any is taken."""
    otherwise = [1, 3, *size] if len(item.shape) == 4 else [1] * len(item.shape)
    if item.dtype not in ("float32", "int64", "int32"):
        raise PruneError(f"the model takes {item.name} of {item.dtype}, which cannot be made up.")
    shape = [own if own > 0 else other for own, other in zip(item.shape, otherwise, strict=True)]
    return shape, item.dtype
