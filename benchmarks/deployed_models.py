"""The models of ``deployed.py``: this repository's configs over labelled data, and real weights.

Widths are chosen on some of the validation images, and metrics are of others.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import yaml

from demo.architectures import Kind
from demo.configs import write_config
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import write_atomically

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


@dataclass(frozen=True)
class Model:
    """A model as it is measured.

    ``weights`` is its name in ``demo/published.py``; ``shape`` that of an image in time and FLOPs;
    ``chosen`` and ``tested`` count the validation images that widths are chosen on and that
    metrics are of.
    """

    kind: Kind
    title: str
    config: str
    weights: str
    metric: str
    shape: tuple[int, int, int]
    chosen: int
    tested: int
    options: dict[str, Any]


MODELS = (
    Model(
        "det", "detector", "det/ppocrv4_mobile_det_prune.yml", "ppocrv4_mobile_det", "hmean",
        (3, 640, 640), 10, 24, {"DetResizeForTest": {"limit_side_len": 640, "limit_type": "max"}},
    ),
    Model(
        "rec", "recogniser", "rec/ppocrv4_mobile_rec_prune.yml", "ppocrv4_mobile_rec", "acc",
        (3, 48, 320), 48, 400, {},
    ),
    Model(
        "cls", "classifier", "cls/cls_mv3_prune.yml", "ppocr_mobile_cls", "acc",
        (3, 48, 192), 128, 400, {},
    ),
)  # fmt: skip


def write_model(model: Model, data: Path, tree: Path, work: Path, calibration: int = 32) -> Path:
    """Write ``config.yml`` into ``work``, with ``chosen.txt`` and ``tested.txt``, the labels.

    Args:
        model: the model.
        data: a folder with ``det/`` and ``rec/``, each with PaddleOCR's labels in ``train.txt`` and
            ``val.txt``; the lines of ``rec/`` are what the classifier sees, too, half of them
            turned.
        tree: the PaddleOCR tree, which has the recogniser's dictionary.
        work: where everything goes.
        calibration: training images that recovery sees.

    Raises:
        PruneError: there are too few images.
    """
    rows = {part: _rows(model, data, work, part, calibration) for part in ("train", "val")}
    wanted = model.chosen + model.tested
    if len(rows["val"]) < wanted:
        raise PruneError(f"{data}: has {len(rows['val'])} images of {wanted} that are needed")
    parts = {
        "train": rows["train"][: 4 * calibration],
        "chosen": rows["val"][: model.chosen],
        "tested": rows["val"][-model.tested :],
    }
    for name, part in parts.items():
        write_atomically(work / f"{name}.txt", "".join(part))
    config = yaml.safe_load((CONFIGS / model.config).read_text(encoding="utf-8"))
    _adapt(config, model, work, tree)
    for part, labels in (("Train", "train"), ("Eval", "chosen")):
        config[part]["dataset"] |= {
            "data_dir": "/",
            "label_file_list": [str(work / f"{labels}.txt")],
        }
        batch = min(config[part]["loader"]["batch_size_per_card"], 16)
        config[part]["loader"] |= {"batch_size_per_card": batch, "num_workers": 0}
        config[part]["loader"]["use_shared_memory"] = False
    return write_config(config, work / "config.yml")


def _adapt(config: dict[str, Any], model: Model, work: Path, tree: Path) -> None:
    settings = config["Global"]
    settings |= {"use_gpu": False, "distributed": False, "epoch_num": 1}
    settings |= {"save_model_dir": str(work / "output"), "checkpoints": None}
    settings |= {"pretrained_model": str(work / "weights"), "export_with_pir": True}
    settings["d2s_train_image_shape"] = list(model.shape)
    if "character_dict_path" in settings:
        settings["character_dict_path"] = str(tree / settings["character_dict_path"])
    if "conv_kxk_num" in config["Architecture"]["Backbone"]:
        config["Architecture"]["Backbone"]["conv_kxk_num"] = 1  # what was recovered
    for transform in config["Eval"]["dataset"]["transforms"]:
        for name in transform.keys() & model.options.keys():
            transform[name] = model.options[name]
    for transform in config["Train"]["dataset"]["transforms"]:
        if "EastRandomCropData" in transform:
            transform["EastRandomCropData"]["size"] = [320, 320]
    config["Prune"] = {"sensitivity": {"ratios": [0.2, 0.4, 0.6]}}


def _rows(model: Model, data: Path, work: Path, part: str, calibration: int) -> list[str]:
    """Label lines with whole paths, in an order that does not follow the images."""
    folder = data / ("det" if model.kind == "det" else "rec")
    lines = (folder / f"{part}.txt").read_text(encoding="utf-8").splitlines()
    found = [f"{folder.resolve()}/{line}\n" for line in lines if line.strip()]
    random.Random(0).shuffle(found)
    if model.kind != "cls":
        return found
    count = 4 * calibration if part == "train" else model.chosen + model.tested
    return _turned(found[:count], work / part)


def _turned(rows: Sequence[str], folder: Path) -> list[str]:
    """The classifier's labels for images of lines; every second is turned upside down."""
    folder.mkdir(parents=True, exist_ok=True)
    labels = []
    for number, row in enumerate(rows):
        path = Path(row.split("\t", 1)[0])
        if number % 2:
            turned = folder / path.name
            cv2.imwrite(str(turned), cv2.imread(str(path))[::-1, ::-1])
            path = turned
        labels.append(f"{path}\t{180 * (number % 2)}\n")
    return labels
