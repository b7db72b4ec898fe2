"""What an exported detector finds, prepared and decoded as a config evaluates it."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree

from .exported import load

_OF_LABELS = ("DetLabelEncode", "KeepKeys")


class Detector:
    """An exported model with the ``Eval`` transforms and the ``PostProcess`` of a config."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        use_tree(find_tree())
        from ppocr.data.imaug import create_operators
        from ppocr.postprocess import build_post_process

        # PaddleOCR writes the global settings into the transforms that it is given.
        transforms = copy.deepcopy(config["Eval"]["dataset"]["transforms"])
        chosen = [item for item in transforms if not set(item) & set(_OF_LABELS)]
        self._transforms = create_operators(chosen, config["Global"])
        self._decode = build_post_process(dict(config["PostProcess"]), {})
        self._model = load(folder)

    def boxes(self, image: Path) -> list[Any]:
        """The boxes ``[4, 2]`` in an image, in its own pixels.

        Raises:
            PruneError: it cannot be read.
        """
        data: Any = {"image": image.read_bytes()}
        for transform in self._transforms:
            data = transform(data)
            if data is None:
                raise PruneError(f"{image} cannot be read as an image")
        maps = self._model(np.ascontiguousarray(data["image"][None], np.float32))[0]
        return list(self._decode({"maps": maps}, data["shape"][None])[0]["points"])
