"""The models that :mod:`accuracy` prunes: released weights, shipped configs, the user's data."""

from __future__ import annotations

import functools
import logging
import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import paddle
import yaml

from demo.configs import write_config
from demo.reading import Reader, countable, pages
from demo.weights import recover
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.boxes import Fits, WithFits
from ppocr_prune_plugin.hooks.adapters.calls import takes_labels
from ppocr_prune_plugin.hooks.adapters.decisions import evaluation_type
from ppocr_prune_plugin.hooks.adapters.evaluation import PaddleOCREvaluation
from ppocr_prune_plugin.hooks.adapters.networks import Networks
from ppocr_prune_plugin.hooks.adapters.sub_models import SubModel
from ppocr_prune_plugin.hooks.adapters.tree import build_from_config, find_tree
from ppocr_prune_plugin.network import Network
from ppocr_prune_plugin.section import SensitivityOptions

Kind = Literal["det", "rec", "cls"]
KINDS: tuple[Kind, ...] = ("det", "rec", "cls")
NAMES = {
    "det": "PP-OCRv4 mobile detector",
    "rec": "PP-OCRv4 mobile recogniser",
    "cls": "angle classifier",
}
_CONFIGS = {
    "det": "det/ppocrv4_mobile_det_prune.yml",
    "rec": "rec/ppocrv4_mobile_rec_prune.yml",
    "cls": "cls/cls_mv3_prune.yml",
}
_BATCHES = {"det": 8, "rec": 32, "cls": 64}
_CALIBRATED = 32  # images that recovered weights get their batch norms from
Config = dict[str, Any]


@dataclass(frozen=True)
class Data:
    """Labelled images: ``<kind>/train.txt`` and ``<kind>/val.txt`` with names relative to the
    folder, PaddleOCR's labels. The classifier takes the recogniser's lines, each also turned."""

    folder: Path
    work: Path

    def labels(self, kind: Kind, part: str) -> tuple[Path, Path]:
        """The folder that names are relative to, and the file of labels.

        Raises:
            PruneError: there is none.
        """
        if kind == "cls":
            return self._turned(part)
        found = self.folder / kind / f"{part}.txt"
        if not found.is_file():
            raise PruneError(f"--data: there is no {found} (PaddleOCR's labels for {kind})")
        return found.parent, found

    def _turned(self, part: str) -> tuple[Path, Path]:
        import cv2

        folder, lines = self.labels("rec", part)
        out = self.work / "turned"
        target = out / f"{part}.txt"
        if target.is_file():
            return out, target
        (out / part).mkdir(parents=True, exist_ok=True)
        rows = []
        for number, row in enumerate(lines.read_text(encoding="utf-8").splitlines()):
            image = cv2.imread(str(folder / row.partition("\t")[0]))
            for label, turned in (("0", image), ("180", image[::-1, ::-1])):
                name = f"{part}/{number}_{label}.png"
                cv2.imwrite(str(out / name), np.ascontiguousarray(turned))
                rows.append(f"{name}\t{label}\n")
        target.write_text("".join(rows), encoding="utf-8")
        return out, target


def config_of(kind: Kind, data: Data, work: Path, side: int, weights: Path | None = None) -> Config:
    """The shipped config on the user's data and this machine's CPU, without its Prune section.

    ``side`` is the long side of a detector's evaluation images, pixels; without ``weights`` the
    model has the released ones.
    """
    root = Path(__file__).resolve().parent.parent / "configs"
    config: Config = yaml.safe_load((root / _CONFIGS[kind]).read_text(encoding="utf-8"))
    config.pop("Prune")
    config["Global"] |= {
        "use_gpu": False,
        "distributed": False,
        "seed": 1024,
        "pretrained_model": str((weights or _weights(kind, data, work)).with_suffix("")),
        "save_model_dir": str(work / kind / "output"),
        "save_epoch_step": 1000,
        "print_batch_step": 5,
        "cal_metric_during_train": False,
        "d2s_train_image_shape": [3, 640, 640] if kind == "det" else None,
    }
    if config["Global"]["d2s_train_image_shape"] is None:
        del config["Global"]["d2s_train_image_shape"]
    if kind == "rec":
        keys = find_tree() / "ppocr" / "utils" / "ppocr_keys_v1.txt"
        config["Global"]["character_dict_path"] = str(keys)
    if kind != "cls":
        config["Architecture"]["Backbone"]["conv_kxk_num"] = 1
    for section, part in (("Train", "train"), ("Eval", "val")):
        folder, labels = data.labels(kind, part)
        config[section]["dataset"] |= {"data_dir": str(folder), "label_file_list": [str(labels)]}
        config[section]["dataset"].pop("ratio_list", None)
        size = _BATCHES[kind] if section == "Train" or kind != "det" else 1
        config[section]["loader"] |= {
            "batch_size_per_card": size,
            "num_workers": 0,
            "use_shared_memory": False,
        }
    for transform in config["Eval"]["dataset"]["transforms"]:
        if "DetResizeForTest" in transform:
            transform["DetResizeForTest"] = {"limit_side_len": side, "limit_type": "max"}
    return config


