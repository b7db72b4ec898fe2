"""Sensitivity by how far the outputs move: no labels, a unit for each kind of head."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import arrays_of
from paddle import nn
from training import Tools, output

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.distance import DISTRIBUTIONS, MAPS, distances, outputs_of, unit_of
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import build_graph
from ppocr_prune_plugin.plan import GroupPlan
from ppocr_prune_plugin.recovery.recovery import Recovery
from ppocr_prune_plugin.sensitivity.analysis import Analysis
from ppocr_prune_plugin.sensitivity.outputs import OutputEvaluation
from ppocr_prune_plugin.sensitivity.ranks import Ranks
from ppocr_prune_plugin.sensitivity.store import SensitivityFile


def shares(*rows: list[float]) -> np.ndarray[Any, Any]:
    return np.asarray(rows, np.float32)


def test_maps_are_compared_by_soft_dice() -> None:
    before = np.zeros((2, 1, 4, 4), np.float32)
    before[:, :, :2] = 1.0
    after = before.copy()
    after[0, 0, :2, :2] = 0.0  # half of what was there is gone: 1 - 2*4 / (8 + 4)
    assert unit_of(before) == MAPS
    assert distances([before], [after]) == pytest.approx([1 / 3, 0.0])
    assert distances([before], [before[:, :, ::-1]]) == pytest.approx([1.0, 1.0])
    nothing = np.zeros_like(before)
    assert distances([nothing], [nothing]) == pytest.approx([0.0, 0.0])
    assert distances([before], [np.full_like(before, np.nan)]) == pytest.approx([1.0, 1.0])


def test_classes_and_steps_of_text_are_compared_by_total_variation() -> None:
    before = shares([1.0, 0.0, 0.0], [0.2, 0.3, 0.5])
    after = shares([0.9, 0.1, 0.0], [0.5, 0.3, 0.2])
    assert unit_of(before) == DISTRIBUTIONS
    assert distances([before], [after]) == pytest.approx([0.1, 0.3])
    assert distances([before[None]], [after[None]]) == pytest.approx([0.2])  # two steps
    # A text that ends a step later than it did.
    longer = np.concatenate([before, before[:1]])[None]
    assert distances([before[None]], [longer]) == pytest.approx([1 / 3])


def test_several_outputs_are_averaged_and_whole_numbers_are_not_outputs() -> None:
    before, after = shares([1.0, 0.0]), shares([0.5, 0.5])
    assert distances([before, before], [after, before]) == pytest.approx([0.25])
    answer = {"a": paddle.to_tensor(before), "b": [paddle.to_tensor([3]), paddle.to_tensor(after)]}
    assert [o.tolist() for o in outputs_of(answer)] == [before.tolist(), after.tolist()]


class Map(nn.Layer):
    """A detector in small: a map between 0 and 1."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2D(3, 32, 3, padding=1), nn.Conv2D(32, 1, 1)

    def forward(self, x: paddle.Tensor) -> dict[str, paddle.Tensor]:
        return {"maps": nn.functional.sigmoid(self.last(nn.functional.relu(self.first(x))))}


def analysed(folder: Path) -> tuple[Analysis, Map, paddle.Tensor]:
    paddle.seed(3)
    model = Map()
    images = paddle.rand([6, 3, 8, 8])
    graph = build_graph(model, [([1, 3, 8, 8], "float32")])
    runs = [lambda: model(images[:4]), lambda: model(images[4:])]
    evaluation = OutputEvaluation(model, runs, 16, folder)
    assert (evaluation.images, evaluation.sizes, evaluation.unit) == (6, [4, 2], MAPS)
    names = {group.name: group.root.parameter for group in graph.groups}
    file = SensitivityFile(folder / "sen.pickle", {}, names, evaluation.baseline())
    analysis = Analysis(
        model, graph, file, evaluation, Ranker("l1"), (0.25, 0.5, 0.75), 8,
        Recovery(model, graph, []), Ranks(),
    )  # fmt: skip
    return analysis, model, images


