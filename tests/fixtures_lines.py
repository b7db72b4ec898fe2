"""Rendered lines of text for the recogniser and the classifier, with real weights for both."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import paddle
import pytest
from made_once import made_once
from training import Tools

from demo.architectures import architecture
from demo.configs import write_config

Config = dict[str, Any]

_WORDS = "invoice coffee table street museum garden silver morning kitchen receipt bridge".split()
_TRAIN, _VAL = 8, 12
_REC_WIDTH, _CLS_WIDTH = 160, 192


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images of single words; ``rec_{train,val}.txt`` say what is in them, ``cls_….txt`` how
    they lie (0 or 180 degrees)."""
    from PIL import Image, ImageDraw, ImageFont

    from demo.render import find_fonts

    root = tmp_path_factory.mktemp("lines")
    font = ImageFont.truetype(str(find_fonts()[0]), 32)
    random = np.random.default_rng(0)
    for part, count in (("train", _TRAIN), ("val", _VAL)):
        labels: dict[str, list[str]] = {"rec": [], "cls": []}
        for index in range(count):
            text = f"{random.choice(_WORDS)}{random.integers(10, 100)}"
            image = Image.new("L", (int(font.getlength(text)) + 12, 48), 235)
            ImageDraw.Draw(image).text((6, 4), text, font=font, fill=int(random.integers(60)))
            upright = np.asarray(image)
            for kind, label in (("rec", text), ("cls", "0" if index % 2 else "180")):
                name = f"{kind}_{part}_{index}.png"
                turned = upright[::-1, ::-1] if label == "180" else upright
                cv2.imwrite(str(root / name), np.ascontiguousarray(turned))
                labels[kind].append(f"{name}\t{label}\n")
        for kind, rows in labels.items():
            (root / f"{kind}_{part}.txt").write_text("".join(rows), encoding="utf-8")
    return root


