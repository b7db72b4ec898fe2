"""Running what was exported, to compare it with the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from paddle.static import InputSpec

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.patches.export import run_inference
from ppocr_prune_plugin.network import random_inputs

SIZE = [1, 3, 8, 8]


def saved(layer: paddle.nn.Layer, path: Path, *specs: Any) -> str:
    layer.eval()
    paddle.jit.save(paddle.jit.to_static(layer, input_spec=list(specs)), str(path / "inference"))
    return str(path / "inference")


class Difference(paddle.nn.Layer):
    """Takes a picture and two more tensors."""

    def forward(self, picture: Any, others: Any) -> Any:
        return picture - 2 * others[1] + 3 * others[0]


def test_several_inputs_come_in_their_order(tmp_path: Path) -> None:
    others = [np.full(SIZE, value, "float32") for value in (14, 7)]
    specs = [InputSpec([None, *item.shape[1:]], "float32") for item in others]
    path = saved(Difference(), tmp_path, InputSpec([None, *SIZE[1:]], "float32"), specs)
    picture = (SIZE, "float32")
    (out,) = run_inference(path, [picture, others])
    expected = random_inputs([picture])[0] + 42 - 14
    np.testing.assert_allclose(out, expected, atol=1e-5)


class FixedSize(paddle.nn.Layer):
    def forward(self, picture: Any) -> Any:
        return picture.reshape([1, 192])


def test_an_export_that_cannot_run_is_one_sentence(tmp_path: Path) -> None:
    path = saved(FixedSize(), tmp_path, InputSpec([1, 3, -1, -1], "float32"))
    assert run_inference(path, [(SIZE, "float32")])[0].shape == (1, 192)
    with pytest.raises(PruneError, match=r"Paddle Inference cannot run it \(.*Reshape.*\)") as info:
        run_inference(path, [([1, 3, 16, 8], "float32")])
    assert "\n" not in str(info.value) and "Prune.enable=false" in str(info.value)