def test_a_loss_is_the_distance_of_the_outputs(tmp_path: Path) -> None:
    analysis, model, images = analysed(tmp_path)
    before, arrays = model(images)["maps"].numpy(), arrays_of(model)
    (group,) = analysis.graph.groups
    analysis.rising([group], 1.0, curve=True)
    points = analysis.file.points[group.name]
    assert sorted(points) == [0.25, 0.5, 0.75]
    for ratio, point in points.items():
        width = round(32 * (1 - ratio))
        kept = Ranker("l1").rank(group, arrays).kept(width)
        undo = surgery.prune(model, analysis.graph, [GroupPlan(group.name, 32, kept, width)])
        expected = float(distances([before], [model(images)["maps"].numpy()]).mean())
        surgery.restore(model, undo)
        assert point.loss == pytest.approx(expected, abs=1e-6) and expected > 1e-4
        assert point.metric == pytest.approx(1 - expected) and point.images == 6
    assert model.training
    # Another run finds every point in the file.
    saved = json.loads(analysis.file.json_path.read_text())
    assert saved["baseline"] == 1.0
    again, _, _ = analysed(tmp_path)
    again.file.merge(again.file.reopened(analysis.file.path))
    assert again.reused([group], 1.0, True).startswith("3 points of an earlier run are reused")


def test_few_images_will_do(tmp_path: Path) -> None:
    model, seen = Map(), []

    def run() -> Any:
        seen.append(len(seen))
        return model(paddle.rand([4, 3, 8, 8]))

    evaluation = OutputEvaluation(model, [run] * 5, 16, tmp_path, most=6)
    assert evaluation.images == 8 and len(seen) == 2
    evaluation()
    assert len(seen) == 4


def test_without_images_it_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PruneError, match=r"Prune\.sensitivity\.by is output.*there are none"):
        OutputEvaluation(Map(), [], 16, tmp_path)


def test_the_tools_prune_without_labels_and_go_on_from_the_file(
    cls_tools: Tools, tmp_path: Path
) -> None:
    options = [
        f"Global.pretrained_model={cls_tools.weights}",
        f"Global.save_model_dir={tmp_path}",
        "Prune.sensitivity.by=output",
        "Prune.sensitivity.ratios=[0.4,0.7]",
        "Prune.recovery.images=8",
        "Prune.dry_run=true",
    ]
    done = cls_tools("train", *options, "Prune.pruned_flops=0.3")
    assert done.returncode == 0, output(done)
    said = output(done)
    assert f"on 8 training images, without their labels: {DISTRIBUTIONS}" in said
    file = json.loads((tmp_path / "prune" / "sensitivity.json").read_text())
    assert file["fingerprint"]["Prune.sensitivity.by"] == "output"
    assert file["baseline"] == 1.0 and len(file["groups"]) > 10
    losses = [p["loss"] for g in file["groups"].values() for p in g["points"].values()]
    assert min(losses) >= 0 and 0 < max(losses) <= 1
    report = json.loads((tmp_path / "prune" / "report.json").read_text())
    assert report["loss_of"] == DISTRIBUTIONS and report["metric"] == "acc"
    assert report["before"] is not None
    assert "distance of the outputs" in (tmp_path / "prune" / "report.html").read_text()

    # max_loss is a distance then; the file answers it.
    done = cls_tools("train", *options, f"Prune.max_loss={max(losses)}")
    assert done.returncode == 0, output(done)
    assert "points of an earlier run are reused" in output(done)

    # Losses of the metric are others.
    done = cls_tools(
        "train",
        *(o for o in options if "by=" not in o),
        "Prune.pruned_flops=0.3",
        f"Prune.sensitivity.file={tmp_path}/prune/sen.pickle",
    )
    assert done.returncode == 2 and "another" in done.stderr, output(done)
    assert "Prune.sensitivity.by" in done.stderr
