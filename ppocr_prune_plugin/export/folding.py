"""Replace an exported model by the folded one, if that is the same network."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..engines.paddle import OFF, Predictor
from ..errors import PruneError
from .check import Differs, Reference
from .exported import ExportedModel, flat
from .fold import fold

TOLERANCE = 1e-5  # of what an output varies by


def fold_checked(prefix: Path, inputs: Sequence[Any]) -> tuple[str, str]:
    """Fold an exported model in place, or leave it as it is.

    Args:
        prefix: path of the model without an extension.
        inputs: what it takes: ``(shape, dtype)`` pairs, or arrays for what has to be as it is.

    Returns:
        How to log what was done ("info" or "warning"), and in which words.

    Raises:
        PruneError: the model cannot be run.
    """
    if not Path(f"{prefix}.json").is_file():
        return "info", (
            "not folded: the model is in Paddle's old form (.pdmodel); set "
            "Global.export_with_pir=true to have batch norms, scales and shifts folded"
        )
    predictor = Predictor(prefix, onednn=OFF)
    whole = Reference(lambda arrays: predictor(*flat(arrays)), inputs, TOLERANCE)
    with tempfile.TemporaryDirectory(prefix=".ppocr-prune-fold-", dir=prefix.parent) as folder:
        target = Path(folder, prefix.name)
        try:
            counts = fold(prefix, target)
        except PruneError as error:
            return "warning", f"not folded: {error}"
        if counts.before == counts.after:
            return "info", "nothing to fold in the exported model"
        try:
            agreement = whole.compare(ExportedModel(target), {})
        except Differs as error:
            return "warning", f"not folded: the folded model is not the same: {error}"
        for suffix in (".pdiparams", ".json"):
            os.replace(f"{target}{suffix}", f"{prefix}{suffix}")
    said = f"folded {counts} into the layers around them"
    if agreement.difference is None:
        return "warning", f"{said}; whether outputs stay cannot be seen: {agreement.why}"
    return (
        "info",
        f"{said}; outputs differ by at most {agreement.difference:.1e} of what they vary by",
    )
