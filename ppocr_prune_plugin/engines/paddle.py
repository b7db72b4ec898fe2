"""Paddle Inference on the CPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import PruneError
from .interface import PADDLE, Array, Engine, Input, Session

# How a model runs, as it is told to people.
EVERYTHING = "oneDNN on"
CONVOLUTIONS = "oneDNN on for convolutions"
OFF = "oneDNN off"


class PaddleInference(Engine):
    """Exported Paddle models as they are."""

    name = "paddle"
    title = "Paddle Inference"
    takes = PADDLE
    module = "paddle"
    install = "pip install paddlepaddle"

    @classmethod
    def version(cls) -> str:
        import paddle

        return str(paddle.__version__)

    def load(self, model: Path) -> Session:
        return Predictor(model, self.threads, EVERYTHING if self.onednn else OFF)


class Predictor(Session):
    """An exported model.

    Paddle 3.3.0 and 3.3.1 cannot run every operator of an exported detector with oneDNN (the
    scale of an interpolation is a list of doubles, which its oneDNN part does not read). Where
    that happens, only what Paddle fuses into convolutions stays there; ``onednn`` says which.
    """

    def __init__(self, prefix: Path, threads: int = 1, onednn: str = EVERYTHING) -> None:
        """Args:
        prefix: path of the model without an extension.
        threads: of the CPU.
        onednn: how to run it at first: one of the constants of this module.

        Raises:
            PruneError: no model there, or this Paddle has no oneDNN and is asked for it.
        """
        if onednn != OFF:
            require_onednn()
        self._prefix, self._threads = prefix, threads
        self.onednn = onednn
        self._predictor: Any = self._create()
        stated = _stated_inputs(model_files(prefix)[0])
        images = (-1, -1, -1, -1)  # where the file does not say it
        self.inputs = tuple(
            stated.get(name, Input(name, images, "float32"))
            for name in self._predictor.get_input_names()
        )

    def __call__(self, *inputs: Array) -> list[Array]:
        """All outputs for these inputs."""
        self.prepare(inputs)
        return self.outputs()

    def outputs(self) -> list[Array]:
        predictor = self._predictor
        names = predictor.get_output_names()
        return [predictor.get_output_handle(name).copy_to_cpu() for name in names]

    def prepare(self, arrays: Sequence[Array]) -> None:
        try:
            self._set(arrays)
            self._predictor.run()
        except NotImplementedError:
            if self.onednn != EVERYTHING:
                raise
            self.onednn = CONVOLUTIONS
            self._predictor = self._create()
            self._set(arrays)
            self._predictor.run()

    def run(self) -> None:
        self._predictor.run()

    @property
    def how(self) -> str:
        return self.onednn

    def _set(self, inputs: Sequence[Array]) -> None:
        for name, array in zip(self._predictor.get_input_names(), inputs, strict=False):
            self._predictor.get_input_handle(name).copy_from_cpu(array)

    def _create(self) -> Any:
        from paddle import inference

        config = inference.Config(*map(str, model_files(self._prefix)))
        config.disable_gpu()
        config.disable_glog_info()
        if self.onednn == OFF:
            config.disable_mkldnn()
        else:
            config.enable_mkldnn()
            # Compiled kernels are kept for this many shapes; by default none is ever dropped.
            config.set_mkldnn_cache_capacity(10)
        if self.onednn == CONVOLUTIONS:
            config.delete_pass("onednn_placement_pass")
        config.set_cpu_math_library_num_threads(self._threads)
        return inference.create_predictor(config)


def require_onednn() -> None:
    """Raises :class:`PruneError` where this Paddle was built without oneDNN."""
    from paddle.base import core

    if not (core.is_compiled_with_mkldnn()):
        raise PruneError(
            "Prune.latency.onednn is true, but this Paddle was built without oneDNN. Set "
            "Prune.latency.onednn=false, or measure with a Paddle that has it."
        )


def model_files(prefix: Path) -> tuple[Path, Path]:
    """The program file of an exported model (PIR or old format), and that of its weights.

    Raises:
        PruneError: there is no program.
    """
    for suffix in (".json", ".pdmodel"):
        path = prefix.with_name(prefix.name + suffix)
        if path.is_file():
            return path, prefix.with_name(prefix.name + ".pdiparams")
    raise PruneError(f"{prefix.parent} holds no exported model ({prefix.name}.json or .pdmodel)")


def _stated_inputs(program: Path) -> dict[str, Input]:
    """Inputs by name, as a program in JSON states them; none of an older form."""
    if program.suffix != ".json":
        return {}
    found = {}
    try:
        content = json.loads(program.read_bytes())
        for operation in content["program"]["regions"][0]["blocks"][0]["ops"]:
            if operation["#"].endswith(".data"):
                own = {item["N"]: item["AT"]["D"] for item in operation["A"]}
                name, shape = str(own["name"]), tuple(map(int, own["shape"]))
                found[name] = Input(name, shape, str(own["dtype"]))
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise PruneError(f"{program}: is not an exported model ({error!r})") from error
    return found
