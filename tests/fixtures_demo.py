"""Real weights and rendered images, made once per session."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from made_once import made_once
from training import Tools


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root of a small rendered data set: train.txt (16 images), val.txt (6)."""
    from demo.render import render

    return made_once(tmp_path_factory, "rendered", partial(render, train=16, val=6))


@pytest.fixture(scope="session")
def det_weights(tmp_path_factory: pytest.TempPathFactory, rendered: Path, tree: Path) -> Path:
    """Recovered PP-OCRv4 detector (conv_kxk_num 1): the path without ``.pdparams``."""
    from demo.weights import recover

    images = sorted((rendered / "train").glob("*.jpg"))[:12]
    made = made_once(tmp_path_factory, "det", lambda to: recover("det", to / "det", images))
    return made / "det"


@pytest.fixture(scope="session")
def det_config(tmp_path_factory: pytest.TempPathFactory, rendered: Path) -> Path:
    """A training config for ``rendered`` and ``det_weights``, with small images.

    Nothing is trained by default: give ``Global.pretrained_model`` and ``Global.save_model_dir``.
    """
    from demo.configs import det_config as make
    from demo.configs import write_config

    folder = tmp_path_factory.mktemp("config")
    config = make(rendered, folder / "output", epochs=1, batch_size=4, crop=160, eval_side=480)
    config["Global"]["d2s_train_image_shape"] = [3, 160, 160]
    return write_config(config, folder / "det.yml")


@pytest.fixture(scope="session")
def det_tools(
    run_tool: Callable[..., subprocess.CompletedProcess[str]],
    tree: Path,
    det_config: Path,
    det_weights: Path,
) -> Tools:
    """PaddleOCR's tools on the detector."""
    return Tools(run_tool, tree, det_config, det_weights)
