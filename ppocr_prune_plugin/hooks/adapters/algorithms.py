"""What has to be known of PaddleOCR's algorithms by name, in one table.

Whatever a tree's own code says (:mod:`.decisions`) or a config states is taken from there. Here is
the rest: the labels of configs that have no training set, what an exported model takes beside an
image, and which models are not for pruning. ``ppocr-prune doctor`` names the algorithms of a tree
that are not in it (:func:`unknown_algorithms`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...errors import PruneError
from .decisions import named_algorithms

_MULTI = ("label_ctc", "label_gtc", "length", "valid_ratio")
_FORMULA = ("label", "attention_mask")
_CELLS = ("structure", "bboxes", "bbox_masks", "shape")
_CELLS_AND_LENGTH = ("structure", "bboxes", "bbox_masks", "length", "shape")

# Collators that complete a batch: the model gets these labels, whatever KeepKeys says.
COLLATORS: dict[str, tuple[str, ...]] = {
    "DyMaskCollator": ("image_mask", "label", "label_mask"),
    "LaTeXOCRCollator": _FORMULA,
    "UniMERNetCollator": _FORMULA,
}


@dataclass(frozen=True)
class Algorithm:
    """One algorithm.

    Attributes:
        labels: what the loader gives after the image, in the order of PaddleOCR's configs; empty
            where the model takes images alone.
        collated: whether a collator makes the labels, so that ``KeepKeys`` does not name them.
        deployed: which of the labels the deployed model takes as well.
        size: ``[channels, height, width]`` where neither the config nor the exporter states one.
        whole_text: whether texts are as long as the head counts positions.
        refused: why it is not for pruning.
    """

    labels: tuple[str, ...] = ()
    collated: bool = False
    deployed: tuple[str, ...] = ()
    size: tuple[int, int, int] | None = None
    whole_text: bool = False
    refused: str = ""


_IMAGES = Algorithm()
_TEXT = Algorithm(("label", "length"))
_FORMULAS = Algorithm(_FORMULA, collated=True)
_LANGUAGE_MODEL = Algorithm(
    refused="is a language model that PaddleNLP loads, and not one network of PaddleOCR's"
)
_GRAPH = ("relations", "texts", "points", "labels", "tag", "shape")
_STROKES = ("img_hr", "length", "input_tensor", "label")
_GSRM = ("encoder_word_pos", "gsrm_word_pos", "gsrm_slf_attn_bias1", "gsrm_slf_attn_bias2")

ALGORITHMS: dict[str, Algorithm] = {
    # A distillation config: its sub-models have algorithms of their own.
    "Distillation": _IMAGES,
    **dict.fromkeys(
        ("DB", "DB++", "EAST", "SAST", "PSE", "FCE", "CT", "DRRG", "PGNet", "CLS"), _IMAGES
    ),
    **dict.fromkeys(
        ("CRNN", "Rosetta", "STARNet", "RARE", "PREN", "ViTSTR", "ABINet"), _IMAGES
    ),
    **dict.fromkeys(("SVTR_LCNet", "SVTR_HGNet"), Algorithm(_MULTI)),
    **dict.fromkeys(("SVTR", "NRTR", "SPIN", "ParseQ"), _TEXT),
    "SRN": Algorithm(("label", "length", *_GSRM), deployed=_GSRM, whole_text=True),
    "SAR": Algorithm(("label", "valid_ratio"), deployed=("valid_ratio",)),
    "SATRN": Algorithm(("label", "valid_ratio"), whole_text=True),
    "RobustScanner": Algorithm(
        ("label", "valid_ratio", "word_positons"),
        deployed=("valid_ratio", "word_positons"),
        whole_text=True,
    ),
    "SEED": Algorithm(("label", "length", "fast_label")),
    "RFL": Algorithm(("label", "length", "cnt_label")),
    "VisionLAN": Algorithm(
        ("label", "label_res", "label_sub", "label_id", "length"), whole_text=True
    ),
    "CPPD": Algorithm(("label", "label_node", "length")),
    "CAN": Algorithm(
        COLLATORS["DyMaskCollator"],
        collated=True,
        deployed=("image_mask", "label"),
        size=(1, 64, 256),
    ),
    "LaTeXOCR": Algorithm(_FORMULA, collated=True, size=(1, 64, 256)),
    "UniMERNet": Algorithm(_FORMULA, collated=True, size=(1, 192, 672)),
    **dict.fromkeys(("PP-FormulaNet-S", "PP-FormulaNet-L"), _FORMULAS),
    **dict.fromkeys(
        ("PP-FormulaNet_plus-S", "PP-FormulaNet_plus-M", "PP-FormulaNet_plus-L"), _FORMULAS
    ),
    **dict.fromkeys(("TableAttn", "TableMaster"), Algorithm(_CELLS)),
    **dict.fromkeys(("SLANet", "SLANeXt"), Algorithm(_CELLS_AND_LENGTH)),
    "SDMGR": Algorithm(_GRAPH, deployed=_GRAPH),
    "Telescope": Algorithm(("img_hr", "label"), deployed=("img_hr", "label")),
    "Gestalt": Algorithm(_STROKES, deployed=_STROKES),
    **dict.fromkeys(("LayoutLM", "LayoutLMv2", "LayoutXLM"), _LANGUAGE_MODEL),
}  # fmt: skip

_IN_YAML = re.compile(r"""^\s*algorithm:\s*(?:&\w+\s*)?["']?([^\s"'#*][^\s"'#]*)""", re.M)


def algorithm_of(architecture: Mapping[str, Any]) -> Algorithm:
    """What the table says of a network; nothing of an algorithm that is not in it."""
    return ALGORITHMS.get(str(architecture.get("algorithm")), _IMAGES)


def require_prunable(config: Mapping[str, Any], source: str) -> None:
    """Refuse what is not for pruning before it is built.

    Args:
        config: the config of a network, or of a distillation model.
        source: its file, for the message.

    Raises:
        PruneError: it is refused in the table.
    """
    architecture = config["Architecture"]
    for part in (architecture, *(architecture.get("Models") or {}).values()):
        refused = algorithm_of(part).refused
        if refused:
            raise PruneError(
                f"{source}: Architecture.algorithm: {part['algorithm']} {refused}, so it cannot "
                "be pruned here. Prunable are detection, recognition, classification, table and "
                "super-resolution networks."
            )


def unknown_algorithms(tree: Path) -> list[str]:
    """Algorithms that a PaddleOCR tree knows and the table does not, in order.

    They are looked for in the configs that it ships, and in the code that branches on their names.
    Such a network is pruned as far as the tree's code and the config say what it takes.
    """
    found = set(named_algorithms(tree))
    for config in (tree / "configs").rglob("*.y*ml"):
        found.update(_IN_YAML.findall(config.read_text(encoding="utf-8", errors="replace")))
    return sorted(found - set(ALGORITHMS))
