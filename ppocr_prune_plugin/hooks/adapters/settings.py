"""What of a config measured losses depend on, item by item: a sensitivity file remembers it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ... import arrays
from ...sensitivity.identity import NOT_SET
from .calibration_batches import Batch, as_arrays, described

# How the network is evaluated in half precision; says nothing where `use_amp` is off.
_AMP = ("amp_level", "amp_dtype", "amp_custom_black_list", "amp_custom_white_list")
# Of a network's architecture, what only training reads.
_TRAINING = ("pretrained", "freeze_params")
_DEEPEST = 8


def measured_settings(
    config: Mapping[str, Any], versions: Mapping[str, str], calibration: Sequence[Batch]
) -> dict[str, str]:
    """Settings behind a loss: the network's, the metric's, those of half precision and of the
    dictionary, versions of the caller's software, and the calibration batches by content.

    What goes into the evaluation set shows in its own content, and the rest of a training (its
    optimizer, its schedule) changes no loss.
    """
    settings = config.get("Global") or {}
    found = {
        **_flat("Architecture", config.get("Architecture"), _TRAINING),
        **_flat("PostProcess", config.get("PostProcess")),
        **_flat("Metric", config.get("Metric")),
        "Global.use_amp": json.dumps(bool(settings.get("use_amp"))),
        "Global.use_space_char": json.dumps(bool(settings.get("use_space_char"))),
        "Global.character_dict_path (content)": _content(settings.get("character_dict_path")),
        **versions,
        "calibration batches": calibration_identity(calibration),
    }
    if settings.get("use_amp"):
        for key in _AMP:
            found.update(_flat(f"Global.{key}", settings.get(key)))
    return found


def gradient_settings(config: Mapping[str, Any], batches: Sequence[Batch]) -> dict[str, str]:
    """What gradients of the training loss depend on beyond that."""
    return {
        **_flat("Loss", config.get("Loss")),
        "batches for gradients": calibration_identity(batches),
    }


def calibration_identity(batches: Sequence[Batch]) -> str:
    """Tells batches apart by what is in them; their number goes before it."""
    return f"{len(batches)}, checksum {arrays.digest([as_arrays(batch) for batch in batches])}"


def _flat(name: str, value: Any, without: Sequence[str] = ()) -> dict[str, str]:
    """``{"PostProcess.box_thresh": "0.6", …}``."""
    return dict(_items(name, value, without, _DEEPEST))


def _items(name: str, value: Any, without: Sequence[str], depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping) and value and depth:
        for key, item in value.items():
            if key not in without:
                yield from _items(f"{name}.{key}", item, without, depth - 1)
    elif value is not None:
        yield name, _text(value)


def _text(value: Any) -> str:
    """One line, not too long, and another for another value."""
    text = described(value)
    if len(text) <= 80:
        return text
    return f"{text[:60]}… (checksum {hashlib.sha256(text.encode()).hexdigest()[:8]})"


def _content(path: Any) -> str:
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]
    except (OSError, TypeError, ValueError):
        return NOT_SET  # PaddleOCR reads it, or has another
