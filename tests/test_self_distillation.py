"""PaddleOCR's own training with the unpruned network as a teacher: real tools, real models."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import paddle
import pytest
import yaml
from fixtures_lines import rec_config
from training import Tools, on_two_ranks, output

from demo.configs import write_config
from ppocr_prune_plugin.checkpoint import read_shapes
from ppocr_prune_plugin.hooks.adapters.sub_models import SubModel
from ppocr_prune_plugin.hooks.patches.fine_tuning import FineTuning
from ppocr_prune_plugin.plan import Change, GroupPlan, PruningPlan, load_plan
from ppocr_prune_plugin.section import PruneSection, RecoveryOptions

RunTool = Callable[..., "subprocess.CompletedProcess[str]"]

PRUNED = ("Prune.ratio=0.3", "Prune.round_to=4", "Global.eval_batch_step=[0,1000]")
# Losses are logged as they are, not as medians over many steps.
TAUGHT = (*PRUNED, "Prune.recovery.distill=true", "Global.log_smooth_window=1")


def losses(log: str, name: str) -> list[float]:
    """A loss of the steps that the log shows."""
    return [float(value) for value in re.findall(rf"\b{name}: ([\d.e-]+)", log)]


@pytest.fixture(scope="module")
def weights(cls_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The classifier's weights in a folder of their own."""
    folder = tmp_path_factory.mktemp("weights")
    shutil.copy(f"{cls_weights}.pdparams", folder / "unpruned.pdparams")
    return folder / "unpruned"


@pytest.fixture(scope="module")
def trained(
    cls_tools: Tools, weights: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, str]:
    """Five epochs of two steps, in mixed precision of the second level."""
    folder = tmp_path_factory.mktemp("taught")
    log = cls_tools.train(
        folder,
        f"Global.pretrained_model={weights}",
        "Global.use_amp=true",
        "Global.amp_level=O2",
        "Global.epoch_num=5",
        "Optimizer.lr.learning_rate=0.001",
        *TAUGHT,
    )
    return folder, log


def test_the_lesson_is_a_loss_of_its_own(trained: tuple[Path, str]) -> None:
    folder, log = trained
    terms, features = losses(log, "loss_distill"), losses(log, "loss_distill_features")
    assert len(terms) == len(features) == 10
    assert min(terms) > 0 and min(features) > 0
    assert features[-1] < features[0]
    assert "taught by the unpruned network, with weight 1, features compared at the inp" in log
    both = re.findall(r"([\d.]+) s per step with the teacher, ([\d.]+) s without", log)
    assert len(both) == 1 and float(both[0][0]) > float(both[0][1]) > 0


def test_the_teacher_is_in_no_checkpoint(
    cls_tools: Tools, trained: tuple[Path, str], weights: Path, tmp_path: Path
) -> None:
    folder, _ = trained
    log = cls_tools.train(tmp_path, f"Global.pretrained_model={weights}", *PRUNED)
    assert "loss_distill" not in log
    assert read_shapes(folder / "latest.pdparams") == read_shapes(tmp_path / "latest.pdparams")
    assert read_shapes(folder / "latest.pdparams") != read_shapes(weights.with_suffix(".pdparams"))
    sizes = [(path / "latest.pdopt").stat().st_size for path in (folder, tmp_path)]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)
    file = load_plan(folder / "latest.prune.json").unpruned[""]
    assert file.path == f"{weights}.pdparams" and re.fullmatch("[0-9a-f]{64}", file.checksum)


