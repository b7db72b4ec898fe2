"""How PaddleOCR's training loop calls each kind of model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import paddle

# Models whose forward takes labels beside pictures, as tools/program.py lists them.
_EXTRA_INPUT = frozenset(
    {
        *("SRN", "NRTR", "SAR", "SEED", "SVTR", "SVTR_LCNet", "SPIN", "VisionLAN", "RFL", "DRRG"),
        *("RobustScanner", "SATRN", "SVTR_HGNet", "ParseQ", "CPPD"),
    }
)
_WHOLE_BATCH = frozenset({"LaTeXOCR", "UniMERNet", "PP-FormulaNet-S", "PP-FormulaNet-L"})


def takes_labels(config: Mapping[str, Any]) -> bool:
    """Whether the model (or a part of a distillation model) takes labels beside pictures."""
    architecture = config["Architecture"]
    parts = (architecture.get("Models") or {"": architecture}).values()
    return any(part.get("algorithm") in _EXTRA_INPUT for part in parts)


def call_arguments(batch: list[Any], config: Mapping[str, Any]) -> list[Any]:
    """Positional arguments that ``tools.program.train`` makes of a batch of its loader."""
    architecture = config["Architecture"]
    kind, algorithm = architecture.get("model_type"), architecture.get("algorithm")
    if kind == "table" or takes_labels(config):
        return [batch[0], batch[1:]]
    if kind in ("kie", "sr") or algorithm in _WHOLE_BATCH:
        return [batch]
    if algorithm == "CAN":
        return [batch[:3]]
    return [batch[0]]


def training_forward(model: paddle.nn.Layer, batch: list[Any], config: Mapping[str, Any]) -> Any:
    """Call the model on a batch of the training loader as ``tools.program.train`` does."""
    return model(*call_arguments(batch, config))
