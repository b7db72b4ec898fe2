"""Time exported models beside each other, in the engines that are installed."""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..engines import Engine, engine_class, installed
from ..engines.interface import ONNX
from ..engines.paddle import model_files
from ..engines.process import Failure, Process, request_of
from ..engines.turns import BUSY, disturbance_of
from ..errors import PruneError
from ..export.converter import require_converter, to_onnx
from ..export.onnx_file import find_model
from ..report.lines import text_table

# Seconds that all rounds together may take.
_PATIENCE = 24 * 3600.0
# Sides of an image where a model takes any.
_SIDE = 640


@dataclass(frozen=True)
class Result:
    """One model in one engine: milliseconds of one run, ``ratio`` to the first model there, and
    bytes (``memory``: most that a process held which ran it alone, None where that is not known).
    """

    engine: str
    model: str
    median: float
    p90: float
    ratio: float
    memory: int | None
    size: int
    shape: tuple[int, ...]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "models", type=Path, nargs="+", metavar="MODEL",
        help="what tools/export_model.py has written (a folder), or an .onnx file",
    )  # fmt: skip
    parser.add_argument(
        "--engine", action="append", metavar="NAME",
        help="openvino, onnxruntime, paddle or one of your own; may be given several times"
        " (default: all that are installed)",
    )  # fmt: skip
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="of the CPU (default: %(default)s)"
    )
    parser.add_argument(
        "--batch", type=int, default=1, metavar="N", help="images per run (default: %(default)s)"
    )
    parser.add_argument(
        "--shape", metavar="CxHxW",
        help="of an image, such as 3x640x640 (default: what the model says;"
        f" {_SIDE} pixels where it takes any, and 20 lines' heights of width)",
    )  # fmt: skip
    parser.add_argument(
        "--rounds", type=int, default=30, metavar="N",
        help="runs of every model (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")


def run(args: argparse.Namespace) -> int:
    """Time and print. Raises :class:`PruneError`."""
    for key in ("threads", "batch", "rounds"):
        if getattr(args, key) < 1:
            raise PruneError(f"--{key} is {getattr(args, key)}; it has to be 1 or more.")
    shape = None if args.shape is None else _shape(args.shape)
    engines = [engine_class(name) for name in args.engine] if args.engine else _usable()
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-bench-") as folder:
        bench = _Bench(Path(folder), engines, bool(args.engine), args.threads, args.batch, shape)
        results, disturbance = bench.run(args.models, args.rounds)
    if disturbance > BUSY:
        print(
            "the machine is busy: half of the runs took over "
            f"{disturbance:.0%} longer than the fastest; stop other programs and measure again",
            file=sys.stderr,
        )
    if args.json:
        print(json.dumps([asdict(result) for result in results], indent=1))
    else:
        for line in _table(results, args):
            print(line)
    return 0


def _usable() -> list[type[Engine]]:
    """All that are installed; of those that cannot be used the reason is said."""
    found = []
    for name in installed():
        try:
            found.append(engine_class(name))
        except PruneError as error:
            print(f"left out: {error}", file=sys.stderr)
    return found


def _shape(text: str) -> tuple[int, ...]:
    found = re.fullmatch(r"(\d+)[x,](\d+)[x,](\d+)", text)
    if found is None or "0" in found.groups():
        raise PruneError(f'--shape is "{text}"; write channels, height and width as 3x640x640.')
    return tuple(int(number) for number in found.groups())