def test_resuming_finds_the_teacher_again(
    cls_tools: Tools, trained: tuple[Path, str], weights: Path, tmp_path: Path
) -> None:
    folder, before = trained
    resumed = (f"Global.checkpoints={folder / 'latest'}", "Global.epoch_num=6", *TAUGHT)
    log = cls_tools.train(tmp_path / "resumed", *resumed)
    assert "it is not pruned again" in log and "epoch: [6/6]" in log and "epoch: [5/6]" not in log
    # As far away as training had brought it: it is the same teacher, and what it compares are the
    # same channels. To another one it would be as far as at the beginning.
    for name in ("loss_distill", "loss_distill_features"):
        assert losses(log, name)[0] < losses(before, name)[0] / 2
    features = losses(log, "loss_distill_features")[0]
    assert features == pytest.approx(losses(before, "loss_distill_features")[-1], rel=0.5)
    frozen = re.findall(r"batch norms keep their statistics while training \((.*?)\)", before + log)
    assert len(frozen) == 2 and frozen[0] == frozen[1]
    assert load_plan(tmp_path / "resumed/latest.prune.json") == load_plan(
        folder / "latest.prune.json"
    )
    # The file has another place, or is another one, or is not there.
    away = tmp_path / "away"
    away.mkdir()
    moved = shutil.move(f"{weights}.pdparams", away)
    try:
        lost = cls_tools("train", f"Global.save_model_dir={tmp_path / 'lost'}", *resumed)
        assert lost.returncode == 2
        assert (
            "Prune.recovery.distill: the unpruned weights, which teach, are not found again: "
            f"{weights}.pdparams is not there. Put the file back, or name it in "
            "Global.pretrained_model. To train without the teacher set Prune.recovery.distill=false"
        ) in output(lost)
        shutil.copy(folder / "latest.pdparams", f"{weights}.pdparams")
        other = cls_tools("train", f"Global.save_model_dir={tmp_path / 'lost'}", *resumed)
        assert other.returncode == 2 and "is another file (its checksum does" in output(other)
        log = cls_tools.train(
            tmp_path / "moved", *resumed, f"Global.pretrained_model={away / 'unpruned'}"
        )
        assert losses(log, "loss_distill")
        log = cls_tools.train(tmp_path / "without", *resumed, "Prune.recovery.distill=false")
        assert "epoch: [6/6]" in log and "loss_distill" not in log
    finally:
        shutil.move(moved, f"{weights}.pdparams")


@pytest.mark.parametrize("stated", ["true", "false"])
def test_batch_norms_keep_or_take_statistics_as_stated(
    cls_tools: Tools, weights: Path, tmp_path: Path, stated: str
) -> None:
    log = cls_tools.train(
        tmp_path,
        f"Global.pretrained_model={weights}",
        *PRUNED,
        "Prune.bn_batches=0",
        f"Prune.recovery.freeze_bn={stated}",
    )
    chosen = "keep their statistics" if stated == "true" else "go on taking statistics"
    assert f"batch norms {chosen} while training (as Prune.recovery.freeze_bn says)" in log
    kept = {
        group.name: list(group.kept or ())
        for group in load_plan(tmp_path / "latest.prune.json").groups
    }
    before, after = (
        paddle.load(str(path.with_suffix(".pdparams"))) for path in (weights, tmp_path / "latest")
    )
    same = [
        np.array_equal(after[name].numpy(), value.numpy()[kept[layer]])
        for layer in kept
        if (name := f"{layer.removesuffix('conv')}bn._mean") in after
        for value in [before[name]]
    ]
    assert len(same) > 5
    # Compensation shifts a mean where a convolution has no bias of its own; training moves all.
    assert (sum(same) > 0) == (stated == "true")


