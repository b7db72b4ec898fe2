"""Where a recogniser has its classes: one with fewer characters answers what the whole one does for
those that are left."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest

from ppocr_prune_plugin.chance import without_chance
from ppocr_prune_plugin.graph.live import tensors_in
from ppocr_prune_plugin.hooks.adapters import dictionaries
from ppocr_prune_plugin.hooks.adapters.calls import call_arguments
from ppocr_prune_plugin.hooks.adapters.classes import (
    before_cut,
    class_axes,
    cut_beside,
    cut_weights,
    cuts_for,
)
from ppocr_prune_plugin.hooks.adapters.labels import training_labels
from ppocr_prune_plugin.hooks.adapters.sub_models import SubModel
from ppocr_prune_plugin.hooks.adapters.tree import set_out_channels, use_tree
from ppocr_prune_plugin.network import as_tensors

Config = dict[str, Any]

WHOLE = "abcdefghijklmnopqrstuvwxyz0123456789+-%"
KEPT = "abcdefknprz0379-"

_ENCODER = {"name": "svtr", "dims": 16, "depth": 1, "hidden_dims": 16}
_MULTI: Config = {
    "name": "MultiHead",
    "head_list": [{"CTCHead": {"Neck": _ENCODER, "Head": {"fc_decay": 1e-5, "mid_channels": 8}}}],
}
_GTC = {
    "SAR": {"SARHead": {"enc_dim": 16, "max_text_length": 6}},
    "NRTR": {"NRTRHead": {"nrtr_dim": 32, "num_decoder_layers": 1, "max_text_length": 6}},
}


def _multi(name: str) -> Config:
    return {**_MULTI, "head_list": [*_MULTI["head_list"], _GTC[name]]}


# PaddleOCR's heads without what comes before them: algorithm, what decodes it, the head, the shape
# of the features of an image, and where its encoder of labels counts from.
HEADS: dict[str, tuple[str, str, Config, tuple[int, ...], int]] = {
    "ctc": ("CRNN", "CTC", {"name": "CTCHead"}, (6, 16), 0),
    "vitstr": ("ViTSTR", "ViTSTR", {"name": "CTCHead"}, (6, 16), 0),
    "multi_sar": ("SVTR_LCNet", "CTC", _multi("SAR"), (16, 1, 8), 0),
    "multi_nrtr": ("SVTR_LCNet", "CTC", _multi("NRTR"), (16, 1, 8), 0),
    "rare": ("RARE", "Attn", {"name": "AttentionHead", "hidden_size": 16}, (6, 16), 0),
    "spin": ("SPIN", "SPIN", {"name": "SPINAttentionHead", "hidden_size": 16}, (6, 16), 0),
    "srn": (
        "SRN",
        "SRN",
        {"name": "SRNHead", "max_text_length": 6, "num_heads": 8, "num_encoder_TUs": 1,
         "num_decoder_TUs": 1, "hidden_dims": 512},
        (512, 4, 8),
        0,
    ),
    "nrtr": (
        "NRTR",
        "NRTR",
        {"name": "Transformer", "d_model": 32, "nhead": 4, "num_encoder_layers": 1,
         "num_decoder_layers": 1, "beam_size": -1},
        (6, 32),
        0,
    ),
    "sar": ("SAR", "SAR", {"name": "SARHead", "max_text_length": 6, "enc_dim": 16}, (16, 4, 8), 0),
    "abinet": (
        "ABINet",
        "ABINet",
        {"name": "ABINetHead", "use_lang": True, "iter_size": 2, "num_layers": 1},
        (512, 8, 32),
        0,
    ),
    "visionlan": (
        "VisionLAN",
        "VL",
        {"name": "VLHead", "n_layers": 1, "n_position": 256, "n_dim": 512, "max_text_length": 6,
         "training_step": "LA"},
        (512, 8, 32),
        1,
    ),
    "parseq": (
        "ParseQ",
        "ParseQ",
        {"name": "ParseQHead", "max_text_length": 25, "embed_dim": 48, "dec_num_heads": 4,
         "dec_mlp_ratio": 2, "dec_depth": 1, "perm_num": 2, "perm_forward": True,
         "perm_mirrored": True, "dropout": 0.1, "decode_ar": True, "refine_iters": 0},
        (8, 48),
        0,
    ),
    "cppd": (
        "CPPD",
        "CPPD",
        {"name": "CPPDHead", "dim": 48, "vis_seq": 8, "num_layer": 1},
        (8, 48),
        0,
    ),
}  # fmt: skip


@contextmanager
def settled(config: Config, folder: Path, kept: str | None = KEPT) -> Iterator[Config]:
    """The config with its dictionary, whole or cut, as the tools have it when they build."""
    (folder / "whole.txt").write_text("".join(f"{c}\n" for c in WHOLE))
    config = copy.deepcopy(config)
    config["Global"] |= {"character_dict_path": str(folder / "whole.txt")}
    whole = tuple(WHOLE)
    if kept is not None:
        cut = dictionaries.CutDictionary.of(tuple(kept), whole)
        dictionaries._use(config, cut, whole, config["Global"]["character_dict_path"])
    try:
        yield config
    finally:
        dictionaries._in_use = None


def built(config: Config) -> SubModel:
    """A network with random weights, as PaddleOCR's tools build it."""
    from ppocr.modeling.architectures import build_model
    from ppocr.postprocess import build_post_process

    post_process = build_post_process(config["PostProcess"], config["Global"])
    set_out_channels(config, len(post_process.character))
    with paddle.utils.unique_name.guard():
        model = build_model(config["Architecture"])
    return SubModel("", model, config)


