"""Pruning beside what else PaddleOCR does to a model before and while it trains."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from training import Tools

from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.graph.live import tensors_of
from ppocr_prune_plugin.hooks.adapters.evaluation import PaddleOCREvaluation
from ppocr_prune_plugin.hooks.adapters.modes import full_precision
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.network import apply_checked, inspect, make_plan, run_once
from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.section import SensitivityOptions

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]

INPUTS = [([1, 3, 48, 64], "float32")]


def test_amp_sync_bn_and_taylor_train_a_pruned_classifier(
    run_tool: RunTool, tree: Path, cls_config: Path, cls_weights: Path, tmp_path: Path
) -> None:
    """Paddle ignores automatic mixed precision on a CPU: what is shown is that nothing collides."""
    tools = Tools(run_tool, tree, cls_config, cls_weights)
    log = tools.train(
        tmp_path,
        f"Global.pretrained_model={cls_weights}",
        "Global.use_amp=true",
        "Global.amp_level=O2",
        "Global.use_sync_bn=true",
        "Prune.ratio=0.3",
        "Prune.criterion=taylor",
    )
    assert "convert_sync_batchnorm" in log and "global_step: 2" in log
    assert load_plan(tmp_path / "latest.prune.json").criterion == "taylor"
    assert read_shapes(tmp_path / "latest.pdparams") != read_shapes(
        cls_weights.with_name("cls.pdparams")
    )


def test_static_training_of_a_pruned_detector(det_tools: Tools, tmp_path: Path) -> None:
    """The compiled forward must not remember the widths from before the cut."""
    log = det_tools.train(
        tmp_path,
        f"Global.pretrained_model={det_tools.weights}",
        "Global.to_static=true",
        "Global.eval_batch_step=[0,1000]",
        "Prune.ratio=0.2",
        'Prune.skip=["backbone.*"]',
        "Train.dataset.ratio_list=[0.25]",
        "Eval.dataset.ratio_list=[0.2]",
    )
    assert "Successfully to apply @to_static" in log and "global_step: 1" in log
    plan = load_plan(tmp_path / "latest.prune.json")
    assert plan.flops.pruned > 0.05
    assert det_tools.metric("hmean", f"Global.checkpoints={tmp_path / 'latest'}") > 0.3


@pytest.fixture
def classifier(tree: Path) -> Any:
    from demo.weights import build

    paddle.seed(0)
    model = build("cls")
    model.train()
    return model


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_pruned_as_full_precision_is(classifier: Any, dtype: str) -> None:
    """As ``amp_level: O2`` leaves a model on a GPU: batch norms stay in full precision."""
    network = inspect(classifier, INPUTS)
    widths = {group.name: max(1, group.size // 2) for group in network.graph.groups}
    for layer in classifier.sublayers():
        if isinstance(layer, paddle.nn.Conv2D | paddle.nn.Linear):
            layer.to(dtype=dtype)
    before = {name: tensor.dtype for name, tensor in tensors_of(classifier).items()}
    assert len(set(before.values())) == 2
    whole = {name: t.astype("float32").numpy() for name, t in tensors_of(classifier).items()}
    with full_precision(classifier):
        plan = make_plan(inspect(classifier, INPUTS), widths, Ranker("l1"))
        apply_checked(network, plan)
        expected = {name: tensor.numpy() for name, tensor in tensors_of(classifier).items()}
        group = network.graph[plan.groups[0].name]
        weight = whole[group.root.parameter]
        norms = np.abs(weight).reshape(len(weight), -1).sum(1)
        assert set(plan.groups[0].kept or ()) == set(np.argsort(-norms)[: len(norms) // 2])
    after = tensors_of(classifier)
    assert {name: tensor.dtype for name, tensor in after.items()} == before
    for name, tensor in after.items():
        np.testing.assert_array_equal(tensor.astype("float32").numpy(), expected[name])
    assert any(expected[name].shape != whole[name].shape for name in whole)


def test_the_check_after_surgery_leaves_statistics_alone(classifier: Any) -> None:
    """The model runs as it trains there; Paddle's older batch norms keep theirs as parameters."""
    network = inspect(classifier, INPUTS)
    norms = [x for x in classifier.sublayers() if isinstance(x, paddle.nn.BatchNorm)]
    means = [norm._mean.numpy() for norm in norms]
    assert "_mean" in norms[0]._parameters
    widths = {group.name: max(1, group.size // 2) for group in network.graph.groups}
    apply_checked(network, make_plan(network, widths, Ranker("l1")))
    for norm, mean in zip(norms, means, strict=True):
        assert np.isin(norm._mean.numpy(), mean).all()
    assert any(norm._mean.shape[0] < mean.size for norm, mean in zip(norms, means, strict=True))


def test_model_average_of_a_pruned_model(classifier: Any) -> None:
    """PaddleOCR averages SRN's weights before it evaluates; it begins after the cut."""
    network = inspect(classifier, INPUTS)
    widths = {group.name: max(1, group.size // 2) for group in network.graph.groups}
    optimizer = paddle.optimizer.Adam(1e-3, parameters=classifier.parameters())
    apply_checked(network, make_plan(network, widths, Ranker("l1")))
    learned = [parameter for parameter in classifier.parameters() if not parameter.stop_gradient]
    average = paddle.incubate.ModelAverage(
        0.15, parameters=learned, min_average_window=2, max_average_window=10
    )
    trained = []
    for step in range(2):
        image = paddle.to_tensor(np.random.default_rng(step).random([2, 3, 48, 64], "float32"))
        classifier(image).square().mean().backward()
        optimizer.step()
        optimizer.clear_grad()
        average.step()
        trained.append(classifier.head.fc.weight.numpy())
    with average.apply():
        np.testing.assert_allclose(
            classifier.head.fc.weight.numpy(), np.mean(trained, axis=0), atol=1e-6
        )
        assert np.isfinite(run_once(classifier, INPUTS)[0]).all()
    np.testing.assert_array_equal(classifier.head.fc.weight.numpy(), trained[-1])


@pytest.mark.parametrize("kind", ["det", "rec"])
def test_all_branches_of_a_layer_lose_the_same_and_become_one(tree: Path, kind: Any) -> None:
    """PPLCNetV3 trains four branches beside each other; ``rep()`` makes one convolution of them."""
    from demo.weights import build

    paddle.seed(0)
    model = build(kind, 4).backbone
    inputs = [([1, 3, 48, 64], "float32")]
    network = inspect(model, inputs)
    random = np.random.default_rng(0)
    for name, tensor in tensors_of(model).items():  # branches that differ, and statistics
        if name.endswith(("_variance", "bn.weight")):
            tensor.set_value(random.uniform(0.5, 1.5, tensor.shape).astype("float32"))
        elif name.endswith(("_mean", "bn.bias")):
            tensor.set_value(0.1 * random.standard_normal(tensor.shape).astype("float32"))
    widths = {group.name: max(1, group.size // 2) for group in network.graph.groups}
    assert len(widths) > 5
    apply_checked(network, make_plan(network, widths, Ranker("l1")))
    model.eval()
    expected = run_once(model, inputs)
    layers = [layer for layer in model.sublayers() if hasattr(layer, "rep")]
    assert len(layers) > 20
    for layer in layers:
        shapes = {tuple(branch.conv.weight.shape) for branch in layer.conv_kxk}
        assert len(shapes) == 1
        ((filters, *_),) = shapes
        assert layer.conv_1x1 is None or layer.conv_1x1.conv.weight.shape[0] == filters
        assert layer.identity is None or layer.identity.weight.shape[0] == filters
        layer.rep()
    for ours, theirs in zip(run_once(model, inputs), expected, strict=True):
        assert np.abs(theirs).max() > 0
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


def test_the_analysis_evaluates_under_the_precision_of_training(tree: Path, tmp_path: Path) -> None:
    """A CPU computes in full precision whatever is asked for; what is asked for can be read."""
    use_tree(tree)
    from ppocr.metrics.cls_metric import ClsMetric
    from ppocr.postprocess.cls_postprocess import ClsPostProcess
    from tools import program

    asked: list[str] = []

    class Model(paddle.nn.Linear):
        def forward(self, x: paddle.Tensor) -> paddle.Tensor:
            asked.append(sys.modules["paddle.amp.auto_cast"].amp_global_state().amp_dtype)
            return super().forward(x)

    images = paddle.rand([4, 3])
    data = paddle.io.TensorDataset([images, paddle.zeros([4], "int64")])
    arguments = {
        "config": {"Architecture": {"model_type": "cls", "algorithm": "CLS"}},
        "model": Model(3, 2),
        "valid_dataloader": paddle.io.DataLoader(data, batch_size=2),
        "post_process_class": ClsPostProcess(label_list=["0", "180"]),
        "eval_class": ClsMetric(),
        "scaler": paddle.amp.GradScaler(),
        "amp_level": "O1",
        "amp_custom_black_list": [],
        "amp_custom_white_list": [],
        "amp_dtype": "bfloat16",
        "log_writer": None,  # not for eval
    }
    evaluation = PaddleOCREvaluation(program, arguments, SensitivityOptions(), tmp_path)
    evaluation.baseline()
    assert set(asked) == {"bfloat16"}