def test_a_detector_learns_from_images_without_labels(
    run_tool: RunTool,
    tree: Path,
    det_config: Path,
    det_weights: Path,
    rendered: Path,
    tmp_path: Path,
) -> None:
    """In a config that trains towards another shrink ratio than the weights were trained for."""
    config = yaml.safe_load(det_config.read_text(encoding="utf-8"))
    for transform in config["Train"]["dataset"]["transforms"]:
        for name in ("MakeShrinkMap", "MakeBorderMap"):
            if name in transform:
                transform[name]["shrink_ratio"] = 0.4
    config["Optimizer"]["lr"]["learning_rate"] = 0.001
    path = write_config(config, tmp_path / "det.yml")
    scans = tmp_path / "scans" / "deeper"
    scans.mkdir(parents=True)
    image = next(p for p in sorted(rendered.rglob("*")) if p.suffix in (".png", ".jpg"))
    shutil.copy(image, scans)
    (scans / "broken.jpg").write_bytes(b"no image")
    log = Tools(run_tool, tree, path, det_weights).train(
        tmp_path / "out",
        f"Global.pretrained_model={det_weights}",
        "Global.epoch_num=1",
        "Train.dataset.ratio_list=[0.5]",
        f"Prune.recovery.unlabelled=[{tmp_path / 'scans'}]",
        "Prune.recovery.distill.weight=2",
        *PRUNED,
    )
    assert "with weight 2, features compared at " in log
    assert "on 2 images without labels, too" in log
    assert losses(log, "loss_distill") and losses(log, "loss_distill_features")
    found = re.search(r"maps shrunk by a ratio of about (0\.\d+) \(measured on (\d+) lines", log)
    assert found and 0.5 < float(found[1]) < 0.6 and int(found[2]) >= 12
    assert "this config trains towards 0.4" in log
    better = round(20 * float(found[1])) / 20
    assert f"Train.dataset.transforms.MakeShrinkMap.shrink_ratio: {better} (now 0.4)" in log
    assert "Optimizer.lr.learning_rate is 0.001, as for training from scratch" in log
    for option, message in (
        (f"Prune.recovery.unlabelled=[{tmp_path / 'none'}]", f"{tmp_path / 'none'} is no folder"),
        ("Global.to_static=true", "a compiled forward (Global.to_static: true) gives away nothing"),
    ):
        refused = Tools(run_tool, tree, path, det_weights)(
            "train", f"Global.pretrained_model={det_weights}", f"Global.save_model_dir={tmp_path}",
            *TAUGHT, option,
        )  # fmt: skip
        assert refused.returncode == 2 and message in output(refused)


@pytest.mark.parametrize("multi", [None, "NRTRHead"])
def test_recognisers_are_taught(
    run_tool: RunTool, tree: Path, lines: Path, ctc_weights: Path,
    multi_head_weights: dict[str, paddle.Tensor], tmp_path: Path, multi: str | None,
) -> None:  # fmt: skip
    """A CTC head alone, with images without labels; and beside an attention head."""
    path = write_config(rec_config(tree, lines, tmp_path, multi), tmp_path / "rec.yml")
    weights = ctc_weights
    options = [f"Prune.recovery.unlabelled=[{lines}]"]
    if multi is not None:
        weights, options = tmp_path / "multi", []
        paddle.save(multi_head_weights, f"{weights}.pdparams")
    log = Tools(run_tool, tree, path, weights).train(
        tmp_path / "out", f"Global.pretrained_model={weights}", *TAUGHT, *options
    )
    terms, features = losses(log, "loss_distill"), losses(log, "loss_distill_features")
    assert len(terms) == 2 and min(terms) > 0
    assert "features compared at backbone[0]" in log and len(features) == 2


def test_random_weights_teach_nothing(cls_tools: Tools, tmp_path: Path) -> None:
    refused = cls_tools(
        "train", f"Global.save_model_dir={tmp_path}", "Prune.allow_untrained=true", *TAUGHT
    )
    assert refused.returncode == 2
    assert "the weights of the model are from no file: random ones teach nothing" in output(refused)