def _weights(kind: Kind, data: Data, work: Path) -> Path:
    target = work / "weights" / f"{kind}.pdparams"
    if not target.is_file():
        folder, labels = data.labels("det" if kind == "det" else "rec", "train")
        rows = labels.read_text(encoding="utf-8").splitlines()[:_CALIBRATED]
        images = [folder / row.partition("\t")[0] for row in rows]
        target.parent.mkdir(parents=True, exist_ok=True)
        recover(kind, target, images)
    return target


class Model:
    """A live, unpruned model with its data; ``folder`` is where its pieces are kept."""

    def __init__(
        self, kind: Kind, data: Data, work: Path, side: int, weights: Path | None = None
    ) -> None:
        self.kind, self.folder = kind, work / kind
        self.folder.mkdir(parents=True, exist_ok=True)
        self.data = data
        path = write_config(config_of(kind, data, work, side, weights), self.folder / "config.yml")
        self.live, self.config = build_from_config(path, [], find_tree())
        self.weights = Path(f"{self.config['Global']['pretrained_model']}.pdparams")
        self.live.set_state_dict(paddle.load(str(self.weights)))
        self.part = SubModel("", self.live, self.config)
        self.network: Network = Networks().of(self.part)

    def loader(self, section: str, labels: Path | None = None) -> Any:
        """PaddleOCR's own loader of ``Train`` or ``Eval``, or of other labels in its way."""
        from ppocr.data import build_dataloader

        config = {**self.config, section: {**self.config[section]}}
        if labels is not None:
            config[section]["dataset"] = {
                **config[section]["dataset"],
                "label_file_list": [str(labels)],
            }
        return build_dataloader(config, section, "cpu", logging.getLogger("benchmark"))

    def arguments(self) -> dict[str, Any]:
        """What ``tools.program.train`` would be called with, as far as it is needed here."""
        from ppocr.losses import build_loss
        from ppocr.metrics import build_metric
        from ppocr.postprocess import build_post_process

        return {
            "config": self.config,
            "model": self.live,
            "train_dataloader": self.loader("Train"),
            "valid_dataloader": None,
            "post_process_class": build_post_process(
                self.config["PostProcess"], self.config["Global"]
            ),
            "eval_class": build_metric(self.config["Metric"]),
            "loss_class": build_loss(self.config["Loss"]),
        }

    def choosing(self, images: int) -> PaddleOCREvaluation:
        """An evaluation on training images, prepared as those for evaluation are."""
        from tools import program

        folder, labels = self.data.labels(self.kind, "train")
        arguments = {**self.arguments(), "valid_dataloader": self.loader("Eval", labels)}
        options = SensitivityOptions(samples=images)
        return PaddleOCREvaluation(program, arguments, options, self.folder)

    def judge(self, images: int | None, read: int = 0) -> Callable[[], dict[str, float]]:
        """Evaluates the live model on images that nothing is chosen on, with PaddleOCR's ``eval``.

        Args:
            images: how many; None: all.
            read: of a detector's, the first so many are also read.

        Returns:
            What gives every figure of the metric; of detectors also ``hmean at 0.7``, the mean IoU
            of the boxes that match, and the share of lines that are read right in them.
        """
        from tools import program

        folder, labels = self.data.labels(self.kind, "val")
        if images is not None:
            rows = labels.read_text(encoding="utf-8").splitlines(keepends=True)
            chosen = np.random.default_rng(1).permutation(len(rows))[:images]
            labels = self.folder / f"val_{images}.txt"
            labels.write_text("".join(rows[n] for n in sorted(chosen)), encoding="utf-8")
        arguments = self.arguments()
        loader = self.loader("Eval", labels)
        shown = pages(folder, labels)[:read] if self.kind == "det" else []
        reader = Reader() if shown else None

        def evaluate() -> dict[str, float]:
            metric = arguments["eval_class"]
            metric.reset()
            if self.kind == "det":
                metric = _Boxes(metric)
            with _without_bars(program):
                found = program.eval(
                    self.live,
                    loader,
                    arguments["post_process_class"],
                    metric,
                    evaluation_type(find_tree(), self.config["Architecture"]),
                    takes_labels(self.config),
                )
            figures = {name: float(value) for name, value in found.items() if name != "fps"}
            if reader is not None:
                right = reader.right(shown, metric.boxes[: len(shown)])
                figures["lines read"] = right / countable(shown)
            return figures

        return evaluate


class _Boxes:
    """PaddleOCR's detection metric, what is counted beside it, and the boxes of every image."""

    main_indicator = "hmean"

    def __init__(self, metric: Any) -> None:
        metric.reset()
        self._fits = Fits()
        self._counted = WithFits(metric, self._fits)
        self.boxes: list[Any] = []

    def __call__(self, preds: Sequence[Any], batch: Sequence[Any], **options: Any) -> None:
        self._counted(preds, batch, **options)
        self.boxes += [found["points"] for found in preds]

    def get_metric(self) -> dict[str, float]:
        return {"hmean": self._counted.get_metric()["hmean"], **self._fits.figures()}


@contextmanager
def _without_bars(program: Any) -> Iterator[None]:
    original = program.tqdm
    program.tqdm = functools.partial(original, disable=True)
    try:
        yield
    finally:
        program.tqdm = original


def seeded(seed: int) -> None:
    """Let everything that draws at random begin anew."""
    random.seed(seed)
    np.random.seed(seed)
    paddle.seed(seed)
