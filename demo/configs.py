"""The PaddleOCR config of the demo: PP-OCRv4's mobile detector on a rendered data set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from ppocr_prune_plugin.files import write_atomically

from .architectures import architecture

_NORMALIZE = {
    "NormalizeImage": {
        "scale": "1./255.",
        "mean": [0.485, 0.456, 0.406],
        "std": [0.229, 0.224, 0.225],
        "order": "hwc",
    }
}
# What PP-OCRv4's released detector maps of a line of text: PaddleOCR trains it towards a ratio that
# grows from 0.4 to 0.6.
_SHRINK_RATIO = 0.6
_DECODE: list[dict[str, Any]] = [
    {"DecodeImage": {"img_mode": "BGR", "channel_first": False}},
    {"DetLabelEncode": None},
]


def det_config(
    data: Path,
    output: Path,
    conv_kxk_num: int = 1,
    epochs: int = 4,
    batch_size: int = 8,
    crop: int = 320,
    eval_side: int = 640,
    learning_rate: float = 5e-4,
) -> dict[str, Any]:
    """Return a complete training config for a data set as :func:`.render.render` writes it.

    ``crop`` is the side of the square training crops, ``eval_side`` the long side of evaluation
    images (pixels, multiples of 32). It trains on the CPU, evaluates after each epoch, and reads
    its images in the main process: no shared memory is needed, and runs repeat.
    """
    train_transforms = [
        *_DECODE,
        {
            "IaaAugment": {
                "augmenter_args": [
                    {"type": "Affine", "args": {"rotate": [-5, 5]}},
                    {"type": "Resize", "args": {"size": [0.7, 1.4]}},
                ]
            }
        },
        {"EastRandomCropData": {"size": [crop, crop], "max_tries": 10, "keep_ratio": True}},
        {"MakeBorderMap": {"shrink_ratio": _SHRINK_RATIO, "thresh_min": 0.3, "thresh_max": 0.7}},
        {"MakeShrinkMap": {"shrink_ratio": _SHRINK_RATIO, "min_text_size": 8}},
        _NORMALIZE,
        {"ToCHWImage": None},
        {
            "KeepKeys": {
                "keep_keys": [
                    "image",
                    "threshold_map",
                    "threshold_mask",
                    "shrink_map",
                    "shrink_mask",
                ]
            }
        },
    ]
    eval_transforms = [
        *_DECODE,
        {"DetResizeForTest": {"limit_side_len": eval_side, "limit_type": "max"}},
        _NORMALIZE,
        {"ToCHWImage": None},
        {"KeepKeys": {"keep_keys": ["image", "shape", "polys", "ignore_tags"]}},
    ]
    steps = max(1, -(-_count_lines(data / "train.txt") // batch_size))
    return {
        "Global": {
            "model_name": "PP-OCRv4_mobile_det",
            "use_gpu": False,
            "epoch_num": epochs,
            "log_smooth_window": 10,
            "print_batch_step": 2,
            "save_model_dir": str(output),
            "save_epoch_step": 1000,
            "eval_batch_step": [0, steps],
            "cal_metric_during_train": False,
            "pretrained_model": None,
            "checkpoints": None,
            "save_inference_dir": None,
            "use_visualdl": False,
            "infer_img": None,
            "save_res_path": str(output / "predicts.txt"),
            "distributed": False,
            # Where FLOPs are counted.
            "d2s_train_image_shape": [3, eval_side, eval_side],
            "seed": 1024,
        },
        "Architecture": architecture("det", conv_kxk_num),
        "Loss": {
            "name": "DBLoss",
            "balance_loss": True,
            "main_loss_type": "DiceLoss",
            "alpha": 5,
            "beta": 10,
            "ohem_ratio": 3,
        },
        "Optimizer": {
            "name": "Adam",
            "beta1": 0.9,
            "beta2": 0.999,
            "lr": {"name": "Cosine", "learning_rate": learning_rate, "warmup_epoch": 0},
            "regularizer": {"name": "L2", "factor": 5e-5},
        },
        "PostProcess": {
            "name": "DBPostProcess",
            "thresh": 0.3,
            "box_thresh": 0.6,
            "max_candidates": 1000,
            "unclip_ratio": 1.5,
        },
        "Metric": {"name": "DetMetric", "main_indicator": "hmean"},
        "Train": {
            "dataset": _dataset(data, "train.txt", train_transforms),
            "loader": _loader(batch_size, shuffle=True),
        },
        "Eval": {
            "dataset": _dataset(data, "val.txt", eval_transforms),
            "loader": _loader(1, shuffle=False),
        },
    }


def write_config(config: dict[str, Any], path: Path) -> Path:
    """Write a config as YAML with plain data only, and return its path."""
    write_atomically(path, yaml.safe_dump(config, sort_keys=False, allow_unicode=True))
    return path


def _dataset(data: Path, labels: str, transforms: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "name": "SimpleDataSet",
        "data_dir": str(data),
        "label_file_list": [str(data / labels)],
        "ratio_list": [1.0],
        "transforms": transforms,
    }


def _loader(batch_size: int, shuffle: bool) -> dict[str, Any]:
    return {
        "shuffle": shuffle,
        "drop_last": False,
        "batch_size_per_card": batch_size,
        "num_workers": 0,
        "use_shared_memory": False,
    }


def _count_lines(path: Path) -> int:
    return len(path.read_text(encoding="utf-8").splitlines())