def answers(part: SubModel, features: tuple[int, ...], training: bool) -> list[np.ndarray]:
    """To features, with labels of characters that stay."""
    labels = training_labels(part.config, (1, 32, 64), 2).values()
    x = np.random.default_rng(0).standard_normal((2, *features)).astype("float32")
    part.model.train() if training else part.model.eval()
    given = as_tensors(call_arguments([x, *labels], part.config))
    with without_chance(part.model), paddle.no_grad():
        if training and type(part.model.head).__name__ == "ParseQHead":
            found = tensors_in(_permuted(part.model.head, *given))
        else:
            found = tensors_in(part.model(*given))
    return [tensor.numpy() for tensor in found if tensor.dtype in (paddle.float32, paddle.int64)]


def _permuted(head: Any, x: paddle.Tensor, labels: list[paddle.Tensor]) -> Any:
    """What PARSeq's ``forward`` calls when it trains: before that it takes the first item of a
    number (``paddle.max(…).numpy()[0]``), which Paddle has refused since 2.5. Permutations are
    drawn alike."""
    paddle.seed(5)
    return head.forward_train(x, labels[0][:, : int(labels[1].max()) + 2])


def classes_of(algorithm: str, config: Config, shift: int) -> dict[str, int]:
    """The class of every character, by PaddleOCR's own encoder of labels."""
    from ppocr.data.imaug import label_ops

    names = {"CRNN": "CTC", "SVTR_LCNet": "CTC", "RARE": "Attn", "VisionLAN": "VL"}
    encoder = getattr(label_ops, f"{names.get(algorithm, algorithm)}LabelEncode")
    made = encoder(**{"max_text_length": 25, **config["Global"]})
    return {character: made.dict[character] + shift for character in made.character_str}


