"""Configs as they are shipped, turned to small images; the newest ones of a PaddleOCR tree."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

# The first that a tree has is its newest.
_NEWEST = {
    "det": (
        "PP-OCRv6/PP-OCRv6_small_det.yml",
        "PP-OCRv5/PP-OCRv5_mobile_det.yml",
        "ch_PP-OCRv4/ch_PP-OCRv4_det_student.yml",
        "ch_PP-OCRv3/ch_PP-OCRv3_det_student.yml",
    ),
    "rec": (
        "PP-OCRv6/PP-OCRv6_small_rec.yml",
        "PP-OCRv5/PP-OCRv5_mobile_rec.yml",
        "PP-OCRv4/ch_PP-OCRv4_rec.yml",
        "PP-OCRv3/ch_PP-OCRv3_rec.yml",
    ),
}
_CROP, _LONG_SIDE = 160, 320
_WIDTH = 160  # of a line of text


def newest(tree: Path, kind: str) -> Path | None:
    """The newest stock config of a kind, "det" or "rec", or None in a tree without any."""
    folder = tree / "configs" / kind
    return next((folder / name for name in _NEWEST[kind] if (folder / name).is_file()), None)


def small(path: Path, tree: Path, data: Path, labels: str, output: Path) -> dict[str, Any]:
    """A stock config as it stands, but for data, sizes of images and of batches, and one epoch.

    ``labels`` names the files of labels in ``data``, with ``{}`` for train and val.
    """
    config: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    config["Global"] |= {
        "use_gpu": False,
        "distributed": False,
        "epoch_num": 1,
        "print_batch_step": 1,
        "save_epoch_step": 1000,
        "eval_batch_step": [0, 2],
        "save_model_dir": str(output),
        "pretrained_model": None,
        "checkpoints": None,
        "save_inference_dir": None,
        "infer_img": None,
        "save_res_path": str(output / "predicts.txt"),
    }
    dictionary = config["Global"].get("character_dict_path")
    if dictionary is not None:
        config["Global"]["character_dict_path"] = str(tree / dictionary)
    for part, name in (("Train", "train"), ("Eval", "val")):
        config[part]["dataset"] |= {
            "data_dir": str(data),
            "label_file_list": [str(data / labels.format(name))],
        }
        config[part]["dataset"].pop("ratio_list", None)
        config[part]["loader"] |= {
            "batch_size_per_card": 4 if part == "Train" else 1,
            "num_workers": 0,
            "use_shared_memory": False,
        }
        if "sampler" in config[part]:
            config[part]["sampler"]["first_bs"] = 4
    shrink(config)
    return config


def shrink(config: dict[str, Any]) -> None:
    """Let a detector train on smaller crops, evaluate smaller images and count on those; a
    recogniser on shorter lines."""
    kind = config["Architecture"]["model_type"]
    if kind in ("det", "rec"):
        size = [3, _CROP, _CROP] if kind == "det" else [3, 48, _WIDTH]
        config["Global"]["d2s_train_image_shape"] = size
    for part in ("Train", "Eval"):
        for transform in config[part]["dataset"]["transforms"]:
            ((name, options),) = transform.items()
            if name in ("EastRandomCropData", "RandomCrop"):
                options["size"] = [_CROP, _CROP]
            elif name == "RecResizeImg" and options["image_shape"][-1] > _WIDTH:
                options["image_shape"] = [*options["image_shape"][:-1], _WIDTH]
            elif name == "DetResizeForTest":
                transform[name] = {"limit_side_len": _LONG_SIDE, "limit_type": "max"}
