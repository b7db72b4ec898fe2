"""Shapes are read from weights files as Paddle writes them; what is not one is refused unrun."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle import nn

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.errors import PruneError


def model() -> nn.Layer:
    return nn.Sequential(nn.Conv2D(3, 8, 3), nn.BatchNorm2D(8), nn.Flatten(), nn.Linear(8, 2))


SHAPES = {
    "0.weight": (8, 3, 3, 3),
    "0.bias": (8,),
    "1.weight": (8,),
    "1.bias": (8,),
    "1._mean": (8,),
    "1._variance": (8,),
    "3.weight": (8, 2),
    "3.bias": (2,),
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "float64"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_what_paddle_saves(tmp_path: Path, dtype: str, protocol: int) -> None:
    path = tmp_path / "best_accuracy.pdparams"
    paddle.save(model().to(dtype=dtype).state_dict(), str(path), protocol=protocol)
    assert read_shapes(path) == SHAPES


def test_a_state_dict_of_arrays_and_one_inside_another(tmp_path: Path) -> None:
    """Older files hold bare arrays; a nested dictionary is not a layer's."""
    path = tmp_path / "old.pdparams"
    arrays = {name: np.zeros(shape, "float32") for name, shape in SHAPES.items()}
    with open(path, "wb") as file:
        pickle.dump({**arrays, "StructuredToParameterName@@": {"0.weight": "conv2d_0.w_0"}}, file)
    assert read_shapes(path) == SHAPES
    paddle.save({"epoch": 3, "state": model().state_dict()}, str(path))
    assert read_shapes(path) == {}


class Malicious:
    def __init__(self, *reduced: Any) -> None:
        self.reduced = reduced

    def __reduce__(self) -> Any:
        return self.reduced


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    attacks = [
        (os.system, (f"touch {victim}",)),
        (eval, (f"open({str(victim)!r}, 'w')",)),
        (np.save, (str(victim), np.zeros(1))),
        (getattr, (Path(), "exists")),
    ]
    for number, attack in enumerate(attacks):
        path = tmp_path / f"{number}.pdparams"
        path.write_bytes(pickle.dumps({"0.weight": Malicious(*attack)}))
        with pytest.raises(PruneError, match="does not belong in a weights file"):
            read_shapes(path)
    assert not list(tmp_path.glob("victim*"))


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "latest.pdparams"
    paddle.save(model().state_dict(), str(path))
    whole = path.read_bytes()
    for spoiled in (whole[: len(whole) // 2], whole[:-1], b"", b"<html>404</html>"):
        path.write_bytes(spoiled)
        with pytest.raises(PruneError, match="not a complete Paddle weights file") as error:
            read_shapes(path)
        assert str(path) in str(error.value)
    path.write_bytes(pickle.dumps([1, 2]))
    with pytest.raises(PruneError, match="holds a list, not a dictionary"):
        read_shapes(path)
    with pytest.raises(PruneError, match="cannot be read"):
        read_shapes(tmp_path / "none.pdparams")