@pytest.mark.parametrize("name", HEADS)
def test_fewer_characters_change_nothing_for_those_that_are_left(
    tree: Path, tmp_path: Path, name: str
) -> None:
    """A network that never answers the others computes the same without them, as it trains and as
    it is deployed."""
    use_tree(tree)
    algorithm, decoder, head, features, shift = HEADS[name]
    config: Config = {
        "Global": {"use_space_char": False, "max_text_length": 25},
        "Architecture": {"model_type": "rec", "algorithm": algorithm, "in_channels": features[0],
                         "Backbone": None, "Neck": None, "Head": head},
        "PostProcess": {"name": f"{decoder}LabelDecode"},
    }  # fmt: skip
    if len(features) == 2:
        config["Architecture"]["in_channels"] = features[1]
    with settled(config, tmp_path, kept=None) as own:
        paddle.seed(3)
        whole = built(own)
        known = classes_of(algorithm, own, shift)
        others = classes_of(name.partition("_")[2].upper(), own, 0) if "multi" in name else known
    content = {name: tensor.clone() for name, tensor in whole.model.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in content.items()}
    with settled(config, tmp_path) as own:
        part = built(own)
        axes, used = class_axes(part), dictionaries.in_use()
        assert used is not None
        left = classes_of(algorithm, own, shift)
        cuts = cuts_for(part, shapes, tmp_path / "whole.pdparams", used, "Global.pretrained_model")
        lengths = before_cut(part, None, used)

    def lost(length: int) -> list[int]:
        """Classes that go, of so many: of a MultiHead's two heads CTC has the fewest."""
        where = known if length == len(WHOLE) + 1 else others
        return [where[character] for character in WHOLE if character not in KEPT]

    for parameter, by_axis in axes.items():
        assert {axis: shapes[parameter][axis] for axis in by_axis} == lengths[parameter]
    # Characters that go are never the answer: their logits are far below all others.
    for parameter, by_axis in axes.items():
        if parameter.endswith("bias") and 0 in by_axis:
            bias = content[parameter].numpy()
            bias[lost(len(bias))] = -1e4
            content[parameter] = paddle.to_tensor(bias)
    if name == "nrtr":  # its last layer has no bias, so that a feature which is always 9 serves
        for parameter, value in (("weight", 0.0), ("bias", 9.0)):
            content[f"head.decoder.0.norm3.{parameter}"][0] = value
        content["head.tgt_word_prj.weight"][0, lost(0)] = -1e3
    whole.model.set_state_dict(content)
    cut_weights(content, cuts)
    assert {n: tuple(t.shape) for n, t in content.items()} == {
        n: tuple(t.shape) for n, t in part.model.state_dict().items()
    }
    part.model.set_state_dict(content)
    assert list(left) == list(KEPT)
    classes = shift + whole.config["Architecture"]["Head"].get("out_channels", 0)
    classes += name == "nrtr"  # its last layer has one that no dictionary counts
    stay = np.delete(np.arange(classes), lost(classes) if "multi" not in name else [])
    for training in (True, False):
        compared = 0
        for before, after in zip(
            answers(whole, features, training), answers(part, features, training), strict=True
        ):
            axes_left = [
                axis for axis in range(after.ndim) if before.shape[axis] != after.shape[axis]
            ]
            for axis in axes_left:
                before = np.delete(before, lost(before.shape[axis]), axis=axis)
            assert before.shape == after.shape
            if after.dtype == np.int64:  # classes by their numbers
                after = stay[after]
            np.testing.assert_allclose(after, before, rtol=2e-4, atol=2e-4)
            compared += bool(axes_left) or (name == "nrtr" and before.dtype == np.int64)
        assert compared


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_lies_beside_weights_is_cut_along(dtype: str) -> None:
    """Accumulators by Paddle's names, averages by structured ones, and mappings in mappings."""
    model = paddle.nn.Sequential(paddle.nn.Linear(3, 5), paddle.nn.Linear(5, 4))
    stays = np.array([0, 2, 4])
    cuts = {"0.weight": {1: stays}, "0.bias": {0: stays}}

    def whole(shape: list[int]) -> paddle.Tensor:
        values = paddle.arange(int(np.prod(shape)), dtype="float32").reshape(shape)
        return values.astype(dtype)

    own = model[0].weight.name
    content = {
        f"{own}_moment1_0": whole([3, 5]),
        f"{own}_beta1_pow_acc_0": whole([1]),
        f"{model[1].weight.name}_moment1_0": whole([5, 4]),
        "master_weights": {own: whole([3, 5])},
        "ema_state": {"0.bias": whole([5]), "1.bias": whole([4])},
        "LR_Scheduler": {"last_epoch": 3},
        "step": 7,
    }
    cut_beside(content, model, cuts)
    moment = content[f"{own}_moment1_0"]
    assert moment.dtype == whole([1]).dtype
    np.testing.assert_array_equal(moment.astype("float32").numpy()[0], stays)
    shapes = [tuple(value.shape) for value in content.values() if hasattr(value, "shape")]
    assert shapes == [(3, 3), (1,), (5, 4)]
    assert tuple(content["master_weights"][own].shape) == (3, 3)
    assert [tuple(t.shape) for t in content["ema_state"].values()] == [(3,), (4,)]
    assert content["LR_Scheduler"] == {"last_epoch": 3} and content["step"] == 7
