"""The ``Architecture`` sections of the models whose weights :mod:`.weights` recovers.

They are PaddleOCR's own settings for PP-OCRv4 and PP-OCRv5 mobile, PP-OCRv6 small, and the angle
classifier that came with PP-OCRv4, as its training configs spell them.
"""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["det", "rec", "cls"]
Release = Literal["v4", "v5", "v6"]

# Classes of each release's dictionary, with the CTC blank and the space character.
REC_CLASSES: dict[Release, int] = {"v4": 6625, "v5": 18385, "v6": 18710}

_SVTR = {
    "name": "svtr",
    "dims": 120,
    "depth": 2,
    "hidden_dims": 120,
    "kernel_size": [1, 3],
    "use_guide": True,
}
_LIGHT_SVTR = {
    "name": "lightsvtr",
    "dims": 120,
    "depth": 2,
    "mlp_ratio": 2.0,
    "local_kernel": 7,
}
_RSEFPN = {"name": "RSEFPN", "out_channels": 96, "shortcut": True}
_REPLKFPN = {"name": "RepLKFPN", "out_channels": 96, "dilated_kernel_size": 7, "shortcut": True}


def architecture(kind: Kind, conv_kxk_num: int = 1, release: Release = "v4") -> dict[str, Any]:
    """Return a fresh ``Architecture`` section for PaddleOCR's ``build_model``.

    ``conv_kxk_num`` is the number of k×k branches of each re-parameterised layer in PPLCNetV3
    (``det`` and ``rec`` of v4 and v5; PaddleOCR trains with 4). Other models ignore it. PP-OCRv6's
    detector comes without the heads that guide PaddleOCR's training of it from scratch
    (``aux_in_channels``).

    Raises:
        ValueError: there is no such model, or ``conv_kxk_num`` < 1.
    """
    if conv_kxk_num < 1:
        raise ValueError(f"conv_kxk_num must be at least 1, got {conv_kxk_num}")
    if kind == "det":
        lcnet = {"name": "PPLCNetV3", "scale": 0.75, "det": True, "conv_kxk_num": conv_kxk_num}
        lcnet_v4 = {"name": "PPLCNetV4", "det": True, "model_size": "small"}
        return {
            "model_type": "det",
            "algorithm": "DB",
            "Transform": None,
            "Backbone": lcnet_v4 if release == "v6" else lcnet,
            "Neck": dict(_REPLKFPN if release == "v6" else _RSEFPN),
            "Head": {"name": "DBHead", "k": 50},
        }
    if kind == "rec":
        lcnet = {"name": "PPLCNetV3", "scale": 0.95, "conv_kxk_num": conv_kxk_num}
        lcnet_v4 = {"name": "PPLCNetV4", "model_size": "small"}
        ctc = {
            "Neck": dict(_LIGHT_SVTR if release == "v6" else _SVTR),
            "Head": {"fc_decay": 0.00001},
        }
        return {
            "model_type": "rec",
            "algorithm": "SVTR_LCNet",
            "Transform": None,
            "Backbone": lcnet_v4 if release == "v6" else lcnet,
            "Head": {
                "name": "MultiHead",
                "head_list": [
                    {"CTCHead": ctc},
                    {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}},
                ],
                "out_channels_list": {
                    "CTCLabelDecode": REC_CLASSES[release],
                    "NRTRLabelDecode": REC_CLASSES[release] + 3,
                },
            },
        }
    if kind == "cls" and release == "v4":
        return {
            "model_type": "cls",
            "algorithm": "CLS",
            "Transform": None,
            "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
            "Neck": None,
            "Head": {"name": "ClsHead", "class_dim": 2},
        }
    raise ValueError(f"there is no {kind!r} of {release!r}")
