"""Architecture sections of the detectors that PaddleOCR's configs train."""

from __future__ import annotations

from typing import Any

Architecture = dict[str, Any]

_MV3 = {"name": "MobileNetV3", "scale": 0.5, "model_name": "large", "disable_se": False}
_LCNET = {"name": "PPLCNetV3", "scale": 0.75, "det": True, "conv_kxk_num": 1}
_DBFPN = {"name": "DBFPN", "out_channels": 256}
_RSEFPN = {"name": "RSEFPN", "out_channels": 96, "shortcut": True}
_DB = {"name": "DBHead", "k": 50}


def _det(
    backbone: dict[str, Any], neck: dict[str, Any], head: dict[str, Any] = _DB, name: str = "DB"
) -> Architecture:
    return {
        "model_type": "det",
        "algorithm": name,
        "Transform": None,
        "Backbone": backbone,
        "Neck": neck,
        "Head": head,
    }


_SVTR = {"name": "SequenceEncoder", "encoder_type": "svtr", "depth": 2, "hidden_dims": 120}
_LSTM = {"name": "SequenceEncoder", "encoder_type": "rnn", "hidden_size": 48}
_PLAIN = {"name": "SequenceEncoder", "encoder_type": "reshape"}
_CTC = {"name": "CTCHead", "out_channels": 37, "fc_decay": 0.00001}


def _rec(name: str, backbone: dict[str, Any], neck: dict[str, Any]) -> Architecture:
    return {
        "model_type": "rec",
        "algorithm": name,
        "Transform": None,
        "Backbone": backbone,
        "Neck": neck,
        "Head": _CTC,
    }


_SVTR_TINY = {
    "name": "SVTRNet",
    "img_size": [32, 64],
    "out_char_num": 16,
    "out_channels": 96,
    "patch_merging": "Conv",
    "embed_dim": [32, 64, 96],
    "depth": [1, 2, 1],
    "num_heads": [2, 4, 3],
    "mixer": ["Local", "Local", "Global", "Global"],
    "local_mixer": [[7, 11], [7, 11], [7, 11]],
    "last_stage": True,
    "prenorm": False,
}

# With the size of an image, [channels, height, width].
RECOGNISERS: dict[str, tuple[Architecture, tuple[int, int, int]]] = {
    "cls_mv3": (
        {
            "model_type": "cls",
            "algorithm": "CLS",
            "Transform": None,
            "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
            "Neck": None,
            "Head": {"name": "ClsHead", "class_dim": 2},
        },
        (3, 48, 64),
    ),
    "crnn_mv3": (_rec("CRNN", _MV3, _LSTM), (3, 32, 48)),
    "crnn_resnet34": (_rec("CRNN", {"name": "ResNet", "layers": 34}, _LSTM), (3, 32, 48)),
    "lcnetv3_svtr": (
        _rec(
            "SVTR_LCNet",
            {"name": "PPLCNetV3", "scale": 0.5, "conv_kxk_num": 1},
            {**_SVTR, "dims": 120, "kernel_size": [1, 3], "use_guide": True},
        ),
        (3, 48, 64),
    ),
    "mv1_svtr": (
        _rec(
            "SVTR_LCNet",
            {
                "name": "MobileNetV1Enhance",
                "scale": 0.5,
                "last_conv_stride": [1, 2],
                "last_pool_type": "avg",
            },
            {**_SVTR, "dims": 64, "use_guide": True},
        ),
        (3, 48, 64),
    ),
    "svtr": (_rec("SVTR", _SVTR_TINY, _PLAIN), (3, 32, 64)),
    "vitstr": (
        _rec("ViTSTR", {"name": "ViTSTR", "img_size": [32, 64], "scale": "tiny"}, _PLAIN),
        (1, 32, 64),
    ),
}

DETECTORS: dict[str, Architecture] = {
    "mv3_se_dbfpn": _det(_MV3, _DBFPN),
    "mv3_dbfpn": _det({**_MV3, "disable_se": True}, _DBFPN),
    "mv3_rsefpn": _det({**_MV3, "disable_se": True}, _RSEFPN),
    "resnet18_dbfpn": _det({"name": "ResNet_vd", "layers": 18}, _DBFPN),
    "resnet50_dbfpn": _det({"name": "ResNet_vd", "layers": 50}, _DBFPN),
    "resnet50_dbpp": _det(
        {"name": "ResNet", "layers": 50}, {**_DBFPN, "use_asf": True}, name="DB++"
    ),
    "lcnetv3_rsefpn": _det(_LCNET, _RSEFPN),
    "lcnetv3_4_branches_rsefpn": _det({**_LCNET, "conv_kxk_num": 4}, _RSEFPN),
    "lcnetv3_lkpan": _det(_LCNET, {"name": "LKPAN", "out_channels": 256, "mode": "large"}),
    "lcnetv3_lkpan_lite": _det(_LCNET, {"name": "LKPAN", "out_channels": 256, "mode": "lite"}),
    "lcnetv3_dbfpn": _det(_LCNET, _DBFPN),
}
