"""The Python API: the guide's examples, and pruning without PaddleOCR's tools."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_networks import arrays_of
from paddle import nn
from tool_processes import RunTool

from ppocr_prune_plugin import api

ROOT = Path(__file__).parent.parent
GUIDES = ["api.md", "api.zh.md"]
INPUTS = [((1, 3, 8, 8), "float32")]


def examples(guide: str) -> list[tuple[str, str]]:
    """Code of a guide, and what stands below it."""
    text = (ROOT / "docs" / guide).read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```\s+```text\n(.*?)```", text, re.S)
    assert len(found) == text.count("```python")
    return found


@pytest.mark.parametrize("guide", GUIDES)
def test_the_guide_prints_what_it_shows(
    guide: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "notebook"}
    *own, _ = examples(guide)
    assert len(own) == 4
    for code, shown in own:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, guide, "exec"), names)
        assert printed.getvalue() == shown


def test_a_model_of_paddleocrs_goes_on_in_its_tools(
    run_tool: RunTool, tree: Path, tmp_path: Path
) -> None:
    code, shown = examples(GUIDES[0])[-1]
    assert (code, shown) == examples(GUIDES[1])[-1]
    (tmp_path / "PaddleOCR").symlink_to(tree)
    config = ROOT / "configs" / "cls" / "cls_mv3_prune.yml"
    (tmp_path / config.name).write_bytes(config.read_bytes())
    build = (
        "import sys, paddle, yaml; sys.path.insert(0, 'PaddleOCR')\n"
        "from ppocr.modeling.architectures import build_model\n"
        "model = build_model(yaml.safe_load(open('cls_mv3_prune.yml'))['Architecture'])\n"
        "paddle.save(model.state_dict(), 'cls.pdparams')\n"
    )
    made = run_tool(["-c", build], cwd=tmp_path)
    assert made.returncode == 0, made.stderr[-2000:]
    result = run_tool(["-c", code], cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-2000:]
    assert result.stdout.endswith(shown), result.stdout
    exported = run_tool(
        [tree / "tools" / "export_model.py", "-c", config, "-o", "Global.use_gpu=false",
         f"Global.pretrained_model={tmp_path / 'pruned'}",
         f"Global.save_inference_dir={tmp_path / 'inference'}"],
        cwd=tmp_path,
    )  # fmt: skip
    assert exported.returncode == 0, exported.stderr[-2000:]
    narrow, whole = (
        (tmp_path / name).stat().st_size
        for name in ("inference/inference.pdiparams", "cls.pdparams")
    )
    assert 0 < narrow < 0.8 * whole


class Small(nn.Layer):
    def __init__(self, channels: int = 16) -> None:
        super().__init__()
        self.first = nn.Conv2D(3, channels, 3, padding=1)
        self.norm = nn.BatchNorm2D(channels)
        self.last = nn.Conv2D(channels, 4, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.last(nn.functional.relu(self.norm(self.first(x))))


def small() -> tuple[Small, api.Network]:
    paddle.seed(5)
    model = Small()
    return model, api.network(model, INPUTS)


IMAGES = [np.random.default_rng(n).standard_normal((8, 3, 8, 8)).astype("float32") for n in (0, 1)]


def test_planning_leaves_the_model_and_restore_brings_it_back(tmp_path: Path) -> None:
    model, net = small()
    model.train()
    before = arrays_of(model)
    plan = api.plan(net, pruned_flops=0.5, images=IMAGES, round_to=4, folder=tmp_path)
    assert model.training
    assert all(np.array_equal(array, before[n]) for n, array in arrays_of(model).items())
    assert plan.kept_channels() == {"first": 8} and plan.flops.pruned == 0.5
    pruned = api.prune(net, plan, images=[paddle.to_tensor(batch) for batch in IMAGES])
    assert model.first.weight.shape[0] == model.norm._mean.shape[0] == 8
    assert pruned.recovered is not None and 0 <= pruned.recovered.distance < 0.5
    # The reader was given other weights than those that were left.
    kept = list(plan.groups[0].kept)
    assert not np.allclose(model.last.weight.numpy(), before["last.weight"][:, kept])
    pruned.restore()
    assert all(np.array_equal(array, before[n]) for n, array in arrays_of(model).items())
    bare = api.prune(net, plan)
    assert bare.recovered is None
    assert np.array_equal(model.last.weight.numpy(), before["last.weight"][:, kept])


def test_filters_with_the_smallest_weights_go_first() -> None:
    model, net = small()
    sizes = np.abs(model.first.weight.numpy()).sum(axis=(1, 2, 3))
    (item,) = api.plan(net, ratio=0.25, criterion="l1", round_to=1).groups
    assert item.removed == sorted(np.argsort(sizes)[:4].tolist())


def test_what_the_callers_function_says_decides(tmp_path: Path) -> None:
    model, net = small()
    asked = []

    def evaluate() -> float:
        asked.append(model.first.weight.shape[0])
        return 2.0 if asked[-1] >= 12 else 1.0  # half is lost below 12 channels

    def chosen() -> dict[str, int]:
        return api.plan(
            net, max_loss=0.1, criterion="l1", round_to=2, evaluate=evaluate, folder=tmp_path
        ).kept_channels()

    assert chosen() == {"first": 12}
    assert asked[0] == 16 and 10 in asked
    before = len(asked)
    assert chosen() == {"first": 12}
    # What is in the folder is not measured again.
    assert set(asked[before:]) <= {16}
    with pytest.raises(api.PruneError, match="returns 0 for the unpruned model"):
        api.plan(net, max_loss=0.1, criterion="l1", evaluate=lambda: 0.0)


def test_several_inputs_and_labels_that_only_training_takes() -> None:
    class Two(nn.Layer):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2D(3, 8, 1), nn.Conv2D(3, 8, 1)
            self.norm, self.last = nn.BatchNorm2D(8), nn.Conv2D(8, 2, 1)

        def forward(self, x: Any, y: Any, label: Any = None) -> Any:
            if self.training:
                y = y + label
            return self.last(self.norm(self.a(x) + self.b(y)))

    model = Two()
    one = ((1, 3, 4, 4), "float32")
    net = api.network(model, [one, one], training_inputs=[one, one, one])
    batch = [image[:, :, :4, :4] for image in IMAGES]
    plan = api.plan(net, ratio=0.5, images=[batch], round_to=1)
    pruned = api.prune(net, plan, images=[batch])
    assert model.a.weight.shape == model.b.weight.shape == [4, 3, 1, 1]
    assert pruned.recovered is not None and not pruned.recovered.norms


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "api.plan: Prune does not say how much to prune"),
        ({"ratio": 0.5, "pruned_flops": 0.5}, "says in 2 ways how much"),
        ({"ratio": 50}, "Prune.ratio must be a number from 0"),
        ({"ratio": 0.5}, "criterion obs looks at what the network computes on images"),
        ({"pruned_params": 0.5, "criterion": "l1"}, "pruned_params needs a measure of what"),
        ({"ratio": 0.5, "criterion": "l3"}, 'Prune.criterion .*did you mean "l."'),
        ({"ratio": 0.5, "criterion": "l1", "skip": ["sceond"]}, '"sceond", which matches no layer'),
        ({"ratio": 0.5, "criterion": "taylor"}, "asks for gradients of the training loss"),
        ({"ratio": 0.01, "criterion": "l1"}, "which prunes nothing"),
        ({"ratio": 0.5, "images": IMAGES[0]}, r"list of batches, for instance \[batch\]; found"),
        ({"ratio": 0.5, "images": list(IMAGES[0])}, r"images\[0\] has the shapes \[\[3, 8, 8\]\]"),
        ({"ratio": 0.5, "images": [[IMAGES[0]] * 2]}, "forward takes 1 with 4 axes"),
    ],
)
def test_bad_arguments_are_named(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(api.PruneError, match=said):
        api.plan(small()[1], **arguments)


def test_networks_and_plans_that_do_not_belong_together(tmp_path: Path) -> None:
    model, net = small()
    plan = api.plan(net, ratio=0.5, criterion="l1")
    plan.save(tmp_path / "small.prune.json")
    other = Small(24)
    with pytest.raises(api.PruneError, match="for another architecture: first has 16"):
        api.prune(api.network(other, INPUTS), plan)
    with pytest.raises(api.PruneError, match="for another architecture"):
        api.rebuild(other, plan)
    api.prune(net, plan)
    for call in (lambda: api.prune(net, plan), lambda: api.plan(net, ratio=0.5, criterion="l1")):
        with pytest.raises(api.PruneError, match="has changed since it was traced: first.weight"):
            call()
    with pytest.raises(api.PruneError, match="inputs is the list"):
        api.network(model, INPUTS[0])
    several = api.PruningPlan("l1", (), plan.flops, plan.params, {"Student": plan.structures[""]})
    with pytest.raises(api.PruneError, match="not that of one network, but of: Student"):
        api.rebuild(Small(), several)
    fresh = Small()
    api.rebuild(fresh, api.load_plan(tmp_path / "small.prune.json"))
    assert [p.shape for p in fresh.parameters()] == [p.shape for p in model.parameters()]
