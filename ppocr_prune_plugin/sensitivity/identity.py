"""What measurements belong to: everything that a loss depends on, item by item and by name."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import islice

import paddle

# Of this package's way to measure. Raise it with every change that would give the same network,
# images and settings other losses: another cut, another adaptation of batch norms, another metric.
METHOD = 3

NOT_SET = "not set"
_SHOWN = 6  # differences in one message


def fingerprint(
    model: paddle.nn.Layer,
    criterion: str,
    metric: str,
    data: str,
    bn_batches: int,
    settings: Mapping[str, str],
    by: str = "metric",
) -> dict[str, str]:
    """What a sensitivity file belongs to.

    Args:
        model: the unpruned network.
        criterion: its identity.
        metric: name of the main indicator.
        data: what tells one evaluation set from another.
        bn_batches: number of batches that batch norms are re-estimated on.
        settings: what else the metric and the cut depend on, by name.
        by: what losses are shares of, as in ``Prune.sensitivity.by``.
    """
    structure, weights = hashlib.sha256(), hashlib.sha256()
    for name, tensor in model.state_dict().items():
        array = tensor.numpy()
        structure.update(f"{name}{array.shape}".encode())
        weights.update(array.tobytes())
    return {
        "model": structure.hexdigest()[:16],
        "weights": weights.hexdigest()[:16],
        "criterion": criterion,
        "metric": metric,
        "evaluation set": data,
        "bn_batches": str(bn_batches),
        "method of measuring": str(METHOD),
        # Not said where it is the metric: files that were measured before there was a choice.
        **({} if by == "metric" else {"Prune.sensitivity.by": by}),
        **settings,
    }


def differences(found: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """``another metric ('hmean' there, 'acc' here) and another …``: what is not the same in two
    fingerprints; empty where all is."""
    names = [
        name
        for name in {**expected, **found}
        if found.get(name, NOT_SET) != expected.get(name, NOT_SET)
    ]
    said = [
        f"another {name} ({found.get(name, NOT_SET)!r} there, {expected.get(name, NOT_SET)!r} here)"
        for name in islice(names, _SHOWN)
    ]
    if len(names) > _SHOWN:
        said.append(f"{len(names) - _SHOWN} more")
    return " and ".join([", ".join(said[:-1]), said[-1]] if said[1:] else said)