class _Bench:
    def __init__(
        self,
        folder: Path,
        engines: Sequence[type[Engine]],
        named: bool,
        threads: int,
        batch: int,
        shape: tuple[int, ...] | None,
    ) -> None:
        self._folder, self._engines, self._named = folder, engines, named
        self._threads, self._batch, self._shape = threads, batch, shape

    def run(self, models: Sequence[Path], rounds: int) -> tuple[list[Result], float]:
        """All models in all engines in turns; and by what share runs were disturbed."""
        files = [_File(path, self._folder / str(place)) for place, path in enumerate(models)]
        pairs = [(engine, file) for engine in self._engines for file in files]
        ready = []
        for engine, file in tqdm(pairs, desc="load", unit="model", disable=None):
            try:
                ready.append((engine, file, *self._alone(engine, file)))
            except Failure as error:
                names = [name for name in installed() if name != engine.name]
                others = ", ".join(e.name for e in self._engines if e is not engine)
                said = (
                    f"{file.path}: {engine.title} {engine.version()} cannot run this model: {error}"
                )
                if self._named or not others:
                    raise PruneError(
                        f"{said}. Try another engine: {', '.join(names) or 'none is installed'}."
                    ) from error
                print(f"{said}. Left out; the others are {others}.", file=sys.stderr)
            except PruneError as error:
                raise PruneError(f"{file.path}: {error}") from error
        if not ready:
            raise PruneError("no engine can run any of these models")
        with contextlib.closing(Process(_PATIENCE)) as process:
            asked = [request for *_, request in ready]
            times = process.ask("time", models=asked, seconds=1e9, rounds=[rounds, rounds])["times"]
        first: dict[str, float] = {}
        results = []
        for (engine, file, memory, shape, _), found in zip(ready, times, strict=True):
            median = statistics.median(found)
            base = first.setdefault(engine.name, median)
            p90 = sorted(found)[min(int(0.9 * len(found)), len(found) - 1)]
            results.append(
                Result(
                    f"{engine.title} {engine.version()}", str(file.path), median, p90,
                    median / base, memory, file.size(engine), shape,
                )
            )  # fmt: skip
        return results, disturbance_of(times)

    def _alone(
        self, engine: type[Engine], file: _File
    ) -> tuple[int | None, tuple[int, ...], dict[str, Any]]:
        """Run a model in a process of its own: memory, the shape of its image, and the request."""
        path = file.for_engine(engine)
        with contextlib.closing(Process()) as process:
            request = request_of(engine.name, path, self._threads, True, [])
            inputs = process.ask("inputs", model=request)["inputs"]
            sizes = [self._size(shape) for _, shape, _ in inputs]
            request["sizes"] = sizes
            memory = process.ask("run", model=request)["memory"]
        return memory, tuple(sizes[0]), request

    def _size(self, stated: Sequence[int]) -> list[int]:
        if len(stated) != 4:
            return [max(size, 1) for size in stated]
        if self._shape is not None:
            return [self._batch, *self._shape]
        channels, height, width = stated[1:]
        if width < 0:
            width = _SIDE if height < 0 else round(height * 20 / 3)
        height = _SIDE if height < 0 else height
        return [self._batch, channels if channels > 0 else 3, height, width]


class _File:
    """A model as the user names it, and as an engine takes it."""

    def __init__(self, path: Path, work: Path) -> None:
        """Raises :class:`PruneError` where there is no model."""
        self.path, self._work = path, work
        if path.suffix == ".onnx":
            if not path.is_file():
                raise PruneError(f"{path}: there is no such file.")
            self._prefix: Path | None = None
            self._onnx: Path | None = path
        else:
            self._prefix, self._onnx = find_model(path), None

    def for_engine(self, engine: type[Engine]) -> Path:
        """The model in the form that this engine takes, as ``ppocr-prune onnx`` converts it.

        Raises:
            Failure: it cannot be had in this form.
        """
        if engine.takes != ONNX:
            if self._prefix is None:
                raise Failure("it is an ONNX file")
            return self._prefix
        if self._onnx is None:
            assert self._prefix is not None
            require_converter(engine.title)
            self._work.mkdir(exist_ok=True)
            target = self._work / "model.onnx"
            with contextlib.closing(Process()) as process:
                to_onnx(self._prefix, target, process)
            self._onnx = target
        return self._onnx

    def size(self, engine: type[Engine]) -> int:
        """Bytes of the files that this engine loads."""
        if engine.takes == ONNX:
            assert self._onnx is not None
            return self._onnx.stat().st_size
        assert self._prefix is not None
        return sum(path.stat().st_size for path in model_files(self._prefix))


def _table(results: Sequence[Result], args: argparse.Namespace) -> list[str]:
    threads = f"{args.threads} thread{'s' if args.threads > 1 else ''}"
    lines = [f"{args.rounds} runs each, in turns, {threads}; milliseconds"]
    for engine in dict.fromkeys(result.engine for result in results):
        rows = [
            [
                result.model, f"{result.median:.2f}", f"{result.p90:.2f}", f"{result.ratio:.2f}",
                "–" if result.memory is None else f"{result.memory / 1e6:.0f} MB",
                f"{result.size / 1e6:.2f} MB", "x".join(map(str, result.shape)),
            ]
            for result in results
            if result.engine == engine
        ]  # fmt: skip
        head = [engine, "median", "p90", "ratio", "memory", "file", "input"]
        lines += ["", *text_table(head, rows)]
    return lines
