"""Architectures that PaddleOCR's trees can build, one entry each, for ``coverage.py``.

Newer models are read from the configs that their tree ships (:data:`STOCK`). Every other entry is
the part of a PaddleOCR config that says what the network is: ``Architecture``, and the keys that
say how large its images and labels are. Dictionaries and texts are short and images small, so that
a row takes seconds; widths and depths are those that are trained, but for the transformers of
formulas, where two layers stand for several equal ones.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import yaml

from ppocr_prune_plugin.hooks.adapters.tree import set_out_channels

Config = dict[str, Any]
Part = dict[str, Any]

CONFIGS: dict[str, Config] = {}

_DET_SIZE = [3, 192, 192]
_CLASSES = 97


def _row(
    name: str,
    kind: str,
    algorithm: str,
    backbone: Part | None,
    neck: Part | None,
    head: Part | None,
    transform: Part | None = None,
    resize: Part | None = None,
    size: list[int] | None = None,
    **architecture: Any,
) -> None:
    settings: Part = {"max_text_length": (head or {}).get("max_text_length", 25)}
    if size is not None:
        settings["d2s_train_image_shape"] = size
    config: Config = {
        "Global": settings,
        "Architecture": {
            "model_type": kind,
            "algorithm": algorithm,
            "Transform": transform,
            "Backbone": backbone,
            "Neck": neck,
            "Head": head,
            **architecture,
        },
    }
    if resize is not None:
        config["Eval"] = {"dataset": {"transforms": [resize]}}
    if name in CONFIGS:
        raise ValueError(f"two rows are called {name}")
    CONFIGS[name] = copy.deepcopy(config)


# -- detection ------------------------------------------------------------------------------------


def _det(
    name: str, algorithm: str, backbone: Part, neck: Part, head: Part, **architecture: Any
) -> None:
    _row(f"det_{name}", "det", algorithm, backbone, neck, head, size=_DET_SIZE, **architecture)


_MV3 = {"name": "MobileNetV3", "scale": 0.5, "model_name": "large"}
_MV3_PLAIN = {**_MV3, "disable_se": True}
_R18_VD = {"name": "ResNet_vd", "layers": 18}
_R50_VD = {"name": "ResNet_vd", "layers": 50}
_LCNETV3 = {"name": "PPLCNetV3", "scale": 0.75, "det": True}
_DB = {"name": "DBHead", "k": 50}


def _fpn(name: str, width: int, **options: Any) -> Part:
    return {"name": name, "out_channels": width, **options}


_det("mv3_db", "DB", _MV3, _fpn("DBFPN", 256), _DB)
_det("ppocrv2_mobile_db", "DB", _MV3_PLAIN, _fpn("DBFPN", 96), _DB)
_det("ppocrv3_mobile_db", "DB", _MV3_PLAIN, _fpn("RSEFPN", 96, shortcut=True), _DB)
_det("ppocrv3_teacher_db", "DB", _R50_VD, _fpn("LKPAN", 256), {**_DB, "kernel_list": [7, 2, 2]})
_det("ppocrv4_mobile_db", "DB", _LCNETV3, _fpn("RSEFPN", 96, shortcut=True), _DB)
_det(
    "ppocrv4_server_db",
    "DB",
    {"name": "PPHGNet_small", "det": True},
    _fpn("LKPAN", 256, intracl=True),
    {"name": "PFHeadLocal", "k": 50, "mode": "large"},
)
_det("r18_vd_db", "DB", _R18_VD, _fpn("DBFPN", 256), _DB)
_det("r50_vd_db", "DB", _R50_VD, _fpn("DBFPN", 256), _DB)
_det("pplcnet_db", "DB", {"name": "PPLCNet"}, _fpn("DBFPN", 96), _DB)
_det("repsvtr_db", "DB", {"name": "RepSVTR_det"}, _fpn("RSEFPN", 96, shortcut=True), _DB)
_R50_DCN = {"name": "ResNet", "layers": 50, "dcn_stage": [False, True, True, True]}
_det("r50_dbpp", "DB++", {"name": "ResNet", "layers": 50}, _fpn("DBFPN", 256, use_asf=True), _DB)
_det("r50_dcn_dbpp", "DB++", _R50_DCN, _fpn("DBFPN", 256, use_asf=True), _DB)
for _size, _backbone in (("small", _MV3), ("large", _R50_VD)):
    _det(
        f"{'mv3' if _size == 'small' else 'r50_vd'}_east",
        "EAST",
        _backbone,
        {"name": "EASTFPN", "model_name": _size},
        {"name": "EASTHead", "model_name": _size},
    )
_det(
    "r50_vd_sast",
    "SAST",
    {"name": "ResNet_SAST", "layers": 50},
    {"name": "SASTFPN", "with_cab": True},
    {"name": "SASTHead"},
)
_PSE = {"name": "PSEHead", "hidden_dim": 256, "out_channels": 7}
_det("mv3_pse", "PSE", {**_MV3, "scale": 0.5}, _fpn("FPN", 256), _PSE)
_det("r50_vd_pse", "PSE", {"name": "ResNet", "layers": 50}, _fpn("FPN", 256), _PSE)
_FCE_NECK = _fpn("FCEFPN", 256, has_extra_convs=False, extra_stage=0)
_FCE = {"name": "FCEHead", "fourier_degree": 5}
_det("r50_fce", "FCE", {"name": "ResNet", "layers": 50, "out_indices": [1, 2, 3]}, _FCE_NECK, _FCE)
_det(
    "r50_vd_dcn_fce",
    "FCE",
    {**_R50_VD, "dcn_stage": [False, True, True, True], "out_indices": [1, 2, 3]},
    _FCE_NECK,
    _FCE,
)
_det(
    "r18_vd_ct",
    "CT",
    _R18_VD,
    {"name": "CTFPN"},
    {"name": "CT_Head", "in_channels": 512, "hidden_dim": 128, "num_classes": 3},
)
_det(
    "r50_vd_drrg",
    "DRRG",
    _R50_VD,
    {"name": "FPN_UNet", "in_channels": [256, 512, 1024, 2048], "out_channels": 32},
    {"name": "DRRGHead", "in_channels": 32, "text_region_thr": 0.3, "center_region_thr": 0.4},
)

# -- recognition with CTC -------------------------------------------------------------------------


def _rec(
    name: str,
    algorithm: str,
    backbone: Part,
    neck: Part | None,
    head: Part,
    shape: list[int],
    resize: str = "RecResizeImg",
    transform: Part | None = None,
    classes: int = _CLASSES,
    **architecture: Any,
) -> None:
    _row(
        f"rec_{name}",
        "rec",
        algorithm,
        backbone,
        neck,
        {"out_channels": classes, **head},
        transform,
        {resize: {"image_shape": shape}},
        **architecture,
    )


_REC_MV3 = {
    "name": "MobileNetV3",
    "scale": 0.5,
    "model_name": "small",
    "small_stride": [1, 2, 2, 2],
}
_REC_MV3_LARGE = {"name": "MobileNetV3", "scale": 0.5, "model_name": "large"}
_REC_R34_VD = {"name": "ResNet", "layers": 34}
_RESHAPE = {"name": "SequenceEncoder", "encoder_type": "reshape"}
_CTC = {"name": "CTCHead", "fc_decay": 0.00001}
_TPS = {"name": "TPS", "num_fiducial": 20, "loc_lr": 0.1, "model_name": "small"}
_WORD = [3, 32, 100]
_LINE = [3, 48, 320]


def _rnn(width: int) -> Part:
    return {"name": "SequenceEncoder", "encoder_type": "rnn", "hidden_size": width}


for _short, _backbone, _width in (("mv3", _REC_MV3_LARGE, 96), ("r34_vd", _REC_R34_VD, 256)):
    _rec(f"{_short}_crnn", "CRNN", _backbone, _rnn(_width), _CTC, _WORD)
    _rec(f"{_short}_rosetta", "Rosetta", _backbone, _RESHAPE, _CTC, _WORD)
    _rec(f"{_short}_starnet", "STARNet", _backbone, _rnn(_width), _CTC, _WORD, transform=_TPS)
_rec("ppocrv1_mobile_crnn", "CRNN", _REC_MV3, _rnn(48), _CTC, [3, 32, 320])
_rec(
    "ppocrv2_mobile_crnn",
    "CRNN",
    {"name": "MobileNetV1Enhance", "scale": 0.5},
    _rnn(64),
    {"name": "CTCHead", "mid_channels": 96, "fc_decay": 0.00002},
    [3, 32, 320],
)
_rec(
    "micronet_crnn",
    "CRNN",
    {"name": "MicroNet", "mode": "M3"},
    _rnn(48),
    _CTC,
    [3, 32, 320],
)

_SVTR_NECK = {"name": "svtr", "dims": 64, "depth": 2, "hidden_dims": 120, "use_guide": True}
_LIST = {
    "CTCLabelDecode": _CLASSES,
    "SARLabelDecode": _CLASSES + 2,
    "NRTRLabelDecode": _CLASSES + 3,
}


def _multi(gtc: Part, neck: Part = _SVTR_NECK, **options: Any) -> Part:
    ctc = {"Neck": neck, "Head": {"fc_decay": 0.00001}}
    heads = [{"CTCHead": ctc}, gtc]
    return {"name": "MultiHead", "head_list": heads, "out_channels_list": _LIST, **options}


_SAR = {"SARHead": {"enc_dim": 512, "max_text_length": 25}}
_NRTR = {"NRTRHead": {"nrtr_dim": 384, "max_text_length": 25}}
_V4_NECK = {**_SVTR_NECK, "dims": 120, "kernel_size": [1, 3]}
_LCNETV3_REC = {"name": "PPLCNetV3", "scale": 0.95}
_HGNET = {"name": "PPHGNet_small"}
_MV1E = {
    "name": "MobileNetV1Enhance",
    "scale": 0.5,
    "last_conv_stride": [1, 2],
    "last_pool_type": "avg",
    "last_pool_kernel_size": [2, 2],
}
_SVTR_NECK_ALONE = {**_SVTR_NECK, "name": "SequenceEncoder", "encoder_type": "svtr"}


def _lcnet(
    name: str, backbone: Part, head: Part, algorithm: str = "SVTR_LCNet", neck: Part | None = None
) -> None:
    _rec(name, algorithm, backbone, neck, head, _LINE)


_lcnet("svtr_lcnet_ctc", _MV1E, _CTC, neck=_SVTR_NECK_ALONE)
_lcnet("ppocrv3_mobile_ctc_sar", _MV1E, _multi(_SAR))
_lcnet("ppocrv4_mobile_ctc_nrtr", _LCNETV3_REC, _multi(_NRTR, _V4_NECK))
_lcnet("ppocrv4_mobile_ctc_sar", _LCNETV3_REC, _multi(_SAR, _V4_NECK))
_lcnet("ppocrv4_server_ctc_nrtr", _HGNET, _multi(_NRTR, _V4_NECK), "SVTR_HGNet")
_V2 = {
    "name": "SVTRv2",
    "use_pos_embed": False,
    "dims": [64, 128, 256],
    "depths": [3, 6, 3],
    "num_heads": [2, 4, 8],
    "mixer": [["Conv"] * 3, ["Conv"] * 3 + ["Global"] * 3, ["Global"] * 3],
    "local_k": [[5, 5], [5, 5], [-1, -1]],
    "sub_k": [[2, 1], [2, 1], [-1, -1]],
    "last_stage": False,
    "use_pool": True,
}
_lcnet("svtrv2_ctc_nrtr", _V2, _multi(_NRTR, _V4_NECK), "SVTR_HGNet")
_lcnet("repsvtr_ctc_nrtr", {"name": "RepSVTR"}, _multi(_NRTR, _V4_NECK), "SVTR_HGNet")

_SVTR_TINY = {
    "name": "SVTRNet",
    "img_size": [32, 100],
    "out_char_num": 25,
    "out_channels": 192,
    "patch_merging": "Conv",
    "embed_dim": [64, 128, 256],
    "depth": [3, 6, 3],
    "num_heads": [2, 4, 8],
    "mixer": ["Local"] * 6 + ["Global"] * 6,
    "local_mixer": [[7, 11], [7, 11], [7, 11]],
    "last_stage": True,
    "prenorm": False,
}
_rec("svtr_tiny", "SVTR", _SVTR_TINY, _RESHAPE, {"name": "CTCHead"}, _WORD, "SVTRRecResizeImg")
_rec(
    "svtr_tiny_stn",
    "SVTR",
    _SVTR_TINY,
    _RESHAPE,
    {"name": "CTCHead"},
    [3, 64, 256],
    "SVTRRecResizeImg",
    {
        "name": "STN_ON",
        "tps_inputsize": [32, 64],
        "tps_outputsize": [32, 100],
        "num_control_points": 20,
        "tps_margins": [0.05, 0.05],
        "stn_activation": "none",
    },
)

# -- recognition with attention and transformers --------------------------------------------------

_ATT = {"name": "AttentionHead", "hidden_size": 256}
for _short, _backbone in (("mv3", _REC_MV3_LARGE), ("r34_vd", _REC_R34_VD)):
    _rec(f"{_short}_rare", "RARE", _backbone, _rnn(256), _ATT, _WORD, transform=_TPS)
_rec(
    "r50_srn",
    "SRN",
    {"name": "ResNetFPN"},
    None,
    {
        "name": "SRNHead",
        "max_text_length": 25,
        "num_heads": 8,
        "num_encoder_TUs": 2,
        "num_decoder_TUs": 4,
        "hidden_dims": 512,
    },
    [1, 64, 256],
    "SRNRecResizeImg",
    in_channels=1,
)
_rec(
    "mtb_nrtr",
    "NRTR",
    {"name": "MTB", "cnn_num": 2},
    None,
    {
        "name": "Transformer",
        "d_model": 512,
        "num_encoder_layers": 6,
        "beam_size": -1,
    },
    [100, 32],
    "GrayRecResizeImg",
    in_channels=1,
)
_rec(
    "r31_sar",
    "SAR",
    {"name": "ResNet31"},
    None,
    {"name": "SARHead", "max_text_length": 6},
    [3, 48, 48, 96],
    "SARRecResizeImg",
)
_rec(
    "aster_seed",
    "SEED",
    {"name": "ResNet_ASTER"},
    None,
    {"name": "AsterHead", "sDim": 512, "attDim": 512, "max_len_labels": 100},
    [3, 64, 256],
    transform={
        "name": "STN_ON",
        "tps_inputsize": [32, 64],
        "tps_outputsize": [32, 100],
        "num_control_points": 20,
        "tps_margins": [0.05, 0.05],
        "stn_activation": "none",
    },
)
_rec(
    "r32_spin",
    "SPIN",
    {"name": "ResNet32", "out_channels": 512},
    {
        "name": "SequenceEncoder",
        "encoder_type": "cascadernn",
        "hidden_size": 256,
        "out_channels": [256, 512],
        "with_linear": True,
    },
    {"name": "SPINAttentionHead", "hidden_size": 256},
    [100, 32],
    "SPINRecResizeImg",
    {"name": "GA_SPIN", "offsets": True, "default_type": 6, "loc_lr": 0.1, "stn": True},
    in_channels=1,
)
_rec(
    "vitstr",
    "ViTSTR",
    {"name": "ViTSTR"},
    _RESHAPE,
    {"name": "CTCHead"},
    [1, 224, 224],
    "GrayRecResizeImg",
    in_channels=1,
)
_ABINET = {"name": "ResNet45"}
for _suffix, _language in (("_vision", False), ("", True)):
    _rec(
        f"r45_abinet{_suffix}",
        "ABINet",
        _ABINET,
        None,
        {"name": "ABINetHead", "use_lang": _language, "iter_size": 3},
        [3, 32, 128],
        "ABINetRecResizeImg",
        classes=37,
    )
for _step in ("LF_1", "LA"):
    _rec(
        f"r45_visionlan_{_step.lower()}",
        "VisionLAN",
        {"name": "ResNet45", "strides": [2, 2, 2, 1, 1]},
        None,
        {
            "name": "VLHead",
            "n_layers": 3,
            "n_position": 256,
            "n_dim": 512,
            "max_text_length": 25,
            "training_step": _step,
        },
        [3, 64, 256],
        "VLRecResizeImg",
        classes=36,
    )
_rec(
    "efficientnetb3_pren",
    "PREN",
    {"name": "EfficientNetb3_PREN"},
    {"name": "PRENFPN", "n_r": 5, "d_model": 384, "max_len": 25, "dropout": 0.1},
    {"name": "PRENHead"},
    [64, 256],
    "PRENResizeImg",
)
_RFL_TPS = {"name": "TPS", "num_fiducial": 20, "loc_lr": 1.0, "model_name": "large"}
for _suffix, _sequence in (("_visual", False), ("", True)):
    _rec(
        f"rfl{_suffix}",
        "RFL",
        {"name": "ResNetRFL", "use_cnt": True, "use_seq": _sequence},
        {"name": "RFAdaptor", "use_v2s": _sequence, "use_s2v": _sequence},
        {
            "name": "RFLHead",
            "in_channels": 512,
            "hidden_size": 256,
            "batch_max_legnth": 25,
            "use_cnt": True,
            "use_seq": _sequence,
        },
        [1, 32, 100],
        "RFLRecResizeImg",
        _RFL_TPS,
        classes=38,
        in_channels=1,
    )
_rec(
    "r31_robustscanner",
    "RobustScanner",
    {"name": "ResNet31", "init_type": "KaimingNormal"},
    None,
    {
        "name": "RobustScannerHead",
        "enc_outchannles": 128,
        "hybrid_dec_rnn_layers": 2,
        "hybrid_dec_dropout": 0,
        "position_dec_rnn_layers": 2,
        "start_idx": 91,
        "mask": True,
        "padding_idx": 92,
        "encode_value": False,
        "max_text_length": 40,
    },
    [3, 48, 48, 160],
    "RobustScannerRecResizeImg",
    classes=93,
)
_rec(
    "satrn",
    "SATRN",
    {"name": "ShallowCNN", "in_channels": 3, "hidden_dim": 256},
    None,
    {
        "name": "SATRNHead",
        "enc_cfg": {
            "n_layers": 6,
            "n_head": 8,
            "d_k": 32,
            "d_v": 32,
            "d_model": 256,
            "n_position": 100,
            "d_inner": 1024,
            "dropout": 0.1,
        },
        "dec_cfg": {
            "n_layers": 6,
            "d_embedding": 256,
            "n_head": 8,
            "d_model": 256,
            "d_inner": 1024,
            "d_k": 32,
            "d_v": 32,
            "max_seq_len": 25,
            "start_idx": 91,
        },
    },
    [3, 32, 100],
    "SVTRRecResizeImg",
    classes=93,
)
_PARSEQ_HEAD = {
    "name": "ParseQHead",
    "max_text_length": 25,
    "embed_dim": 384,
    "dec_num_heads": 12,
    "dec_mlp_ratio": 4,
    "dec_depth": 1,
    "perm_num": 6,
    "perm_forward": True,
    "perm_mirrored": True,
    "dropout": 0.1,
    "decode_ar": True,
    "refine_iters": 1,
}
_rec(
    "vit_parseq",
    "ParseQ",
    {
        "name": "ViTParseQ",
        "img_size": [32, 128],
        "patch_size": [4, 8],
        "embed_dim": 384,
        "depth": 12,
        "num_heads": 6,
        "mlp_ratio": 4,
        "in_channels": 3,
    },
    None,
    _PARSEQ_HEAD,
    [3, 32, 128],
    "SVTRRecResizeImg",
    in_channels=3,
)
_rec(
    "svtr_cppd",
    "CPPD",
    {
        "name": "SVTRNet",
        "img_size": [32, 100],
        "patch_merging": "Conv",
        "embed_dim": [128, 256, 384],
        "depth": [6, 6, 4],
        "num_heads": [4, 8, 12],
        "mixer": ["Conv"] * 8 + ["Global"] * 10,
        "local_mixer": [[5, 5], [5, 5], [5, 5]],
        "last_stage": False,
        "prenorm": True,
    },
    None,
    {"name": "CPPDHead", "dim": 384, "vis_seq": 50, "num_layer": 3},
    [3, 32, 100],
    "SVTRRecResizeImg",
)

# -- formulas -------------------------------------------------------------------------------------

_row(
    "formula_can",
    "rec",
    "CAN",
    {
        "name": "DenseNet",
        "growthRate": 24,
        "reduction": 0.5,
        "bottleneck": True,
        "use_dropout": True,
        "input_channel": 1,
    },
    None,
    {
        "name": "CANHead",
        "in_channel": 684,
        "out_channel": 111,
        "max_text_length": 36,
        "ratio": 16,
        "attdecoder": {
            "is_train": True,
            "input_size": 256,
            "hidden_size": 256,
            "encoder_out_channel": 684,
            "dropout": True,
            "dropout_ratio": 0.5,
            "word_num": 111,
            "counting_decoder_out_channel": 111,
            "attention": {"attention_dim": 512, "word_conv_kernel": 1},
        },
    },
    size=[1, 64, 256],
    in_channels=1,
)
_row(
    "formula_latexocr",
    "rec",
    "LaTeXOCR",
    {
        "name": "HybridTransformer",
        "img_size": [192, 672],
        "patch_size": 16,
        "num_classes": 0,
        "embed_dim": 256,
        "depth": 4,
        "num_heads": 8,
        "input_channel": 1,
        "is_predict": False,
        "is_export": False,
    },
    None,
    {
        "name": "LaTeXOCRHead",
        "pad_value": 0,
        "is_export": False,
        "decoder_args": {
            "attn_on_attn": True,
            "cross_attend": True,
            "ff_glu": True,
            "rel_pos_bias": False,
            "use_scalenorm": False,
        },
    },
    size=[1, 64, 256],
    in_channels=1,
)
_row(
    "formula_unimernet",
    "rec",
    "UniMERNet",
    {
        "name": "DonutSwinModel",
        "hidden_size": 1024,
        "num_layers": 4,
        "num_heads": [4, 8, 16, 32],
        "add_pooling_layer": True,
        "use_mask_token": False,
    },
    None,
    {
        "name": "UniMERNetHead",
        "max_new_tokens": 8,
        "decoder_start_token_id": 0,
        "temperature": 0.2,
        "do_sample": False,
        "top_p": 0.95,
        "encoder_hidden_size": 1024,
        "decoder_layers": 2,
        "is_export": False,
        "length_aware": True,
    },
    size=[1, 160, 160],
)
_row(
    "formula_ppformulanet_s",
    "rec",
    "PP-FormulaNet-S",
    {"name": "PPHGNetV2_B4", "class_num": 1024},
    None,
    {
        "name": "PPFormulaNet_Head",
        "max_new_tokens": 8,
        "decoder_start_token_id": 0,
        "decoder_ffn_dim": 1536,
        "decoder_hidden_size": 384,
        "decoder_layers": 2,
        "temperature": 0.2,
        "do_sample": False,
        "top_p": 0.95,
        "encoder_hidden_size": 2048,
        "is_export": False,
        "length_aware": True,
        "use_parallel": True,
        "parallel_step": 3,
    },
    size=[1, 384, 384],
)

# -- classification -------------------------------------------------------------------------------

_row(
    "cls_angle_mv3",
    "cls",
    "CLS",
    {"name": "MobileNetV3", "scale": 0.35, "model_name": "small"},
    None,
    {"name": "ClsHead", "class_dim": 2},
    resize={"ClsResizeImg": {"image_shape": [3, 48, 192]}},
)
_row(
    "cls_rotnet_mv1",
    "cls",
    "CLS",
    {**_MV1E, "last_conv_stride": 1, "last_pool_kernel_size": [3, 2]},
    None,
    {"name": "ClsHead", "class_dim": 4},
    resize={"ClsResizeImg": {"image_shape": [3, 48, 320]}},
)
_row(
    "cls_lcnetv3",
    "cls",
    "CLS",
    {"name": "PPLCNetV3", "scale": 0.5},
    None,
    {"name": "ClsHead", "class_dim": 2},
    resize={"ClsResizeImg": {"image_shape": [3, 48, 192]}},
)

# -- end to end, tables, key information, super-resolution -----------------------------------------

_row(
    "e2e_r50_vd_pgnet",
    "e2e",
    "PGNet",
    {"name": "ResNet", "layers": 50},
    {"name": "PGFPN"},
    {"name": "PGHead", "character_dict_path": "ppocr/utils/ic15_dict.txt"},
    size=_DET_SIZE,
)


def _table(name: str, algorithm: str, backbone: Part, neck: Part | None, head: Part, side: int,
           loop: int) -> None:  # fmt: skip
    _row(
        f"table_{name}",
        "table",
        algorithm,
        backbone,
        neck,
        {"out_channels": 50, "loc_reg_num": 4, "max_text_length": loop, **head},
        resize={"PaddingTableImage": {"size": [side, side]}},
    )


_SLA_HEAD = {"name": "SLAHead", "hidden_size": 256, "loc_reg_num": 8}
_TABLE_NECK = {"name": "CSPPAN", "out_channels": 96}
_table("slanet", "SLANet", {"name": "PPLCNet", "scale": 1.0}, _TABLE_NECK, _SLA_HEAD, 488, 40)
_table("slanet_attention", "SLANet", _MV3, _TABLE_NECK, {**_SLA_HEAD, "use_attn": True}, 488, 40)
_table(
    "mv3_tableatt",
    "TableAttn",
    {"name": "MobileNetV3", "scale": 1.0, "model_name": "large"},
    None,
    {"name": "TableAttentionHead", "hidden_size": 256},
    488,
    40,
)
_table(
    "tablemaster",
    "TableMaster",
    {
        "name": "TableResNetExtra",
        "gcb_config": {
            "ratio": 0.0625,
            "headers": 1,
            "att_scale": False,
            "fusion_type": "channel_add",
            "layers": [False, True, True, True],
        },
        "layers": [1, 2, 5, 3],
    },
    None,
    {"name": "TableMasterHead", "hidden_size": 512, "headers": 8, "dropout": 0, "d_ff": 2024},
    120,
    5,
)
_row(
    "kie_sdmgr",
    "kie",
    "SDMGR",
    {"name": "Kie_backbone"},
    None,
    {"name": "SDMGRHead"},
    size=[3, 256, 256],
)
_row("sr_telescope", "sr", "Telescope", None, None, None,
     {"name": "TBSRN", "STN": True, "infer_mode": False})  # fmt: skip
_row("sr_gestalt", "sr", "Gestalt", None, None, None,
     {"name": "TSRN", "STN": True, "infer_mode": False})  # fmt: skip

# -- from the configs of a tree -------------------------------------------------------------------

# Rows of trees that ship these files (the package of 2.10 ships none).
STOCK: dict[str, str] = {
    "det_ppocrv5_mobile": "configs/det/PP-OCRv5/PP-OCRv5_mobile_det.yml",
    "det_ppocrv5_server": "configs/det/PP-OCRv5/PP-OCRv5_server_det.yml",
    "det_ppocrv6_tiny": "configs/det/PP-OCRv6/PP-OCRv6_tiny_det.yml",
    "det_ppocrv6_small": "configs/det/PP-OCRv6/PP-OCRv6_small_det.yml",
    "det_ppocrv6_medium": "configs/det/PP-OCRv6/PP-OCRv6_medium_det.yml",
    "rec_ppocrv5_mobile": "configs/rec/PP-OCRv5/PP-OCRv5_mobile_rec.yml",
    "rec_ppocrv5_server": "configs/rec/PP-OCRv5/PP-OCRv5_server_rec.yml",
    "rec_ppocrv6_tiny": "configs/rec/PP-OCRv6/PP-OCRv6_tiny_rec.yml",
    "rec_ppocrv6_small": "configs/rec/PP-OCRv6/PP-OCRv6_small_rec.yml",
    "rec_ppocrv6_medium": "configs/rec/PP-OCRv6/PP-OCRv6_medium_rec.yml",
    "cls_textline_orientation": "configs/cls/cls_mv3.yml",
    "cls_document_orientation": "configs/cls/ch_PP-OCRv3/ch_PP-OCRv3_rotnet.yml",
}


def names_of(tree: Path) -> list[str]:
    """Rows that can be tried on a tree."""
    return [*CONFIGS, *(name for name, file in STOCK.items() if (tree / file).is_file())]


def config_of(name: str, tree: Path) -> Config:
    """The config of a row: one of the table, or the tree's own, with few characters and a small
    image for detectors."""
    if name not in STOCK:
        return copy.deepcopy(CONFIGS[name])
    whole = yaml.safe_load((tree / STOCK[name]).read_text(encoding="utf-8"))
    config: Config = {"Global": {}}
    for part in ("Architecture", "PostProcess", "Train", "Eval"):
        config[part] = whole[part]
    kind = config["Architecture"]["model_type"]
    if "max_text_length" in whole["Global"]:
        config["Global"]["max_text_length"] = whole["Global"]["max_text_length"]
    if kind == "det":
        config["Global"]["d2s_train_image_shape"] = list(_DET_SIZE)
    if kind == "rec":
        set_out_channels(config, _CLASSES)
    return config
