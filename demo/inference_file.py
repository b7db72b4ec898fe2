"""Read and run inference models in Paddle's old format (``.pdmodel`` + ``.pdiparams``).

From Paddle 3.3 on, such a file loads only with ``FLAGS_enable_pir_api=0``, which has to be set
before ``paddle`` is imported and changes how the rest of that process traces models. Both
functions therefore work in a process of their own (this file, run as a script).
"""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float32]

_OUTPUT = "output:"


@functools.lru_cache(maxsize=3)
def read_parameters(prefix: Path) -> dict[str, Array]:
    """Return ``{variable name: array}`` of the parameters and statistics of ``prefix``.pdmodel, in
    the order in which its operations use them. Not to be changed: it is kept.

    Raises:
        FileNotFoundError: the model is not there.
        RuntimeError: Paddle cannot read it; the message has the end of its output.
    """
    return _run(prefix, None)[0]


def run_inference_model(prefix: Path, x: Array) -> Array:
    """Return the first output of the inference model for one input batch ``x`` (N, 3, H, W).

    Raises:
        FileNotFoundError: the model is not there.
        RuntimeError: Paddle cannot read or run it; the message has the end of its output.
    """
    return _run(prefix, x)[1][0]


def _run(prefix: Path, x: Array | None) -> tuple[dict[str, Array], list[Array]]:
    for suffix in (".pdmodel", ".pdiparams"):
        if not Path(f"{prefix}{suffix}").is_file():
            raise FileNotFoundError(f"{prefix}{suffix} is not there")
    with tempfile.TemporaryDirectory() as directory:
        source, target = os.path.join(directory, "in.npy"), os.path.join(directory, "out.npz")
        if x is not None:
            np.save(source, x)
        command = [sys.executable, __file__, str(prefix), source if x is not None else "", target]
        # PPOCR_PRUNE=0: this process is no PaddleOCR tool, and must not be taken for one.
        environment = dict(os.environ, FLAGS_enable_pir_api="0", PPOCR_PRUNE="0")
        done = subprocess.run(command, capture_output=True, text=True, env=environment)
        if done.returncode:
            raise RuntimeError(f"cannot read {prefix}.pdmodel:\n{done.stderr[-2000:]}")
        arrays = dict(np.load(target))
    outputs = sorted((name for name in arrays if name.startswith(_OUTPUT)), key=len)
    return (
        {name: array for name, array in arrays.items() if name not in outputs},
        [arrays[name] for name in outputs],
    )


def _main(prefix: str, source: str, target: str) -> None:
    import paddle

    paddle.enable_static()
    executor = paddle.static.Executor(paddle.CPUPlace())
    program, feeds, fetches = paddle.static.load_inference_model(prefix, executor)
    scope = paddle.static.global_scope()
    block = program.global_block()
    arrays = {
        name: np.array(scope.find_var(name).get_tensor())
        for operation in block.ops
        for name in operation.input_arg_names
        if block.var(name).persistable and name not in ("feed", "fetch")
    }
    if source:
        outputs = executor.run(program, feed={feeds[0]: np.load(source)}, fetch_list=fetches)
        arrays.update({f"{_OUTPUT}{index}": output for index, output in enumerate(outputs)})
    save: Any = np.savez  # NumPy 2 declares one more keyword, which is no array
    save(target, **arrays)


if __name__ == "__main__":
    _main(*sys.argv[1:])