@pytest.mark.parametrize(
    ("images", "lr", "compensate", "expected"),
    [
        (
            500,
            {"learning_rate": 0.001},
            True,
            "keep .*compensated, and 500 training images are",
        ),
        (20_000, {"values": [1e-4, 1e-5]}, True, "keep .*a learning rate of 0.0001 is low"),
        (20_000, {"learning_rate": "5e-4"}, True, "go on .*; 20000 training images are many"),
        (500, {"learning_rate": 0.001}, False, "go on .*; nothing was compensated"),
    ],
)
def test_batch_norms_are_frozen_by_what_training_has(
    caplog: pytest.LogCaptureFixture,
    images: int,
    lr: dict[str, object],
    compensate: bool,
    expected: str,
) -> None:
    norm = paddle.nn.Sequential(paddle.nn.BatchNorm1D(2))
    plan = PruningPlan("obs", (GroupPlan("0", 4, (0, 1), 2),), Change(2, 1), Change(2, 1))
    data = paddle.io.TensorDataset([paddle.zeros([images, 2])])
    config = {"Global": {}, "Optimizer": {"lr": lr}}
    arguments = {
        "config": config,
        "train_dataloader": paddle.io.DataLoader(data, batch_size=4),
        "loss_class": paddle.nn.CrossEntropyLoss(),
        "logger": logging.getLogger("test"),
    }
    section = PruneSection(ratio=0.3, recovery=RecoveryOptions(compensate))
    with caplog.at_level(logging.INFO, "test"):
        FineTuning(section, arguments, [SubModel("", norm, config)]).begin({"": plan})
    assert re.search(f"batch norms {expected}", caplog.text)
    norm.train()
    norm(paddle.rand([4, 2]) + 3)
    assert (float(norm[0]._mean.abs().max()) == 0) == expected.startswith("keep")


REDUCED = """
import logging
import numpy as np
import paddle
import paddle.distributed as dist
from contextlib import nullcontext
from ppocr_prune_plugin.hooks.adapters import distilled_loss
from ppocr_prune_plugin.hooks.adapters.sub_models import SubModel
from ppocr_prune_plugin.network import inspect
from ppocr_prune_plugin.recovery.teacher import Caught, Teacher

dist.init_parallel_env()
rank = dist.get_rank()
distilled_loss.training_forward = lambda model, batch, config: model(batch[0])

def network():
    paddle.seed(0)
    return paddle.nn.Sequential(
        paddle.nn.Linear(4, 6), paddle.nn.BatchNorm1D(6), paddle.nn.Linear(6, 3)
    )

def images(step, of_rank, kind):
    random = np.random.default_rng(100 * step + 10 * of_rank + kind)
    return paddle.to_tensor(random.random([4, 4], "float32"))

class Images:
    def batch(self, like):
        return images(step, self.rank, 1)

model, more = network(), Images()
parallel = paddle.DataParallel(model)
teacher = Teacher(inspect(network(), [([2, 4], "float32")]), [], True)
with paddle.no_grad():
    for parameter in model.parameters():
        parameter.set_value(0.5 * parameter)
part = SubModel("", model, {"Architecture": {"Head": {"name": "ClsHead"}}})
pupil = distilled_loss.Pupil(part, Caught(model, teacher.places), teacher)
loss = distilled_loss.DistilledLoss(
    lambda preds, batch: {"loss": preds.square().mean()}, [pupil], 2.0, nullcontext, more,
    logging.getLogger(),
)

def gradients(run, of_rank):
    more.rank = of_rank
    model.train()
    batch = [images(step, of_rank, 0)]
    loss(run(batch[0]), batch)["loss"].backward()
    found = {n: p.grad.numpy() for n, p in model.named_parameters() if not p.stop_gradient}
    model.clear_gradients()
    return found

for step in range(2):
    alone = [gradients(model, of_rank) for of_rank in (0, 1)]
    for name, array in gradients(parallel, rank).items():
        mean = sum(own[name] for own in alone) / 2
        np.testing.assert_allclose(array, mean, rtol=1e-4, atol=1e-6, err_msg=name)
        assert np.abs(alone[0][name] - alone[1][name]).max() > 1e-4 or "0.bias" in name
print("taught alike")
"""


def test_gradients_of_what_is_taught_are_reduced(run_tool: RunTool, tmp_path: Path) -> None:
    """Images without labels run through the network beside ``DataParallel``: two ranks learn what
    one would of both."""
    logs = on_two_ranks(run_tool, REDUCED, tmp_path)
    assert sum("taught alike" in log for log in logs) == 2
