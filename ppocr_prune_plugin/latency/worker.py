"""A process that only times.

Paddle Inference sets the threads of the whole process and may crash it on an exotic CPU; neither
may happen to a training. Requests come and answers go as lines of JSON on two file descriptors.
"""

from __future__ import annotations

import faulthandler
import json
import os
import statistics
import sys
import time
from pathlib import Path
from typing import Any

import paddle

from ..errors import PruneError
from .predictor import Predictor, latencies, random_arrays


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Time the models of one request.

    Args:
        request: ``models`` (paths without extensions), ``inputs`` (``[[shape, dtype], …]`` of each
            model), ``threads``, ``onednn``, ``seconds`` (how long to measure, about), ``rounds``
            (at least and at most so many runs of each).
    """
    inputs = [random_arrays(shapes) for shapes in request["inputs"]]
    predictors = [
        Predictor(Path(path), request["threads"], request["onednn"]) for path in request["models"]
    ]
    for predictor, arrays in zip(predictors, inputs, strict=True):
        predictor.prepare(*arrays)
    start = time.perf_counter()
    for predictor in predictors:
        predictor.run()
    once = time.perf_counter() - start
    least, most = request["rounds"]
    rounds = int(min(max(request["seconds"] / max(once, 1e-9), least), most))
    times = latencies(predictors, inputs, rounds)
    return {
        # What else the machine does makes runs slower only: the fastest is nearest to the truth.
        "milliseconds": [min(found) for found in times],
        "medians": [statistics.median(found) for found in times],
        "onednn": predictors[-1].onednn,
    }


def serve(requests: Any, answers: Any) -> None:
    """Answer until there are no more requests."""
    for line in requests:
        try:
            content = answer(json.loads(line))
        except PruneError as error:
            content = {"error": str(error)}
        except Exception as error:  # whatever Paddle Inference raises
            lines = [part.strip() for part in str(error).splitlines() if part.strip()] or [""]
            content = {"failure": f"{type(error).__name__}: {lines[-1][:300]}"}
        answers.write(json.dumps(content) + "\n")
        answers.flush()


def main() -> None:
    """Serve on the file descriptors that the command line names."""
    # Paddle has handlers of its own, which are mute where its log is.
    paddle.disable_signal_handler()
    faulthandler.enable()
    with os.fdopen(int(sys.argv[1])) as requests, os.fdopen(int(sys.argv[2]), "w") as answers:
        serve(requests, answers)
