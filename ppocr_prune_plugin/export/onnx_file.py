"""ONNX files of exported models for users: converted, checked in ONNX Runtime, and described."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import yaml

from ..engines.interface import Input
from ..engines.onnx_runtime import OnnxRuntime
from ..engines.paddle import OFF, Predictor
from ..engines.process import Process
from ..errors import PruneError, quoted
from ..files import replacing
from .check import Differs, Reference
from .converter import readable, require_converter, to_onnx
from .exported import flat
from .versions import reads_wide_tags

Array = npt.NDArray[Any]

TOLERANCE = 1e-4  # of what each output varies by
# Heights and widths that detectors take, for models that do not state theirs.
_SIZES = ((320, 320), (480, 640))
_RESIZES = ("RecResizeImg", "ClsResizeImg", "SVTRRecResizeImg")  # transforms that state a size
_SECONDS = 600
_NEEDED = ("paddle2onnx", "onnx", "onnxruntime")
_AGAIN = "Export the model again, or move the file away."


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

    require_converter("converting to ONNX", _NEEDED)
    prefix = find_model(folder)
    if target.exists():
        raise PruneError(f"{target}: is there already, and is left as it is; name another file.")
    settings = _inference_settings(folder)
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-onnx-") as temporary:
        work = Path(temporary)
        own = readable(prefix, work / "own", reads_wide_tags(paddle.__version__))
        written = work / "model.onnx"
        with contextlib.closing(Process(_SECONDS)) as process:
            to_onnx(prefix, written, process, opset)
        characters, unreadable = _describe(written, settings)
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


def _describe(path: Path, settings: Mapping[str, Any]) -> tuple[int, str]:
    """Add what ONNX-based OCR runtimes read: a recogniser's characters, one a line. Returns how
    many, and why there are none although the model has some."""
    import onnx

    model = onnx.load(str(path))
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
