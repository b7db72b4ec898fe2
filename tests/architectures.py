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
