"""The demo: recover, render, evaluate, prune and fine-tune, evaluate, export, compare.

PaddleOCR's own tools do the work, each as a process of its own, started the way a user does.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ppocr_prune_plugin import __version__
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.boxes import HMEAN, OVERLAP, Fits
from ppocr_prune_plugin.hooks.adapters.tree import find_tree

from .configs import det_config, write_config
from .detector import Detector
from .exported import file_size, latencies
from .lines import cut_lines
from .published import NAMES, SOURCES, published_model
from .reading import Reader, countable, pages
from .render import render
from .side_by_side import draw_side_by_side
from .steps import Steps
from .weights import build, recover

_TOTAL_STEPS = 10


@dataclass(frozen=True)
class Settings:
    """Sizes of the demo, chosen to end within some minutes on two CPU cores.

    ``samples`` and ``ratios`` bound the sensitivity analysis: images per evaluation and
    evaluations per layer. ``side`` is the long side of evaluation images and of the timed square
    image, ``crop`` the side of training crops, in pixels.
    """

    seed: int = 0
    train_images: int = 64
    val_images: int = 16
    calibration_images: int = 24
    pruned_flops: float = 0.4
    ratios: tuple[float, ...] = (0.33, 0.5, 0.67)
    samples: int = 6
    epochs: int = 6
    learning_rate: float = 1e-3
    batch_size: int = 8
    crop: int = 320
    side: int = 640
    timing_rounds: int = 15
    threads: int = 1


def fetch_weights(
    work: Path, name: str, data: Path | None = None, settings: Settings | None = None
) -> Path:
    """Recover a published model's weights to ``work/weights/<name>.pdparams``, if not there yet.

    ``name`` is one of :data:`.published.NAMES`; ``data`` a folder as for :func:`run_demo`, whose
    training images calibrate the batch norms.

    Raises:
        PruneError: the model's package, or a PaddleOCR tree with its networks, is missing, or
            ``data`` has no labels.
    """
    settings = settings or Settings()
    release, kind = NAMES[name]
    target = work / "weights" / f"{name}.pdparams"
    if target.is_file():
        return target
    published_model(kind, release)  # before anything is rendered
    build(kind, release=release)
    folder = data or work / "data"
    if data is None:
        _render_set(folder, settings)
    images = _images(folder, "train")[: settings.calibration_images]
    if kind == "rec":
        images = cut_lines(folder, folder / "train.txt", work / "lines", 64)
    return recover(kind, target, images, release=release)


def run_demo(work: Path, settings: Settings | None = None, data: Path | None = None) -> str:
    """Run what is not done yet and return the table, which is also in ``work/summary.txt``.

    Args:
        work: where everything goes.
        settings: sizes; those of rendering do not count where ``data`` is given.
        data: a folder with ``train.txt`` and ``val.txt``, PaddleOCR's labels for detection with
            image names relative to it; None: render some images.

    Raises:
        PruneError: a package, a PaddleOCR tree, a hook or a label file is missing, or a tool fails;
            its log is in ``work/logs``.
    """
    return _Demo(work.resolve(), settings or Settings(), data and data.resolve()).run()


class _Demo:
    def __init__(self, work: Path, settings: Settings, data: Path | None) -> None:
        import paddle

        self.work, self.settings, self.rendered = work, settings, data is None
        self.data = data or work / "data"
        self.tree = find_tree()
        work.mkdir(parents=True, exist_ok=True)
        versions = {
            "plugin": __version__,
            "paddle": paddle.__version__,
            "tree": str(self.tree),
            "weights": SOURCES["v4", "det"].requirement,
        }
        if data is not None:
            versions["data"] = str(data)
        self.steps = Steps(work, versions, _TOTAL_STEPS - (not self.rendered))
        self.output = work / "output"
        self.weights = work / "weights" / "det"
        self.best = self.output / "best_accuracy"
        self.yaml = work / "det.yml"

    def run(self) -> str:
        s, step = self.settings, self.steps.run
        if self.rendered:
            rendering = {"train": s.train_images, "val": s.val_images, "seed": s.seed}
            labels = [self.data / "train.txt", self.data / "val.txt"]
            step("render", "Render images of text", rendering, labels, self._render)
        training, images = _images(self.data, "train"), _images(self.data, "val")
        calibration = {"images": s.calibration_images}
        recovered = [Path(f"{self.weights}.pdparams")]
        step(
            "recover",
            "Recover the detector's weights",
            calibration,
            recovered,
            functools.partial(self._recover, training[: s.calibration_images]),
        )
        self.config = det_config(
            self.data,
            self.output,
            epochs=s.epochs,
            batch_size=s.batch_size,
            crop=s.crop,
            eval_side=s.side,
            learning_rate=s.learning_rate,
        )
        write_config(self.config, self.yaml)
        before = step(
            "eval_before",
            "Evaluate the unpruned model",
            {"eval": self.config["Eval"], "post": self.config["PostProcess"]},
            [],
            functools.partial(self._evaluate, "eval_before", "pretrained_model", self.weights),
        )
        plan = Path(f"{self.best}.prune.json")
        options = [
            f"Prune.pruned_flops={s.pruned_flops}",
            f"Prune.sensitivity.samples={s.samples}",
            f"Prune.sensitivity.ratios=[{','.join(map(str, s.ratios))}]",
        ]
        trained = step(
            "train",
            f"Analyse, prune {s.pruned_flops:.0%} of the FLOPs, fine-tune",
            {"config": self.config, "options": options},
            [Path(f"{self.best}.pdparams"), plan],
            functools.partial(self._train, options),
        )
        after = step(
            "eval_after",
            "Evaluate the pruned model",
            {},
            [],
            functools.partial(self._evaluate, "eval_after", "checkpoints", self.best),
        )
        folders = []
        for name, weights in (("unpruned", self.weights), ("pruned", self.best)):
            folder = self.work / "inference" / name
            step(
                f"export_{name}",
                f"Export the {name} model",
                {},
                [folder / "inference.pdiparams"],
                functools.partial(self._export, name, weights, folder),
            )
            folders.append(folder)
        timing = {"side": s.side, "rounds": s.timing_rounds, "threads": s.threads}
        times = step(
            "latency",
            "Time both exported models side by side",
            timing,
            [],
            functools.partial(self._time, folders),
        )
        read = step(
            "read",
            "Read the lines that both exported models find",
            {"global": self.config["Global"]},
            [],
            functools.partial(self._read, folders),
        )
        drawing = self.work / "before_after.png"
        step(
            "drawing",
            "Draw what both models find",
            {},
            [drawing],
            functools.partial(self._draw, images[0], folders, drawing),
        )
        costs = json.loads(plan.read_text(encoding="utf-8"))
        rows = [
            _shares("hmean", before, after),
            _shares(HMEAN, *read["fits"]),
            _shares(OVERLAP, *read["fits"]),
            (f"lines read right, of {read['lines']}", str(read["right"][0]), str(read["right"][1])),
            _cost_row("FLOPs (G)", costs["flops"], 1e9),
            _cost_row("parameters (M)", costs["params"], 1e6),
            _row("exported files (MB)", [file_size(folder) / 1e6 for folder in folders]),
            _row("CPU latency (ms)", times["milliseconds"]),
        ]
        notes = [
            f"hmean: {len(images)}{' rendered' * self.rendered} images, long side {s.side}.",
            "hmean at 0.7, mean IoU (of boxes that match by 0.5) and lines read: of the exported"
            " models; read by PP-OCRv4's recogniser, which reads"
            f" {read['labelled']} lines right in the labelled polygons.",
            f"FLOPs: multiply-accumulates for 1×3×{s.side}×{s.side}.",
            f"Latency: Paddle Inference, {times['onednn']}, {s.threads} thread(s),"
            f" 1×3×{s.side}×{s.side}, median of {s.timing_rounds} rounds in turns.",
            f"Plan: {plan}",
            f"Drawing: {drawing}",
        ]
        if "right_after" in trained:
            notes.insert(
                1,
                f"Right after pruning, before fine-tuning: hmean {trained['right_after']:.4f} on"
                f" {s.samples} of them.",
            )
        text = "\n".join([_table(rows), "", *notes])
        (self.work / "summary.txt").write_text(text + "\n", encoding="utf-8")
        return f"\n{text}\n\nAll of it took {self.steps.elapsed():.0f} s."

    def _render(self) -> None:
        _render_set(self.data, self.settings, afresh=True)

    def _recover(self, images: list[Path]) -> None:
        recover("det", self.weights, images)

    def _evaluate(self, name: str, key: str, weights: Path) -> dict[str, Any]:
        output = self._tool(name, "eval.py", f"Global.{key}={weights}")
        found = re.findall(r"hmean:\s*([\d.eE+-]+)", output)
        if not found:
            raise PruneError(f"tools/eval.py printed no hmean ({self.work}/logs/{name}.log)")
        return {"hmean": float(found[-1])}

    def _train(self, options: list[str]) -> dict[str, Any]:
        # An interrupted run's sensitivity file saves its evaluations; another set-up's is refused.
        mark = self.output / "demo_key.txt"
        if not mark.is_file() or mark.read_text(encoding="utf-8") != self.steps.key:
            shutil.rmtree(self.output, ignore_errors=True)
            self.output.mkdir(parents=True)
            mark.write_text(self.steps.key, encoding="utf-8")
        for path in self.output.glob("best_accuracy.*"):
            path.unlink()
        output = self._tool(
            "train", "train.py", f"Global.pretrained_model={self.weights}", *options
        )
        found = re.search(r"hmean [\d.]+ -> ([\d.]+) right after pruning", output)
        return {"right_after": float(found[1])} if found else {}

    def _export(self, name: str, weights: Path, folder: Path) -> None:
        for path in folder.glob("inference.*"):
            path.unlink()
        self._tool(
            f"export_{name}",
            "export_model.py",
            f"Global.pretrained_model={weights}",
            f"Global.save_inference_dir={folder}",
            # Paddle 3.3 cannot export this tree's models in the old format.
            "Global.export_with_pir=True",
        )

    def _time(self, folders: list[Path]) -> dict[str, Any]:
        s = self.settings
        milliseconds, onednn = latencies(folders, s.side, s.timing_rounds, s.threads)
        return {"milliseconds": milliseconds, "onednn": onednn}

    def _read(self, folders: list[Path]) -> dict[str, Any]:
        shown = pages(self.data, self.data / "val.txt")
        reader, fits, right = Reader(), [], []
        for folder in folders:
            detector, counted = Detector(folder, self.config), Fits()
            boxes = [detector.boxes(page.image) for page in shown]
            for page, own in zip(shown, boxes, strict=True):
                counted.add(page.lines, page.ignored, own)
            fits.append(counted.figures())
            right.append(reader.right(shown, boxes))
        labelled = reader.right(shown, [page.lines for page in shown])
        return {"fits": fits, "right": right, "labelled": labelled, "lines": countable(shown)}

    def _draw(self, image: Path, folders: list[Path], out: Path) -> None:
        titles = ("before", f"{self.settings.pruned_flops:.0%} of FLOPs pruned")
        detectors = [Detector(folder, self.config) for folder in folders]
        draw_side_by_side(image, list(zip(titles, detectors, strict=True)), out)

    def _tool(self, name: str, tool: str, *options: str) -> str:
        script = self.tree / "tools" / tool
        return self.steps.command(name, [script, "-c", self.yaml, "-o", *options])


def _images(data: Path, part: str) -> list[Path]:
    """The images that a label file names, in its order."""
    labels = data / f"{part}.txt"
    try:
        lines = labels.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise PruneError(
            f"{labels}: {error.strerror}. The folder should hold train.txt and val.txt, labels for "
            "detection as PaddleOCR has them: in every line an image's name relative to the "
            "folder, a tab, and its texts as JSON."
        ) from error
    found = [data / line.split("\t", 1)[0] for line in lines if line.strip()]
    missing = [path for path in found if not path.is_file()]
    if missing or not found:
        raise PruneError(
            f"{labels}: names no image."
            if not found
            else f"{labels}: {missing[0]} is not there ({len(missing)} of {len(found)} images)."
        )
    return found


def _render_set(data: Path, settings: Settings, afresh: bool = False) -> list[Path]:
    """Render the set unless it is there, and return its training images in order."""
    if afresh or not (data / "val.txt").is_file():
        render(data, settings.train_images, settings.val_images, settings.seed)
    return sorted((data / "train").glob("*.jpg"))


def _shares(name: str, before: dict[str, float], after: dict[str, float]) -> tuple[str, str, str]:
    return name, f"{before[name]:.4f}", f"{after[name]:.4f}"


def _cost_row(name: str, cost: dict[str, float], unit: float) -> tuple[str, str, str]:
    return _row(name, [cost["before"] / unit, cost["after"] / unit])


def _row(name: str, values: list[float]) -> tuple[str, str, str]:
    before, after = values
    return name, f"{before:.2f}", f"{after:.2f} ({after / before - 1:+.0%})"


def _table(rows: list[tuple[str, str, str]]) -> str:
    rows = [("", "before", "after"), *rows]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    lines = [
        f"{name:<{widths[0]}}  {before:>{widths[1]}}  {after:<{widths[2]}}".rstrip()
        for name, before, after in rows
    ]
    lines.insert(1, "-" * (sum(widths) + 4))
    return "\n".join(lines)