def training_config(data: Path, output: Path, kind: str, **sections: Any) -> Config:
    """A config for a data set of lines; ``sections`` are what depends on the model."""
    encode: Config = sections.pop("encode")
    keys, resize = sections.pop("keys"), sections.pop("resize")
    transforms = [
        {"DecodeImage": {"img_mode": "BGR", "channel_first": False}},
        encode,
        resize,
        {"KeepKeys": {"keep_keys": keys}},
    ]

    def part(name: str, batch: int) -> Config:
        return {
            "dataset": {
                "name": "SimpleDataSet",
                "data_dir": str(data),
                "label_file_list": [str(data / f"{kind}_{name}.txt")],
                "ratio_list": [1.0],
                "transforms": transforms,
            },
            "loader": {
                "shuffle": False,
                "drop_last": False,
                "batch_size_per_card": batch,
                "num_workers": 0,
                "use_shared_memory": False,
            },
        }

    return {
        "Global": {
            "use_gpu": False,
            "epoch_num": 1,
            "log_smooth_window": 10,
            "print_batch_step": 1,
            "save_model_dir": str(output),
            "save_epoch_step": 1000,
            "eval_batch_step": [0, _TRAIN // 4],
            "cal_metric_during_train": False,
            "pretrained_model": None,
            "checkpoints": None,
            "save_inference_dir": None,
            "use_visualdl": False,
            "infer_img": None,
            "distributed": False,
            "save_res_path": str(output / "predicts.txt"),
            "seed": 1024,
            **sections.pop("settings"),
        },
        "Optimizer": {
            "name": "Adam",
            "beta1": 0.9,
            "beta2": 0.999,
            "lr": {"name": "Const", "learning_rate": 1e-4},
            "regularizer": {"name": "L2", "factor": 3e-5},
        },
        **sections,
        "Train": part("train", 4),
        "Eval": part("val", 6),
    }


def rec_config(tree: Path, data: Path, output: Path, multi: str | None = None) -> Config:
    """PP-OCRv4's mobile recogniser with its CTC branch alone, or beside a ``multi`` head: SARHead
    or NRTRHead."""
    whole = architecture("rec")
    ctc = dict(whole["Head"]["head_list"][0]["CTCHead"])
    neck = dict(ctc["Neck"])
    encoder = {"name": "SequenceEncoder", "encoder_type": neck.pop("name"), **neck}
    model: Config = {
        **whole,
        "Neck": encoder,
        "Head": {"name": "CTCHead", **ctc["Head"]},
    }
    settings: Config = {
        "character_dict_path": str(tree / "ppocr" / "utils" / "ppocr_keys_v1.txt"),
        "use_space_char": True,
        "max_text_length": 25,
        "d2s_train_image_shape": [3, 48, -1],  # as in PaddleOCR's configs of students
    }
    loss: Config = {"name": "CTCLoss"}
    encode: Config = {"CTCLabelEncode": None}
    keys = ["image", "label", "length"]
    if multi is not None:
        heads = {"SARHead": {"enc_dim": 64, "max_text_length": 25}}
        heads["NRTRHead"] = {"nrtr_dim": 64, "max_text_length": 25, "num_decoder_layers": 1}
        model["Head"] = {
            "name": "MultiHead",
            "head_list": [{"CTCHead": ctc}, {multi: heads[multi]}],
        }
        model["Neck"] = None
        gtc = multi.removesuffix("Head")
        loss = {
            "name": "MultiLoss",
            "loss_config_list": [{"CTCLoss": None}, {f"{gtc}Loss": None}],
        }
        encode = {"MultiLabelEncode": {"gtc_encode": f"{gtc}LabelEncode"}}
        keys = ["image", "label_ctc", f"label_{'gtc' if gtc == 'NRTR' else 'sar'}", "length"]
        keys += ["valid_ratio"]
    return training_config(
        data, output, "rec", settings=settings, Architecture=model, Loss=loss, encode=encode,
        keys=keys, resize={"RecResizeImg": {"image_shape": [3, 48, _REC_WIDTH]}},
        PostProcess={"name": "CTCLabelDecode"},
        Metric={"name": "RecMetric", "main_indicator": "acc"},
    )  # fmt: skip


@pytest.fixture(scope="session")
def multi_head_weights(
    lines: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, paddle.Tensor]:
    """State of the recovered recogniser, calibrated on the training lines."""
    from demo.weights import recovered_model

    def write(folder: Path) -> None:
        model = recovered_model("rec", sorted(lines.glob("rec_train_*.png")))
        paddle.save(model.state_dict(), str(folder / "rec.pdparams"))

    return dict(paddle.load(str(made_once(tmp_path_factory, "rec", write) / "rec.pdparams")))


@pytest.fixture(scope="session")
def two_heads_tools(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    lines: Path,
    multi_head_weights: dict[str, paddle.Tensor],
    tmp_path_factory: pytest.TempPathFactory,
) -> Tools:
    """PaddleOCR's tools on the recogniser with CTC beside NRTR, which has no weights."""
    folder = tmp_path_factory.mktemp("two_heads")
    known = {name: tensor for name, tensor in multi_head_weights.items() if "gtc" not in name}
    paddle.save(known, f"{folder / 'multi'}.pdparams")
    config = rec_config(tree, lines, folder / "output", "NRTRHead")
    return Tools(run_tool, tree, write_config(config, folder / "multi.yml"), folder / "multi")


@pytest.fixture(scope="session")
def ctc_weights(
    multi_head_weights: dict[str, paddle.Tensor], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same as a network with a CTC head alone: the path without ``.pdparams``."""
    path = tmp_path_factory.mktemp("rec") / "ctc"
    paddle.save(
        {
            name.replace("head.ctc_encoder.", "neck.").replace("head.ctc_head.", "head."): tensor
            for name, tensor in multi_head_weights.items()
            if name.startswith(("backbone.", "head.ctc_"))
        },
        f"{path}.pdparams",
    )
    return path


@pytest.fixture(scope="session")
def ctc_config(lines: Path, tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training config of the recogniser with a CTC head, as ``ctc_weights`` needs it."""
    folder = tmp_path_factory.mktemp("ctc_config")
    return write_config(rec_config(tree, lines, folder / "output"), folder / "rec.yml")


@pytest.fixture(scope="session")
def cls_weights(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The recovered angle classifier: the path without ``.pdparams``."""
    from demo.weights import recover

    made = made_once(tmp_path_factory, "cls", lambda to: recover("cls", to / "cls", []))
    return made / "cls"


@pytest.fixture(scope="session")
def cls_config(lines: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training config of the angle classifier."""
    folder = tmp_path_factory.mktemp("cls_config")
    config = training_config(
        lines, folder / "output", "cls", settings={"label_list": ["0", "180"]},
        Architecture=architecture("cls"), Loss={"name": "ClsLoss"},
        encode={"ClsLabelEncode": None}, keys=["image", "label"],
        resize={"ClsResizeImg": {"image_shape": [3, 48, _CLS_WIDTH]}},
        PostProcess={"name": "ClsPostProcess"},
        Metric={"name": "ClsMetric", "main_indicator": "acc"},
    )  # fmt: skip
    return write_config(config, folder / "cls.yml")


@pytest.fixture(scope="session")
def cls_tools(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    cls_config: Path,
    cls_weights: Path,
) -> Tools:
    """PaddleOCR's tools on the angle classifier."""
    return Tools(run_tool, tree, cls_config, cls_weights)
