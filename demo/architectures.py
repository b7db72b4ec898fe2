"""The ``Architecture`` sections of the models whose weights :mod:`.weights` recovers.

They are PaddleOCR's own settings for PP-OCRv4 mobile det, PP-OCRv4 mobile rec and the v2 angle
classifier, as its training configs spell them.
"""

from __future__ import annotations

from typing import Any, Literal

Kind = Literal["det", "rec", "cls"]

# Classes of ppocr_keys_v1.txt with the CTC blank and the space character.
REC_CLASSES = 6625


def architecture(kind: Kind, conv_kxk_num: int = 1) -> dict[str, Any]:
    """Return a fresh ``Architecture`` section for PaddleOCR's ``build_model``.

    ``conv_kxk_num`` is the number of k×k branches of each re-parameterised layer in PPLCNetV3
    (``det`` and ``rec``; PaddleOCR trains with 4). ``cls`` has no such layers and ignores it.

    Raises:
        ValueError: ``kind`` is none of ``det``, ``rec``, ``cls``, or ``conv_kxk_num`` < 1.
    """
    if conv_kxk_num < 1:
        raise ValueError(f"conv_kxk_num must be at least 1, got {conv_kxk_num}")
    if kind == "det":
        return {
            "model_type": "det",
            "algorithm": "DB",
            "Transform": None,
            "Backbone": {
                "name": "PPLCNetV3",
                "scale": 0.75,
                "det": True,
                "conv_kxk_num": conv_kxk_num,
            },
            "Neck": {"name": "RSEFPN", "out_channels": 96, "shortcut": True},
            "Head": {"name": "DBHead", "k": 50},
        }
    if kind == "rec":
        ctc = {
            "Neck": {
                "name": "svtr",
                "dims": 120,
                "depth": 2,
                "hidden_dims": 120,
                "kernel_size": [1, 3],
                "use_guide": True,
            },
            "Head": {"fc_decay": 0.00001},
        }
        return {
            "model_type": "rec",
            "algorithm": "SVTR_LCNet",
            "Transform": None,
            "Backbone": {"name": "PPLCNetV3", "scale": 0.95, "conv_kxk_num": conv_kxk_num},
            "Head": {
                "name": "MultiHead",
                "head_list": [
                    {"CTCHead": ctc},
                    {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}},
                ],
                "out_channels_list": {
                    "CTCLabelDecode": REC_CLASSES,
                    "NRTRLabelDecode": REC_CLASSES + 3,
                },
            },
        }
    if kind == "cls":
        return {
            "model_type": "cls",
            "algorithm": "CLS",
            "Transform": None,
            "Backbone": {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
            "Neck": None,
            "Head": {"name": "ClsHead", "class_dim": 2},
        }
    raise ValueError(f"kind must be 'det', 'rec' or 'cls', got {kind!r}")
