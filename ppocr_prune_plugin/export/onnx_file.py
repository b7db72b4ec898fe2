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

import numpy as np
import numpy.typing as npt
import yaml

from ..errors import PruneError
from ..files import replacing
from .program_file import load_program
from .versions import reads_wide_tags, retag

Array = npt.NDArray[Any]

TOLERANCE = 1e-4  # of the spread of each output
OPSET = 13  # of operators, unless another is asked for
_SECONDS = 600
_NEEDED = ("paddle2onnx", "onnx", "onnxruntime")
# Paddle2ONNX ends a process on what it cannot convert, so that it gets one of its own.
_CONVERT = (
    "import sys, paddle2onnx; paddle2onnx.export(sys.argv[1], sys.argv[2], sys.argv[3], "
    "opset_version=int(sys.argv[4]), auto_upgrade_opset=True, verbose=False)"
)


@dataclass(frozen=True)
class Converted:
    """What was written: the largest difference of any output, as a share of its spread, with the
    shapes of what it was compared on, and the number of characters that the file carries."""

    difference: float
    shapes: tuple[tuple[int, ...], ...]
    characters: int


def convert(folder: Path, target: Path, opset: int, sizes: Sequence[tuple[int, int]]) -> Converted:
    """Convert an exported model.

    Args:
        folder: PaddleOCR's ``save_inference_dir``.
        target: the .onnx file to write.
        opset: version of the operator set; raised where the model needs a newer one.
        sizes: (height, width) of images to compare on, where the model takes any.

    Raises:
        PruneError: packages or files are missing, or the conversion fails or computes something
            else; nothing is written then.
    """
    import paddle

    require_packages()
    prefix = find_model(folder)
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-onnx-") as temporary:
        work = Path(temporary)
        source = convertible(prefix, work / "model")
        readable = prefix if reads_wide_tags(paddle.__version__) else source
        written = work / "model.onnx"
        run_converter(source, written, opset)
        characters = _add_metadata(written, folder)
        difference, shapes = _compare(readable, written, sizes)
        if not difference <= TOLERANCE:
            raise PruneError(
                f"{target}: ONNX Runtime gives another result than Paddle: they differ by "
                f"{difference:.1e} of the spread of an output (allowed: {TOLERANCE:g}) on "
                f"{' and '.join(map(str, shapes))}. Nothing was written; try another --opset."
            )
        with replacing(target) as final:
            final.write(written.read_bytes())
    return Converted(difference, shapes, characters)


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
    program = next(p for s in (".json", ".pdmodel") if (p := Path(f"{prefix}{s}")).is_file())
    command = [sys.executable, "-c", _CONVERT, str(program), f"{prefix}.pdiparams"]
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


def _add_metadata(path: Path, folder: Path) -> int:
    """Write what ONNX-based OCR runtimes read: a recogniser's characters, one a line."""
    import onnx

    settings = _inference_settings(folder)
    characters = (settings.get("PostProcess") or {}).get("character_dict")
    values = {"character": "\n".join(map(str, characters))} if characters else {}
    name = (settings.get("Global") or {}).get("model_name")
    if name:
        values["model_name"] = str(name)
    if values:
        model = onnx.load(str(path))
        onnx.helper.set_model_props(model, values)
        onnx.save(model, str(path))
    return len(characters or ())


def _inference_settings(folder: Path) -> Mapping[str, Any]:
    path = (folder if folder.is_dir() else folder.parent) / "inference.yml"
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, yaml.YAMLError) as error:
        raise PruneError(f"{path}: cannot be read: {type(error).__name__}") from error
    return content if isinstance(content, dict) else {}


def _compare(
    prefix: Path, path: Path, sizes: Sequence[tuple[int, int]]
) -> tuple[float, tuple[tuple[int, ...], ...]]:
    """Largest difference as a share of an output's spread, and the shapes that were tried."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    predictor = _predictor(prefix)
    worst, shapes = 0.0, []
    for size in sizes:
        feed = {item.name: _example(item, size) for item in session.get_inputs()}
        shape = next(iter(feed.values())).shape
        if shape in shapes:
            continue
        shapes.append(shape)
        expected = _run_paddle(predictor, feed)
        for found, right in zip(session.run(None, feed), expected, strict=True):
            spread = float(right.max() - right.min()) or 1.0
            worst = max(worst, float(np.abs(found - right).max()) / spread)
    return worst, tuple(shapes)


def _example(item: Any, size: tuple[int, int]) -> Array:
    """Strokes for an image, and something of the right shape for what else there is."""
    from ..network import random_inputs

    known = [length if isinstance(length, int) and length > 0 else None for length in item.shape]
    if len(known) == 4:
        shape = [known[0] or 1, known[1] or 3, known[2] or size[0], known[3] or size[1]]
    else:
        shape = [length or 1 for length in known]
    dtype = {"tensor(float)": "float32", "tensor(int64)": "int64"}.get(item.type)
    if dtype is None:
        raise PruneError(f"the model takes {item.name} of {item.type}, which cannot be made up")
    array: Array = random_inputs([(shape, dtype)])[0]
    return array


def _predictor(prefix: Path) -> Any:
    import paddle

    program = next(p for s in (".json", ".pdmodel") if (p := Path(f"{prefix}{s}")).is_file())
    settings = paddle.inference.Config(str(program), f"{prefix}.pdiparams")
    settings.disable_gpu()
    settings.disable_glog_info()
    settings.disable_mkldnn()
    return paddle.inference.create_predictor(settings)


def _run_paddle(predictor: Any, feed: Mapping[str, Array]) -> list[Array]:
    for name in predictor.get_input_names():
        predictor.get_input_handle(name).copy_from_cpu(feed[name])
    predictor.run()
    return [predictor.get_output_handle(n).copy_to_cpu() for n in predictor.get_output_names()]
