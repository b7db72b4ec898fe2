"""A plan survives its file; anything else in its place is one clear error."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from paddle import nn

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.documents import checksum
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.files import replacing, write_atomically
from ppocr_prune_plugin.graph.groups import ChannelGraph, build_graph
from ppocr_prune_plugin.plan import (
    Change,
    GroupPlan,
    PruningPlan,
    WeightsFile,
    load_plan,
    plan_path,
)

PLAN = PruningPlan(
    "fpgm",
    (GroupPlan("0", 8, (0, 3, 7), 3), GroupPlan("2", 6, None, 4)),
    Change(1000, 400),
    Change(200, 100),
)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = plan_path(tmp_path / "best_accuracy.pdparams")
    PLAN.save(path)
    return path


@pytest.fixture(scope="module")
def graph() -> ChannelGraph:
    model = nn.Sequential(nn.Conv2D(3, 8, 1), nn.ReLU(), nn.Conv2D(8, 6, 1), nn.Conv2D(6, 2, 1))
    return build_graph(model, [([1, 3, 4, 4], "float32")])


def test_round_trip(file: Path) -> None:
    assert file.name == "best_accuracy.prune.json"
    assert load_plan(file) == PLAN
    content = json.loads(file.read_text())
    assert content["groups"][0] == {"name": "0", "channels": 8, "kept_channels": 3,
                                    "kept": [0, 3, 7]}  # fmt: skip
    assert content["flops"] == {"before": 1000, "after": 400, "pruned": 0.6}
    assert {"format", "criterion", "groups", "flops", "params"} <= content.keys()
    assert PLAN.groups[0].removed == [1, 2, 4, 5, 6] and PLAN.groups[0].ratio == 0.625
    with pytest.raises(ValueError, match="not known"):
        _ = PLAN.groups[1].removed


def test_the_unpruned_weights_are_named_where_they_are_known(tmp_path: Path) -> None:
    assert "unpruned" not in PLAN.as_dict()
    whole = replace(PLAN, unpruned={"": WeightsFile("/models/det.pdparams", "ab12")})
    whole.save(tmp_path / "plan.prune.json")
    assert load_plan(tmp_path / "plan.prune.json") == whole


def test_plan_path() -> None:
    assert str(plan_path("out/latest")) == "out/latest.prune.json"
    assert str(plan_path("out/v1.2/iter_epoch_3.pdparams")) == "out/v1.2/iter_epoch_3.prune.json"


def _edit(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        content = json.loads(text)
        change(content)
        return json.dumps(content)

    return apply


def _signed(change: Callable[[dict[str, Any]], None]) -> Callable[[str], str]:
    def apply(text: str) -> str:
        content = json.loads(text)
        change(content)
        content["checksum"] = checksum(content)
        return json.dumps(content)

    return apply


def _structure(axes: Any) -> dict[str, Any]:
    change = {"before": 2, "after": 1, "pruned": 0.5}
    own = {"flops": change, "params": change, "axes": axes, "multipliers": {}, "attributes": []}
    return {"": own}


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[: len(text) // 2], "not complete JSON"),
        (lambda text: "", "not complete JSON"),
        (lambda text: "\x80", "not complete JSON"),
        (lambda text: "[1, 2]", "format is 'list', but this version reads"),
        (_edit(lambda c: c.update(format="ppocr-prune-plan/9")), "format is 'ppocr-prune-plan/9'"),
        (_edit(lambda c: c.pop("format")), "format is None"),
        (_edit(lambda c: c["groups"][0]["kept"].append(5)), "changed after it was written"),
        (_edit(lambda c: c.pop("checksum")), "changed after it was written"),
        (_signed(lambda c: c.pop("groups")), "lacks or misspells groups: should be there"),
        (
            _signed(lambda c: c["groups"][0].pop("channels")),
            r"lacks or misspells groups\[0\].channels",
        ),
        (_signed(lambda c: c.update(groups=7)), "groups: should be a list, found 7"),
        (_signed(lambda c: c.update(groups=[7])), r"groups\[0\]: should be a mapping"),
        (_signed(lambda c: c.update(more=7)), "the whole: should be a mapping of criterion"),
        (_signed(lambda c: c.update(criterion=None)), "criterion: should be text"),
        (_signed(lambda c: c["groups"].append(c["groups"][0])), "not there already"),
        (_signed(lambda c: c["groups"][0].update(kept="037")), "kept: should be a list"),
        (_signed(lambda c: c["groups"][0].update(kept=[0, 7, 3])), "3 rising channels"),
        (_signed(lambda c: c["groups"][0].update(kept=[0, 3, 8])), "3 rising channels"),
        (
            _signed(lambda c: c["groups"][0].update(kept=[0, 3.0, 7])),
            r"kept\[1\]: should be a whole",
        ),
        (_signed(lambda c: c["groups"][0].update(channels=True)), "channels: should be a whole"),
        (
            _signed(lambda c: c["groups"][1].update(kept_channels=7)),
            "kept_channels: should be 6 or",
        ),
        (_signed(lambda c: c["flops"].update(after=1001)), "flops.after: should be less"),
        (_signed(lambda c: c["flops"].update(before=2**60)), "flops.before: should be a whole"),
        (_signed(lambda c: c.update(structures="(3, 4)")), "structures: should be a mapping"),
        (
            _signed(lambda c: c.update(structures=_structure({"0.weight": {"0": ["8", 4]}}))),
            r"axes.0.weight.0\[0\]: should be a whole number",
        ),
        (
            _signed(lambda c: c.update(structures=_structure({"0.weight": {"0": [4, 8]}}))),
            "should be less than 4",
        ),
        (
            _signed(lambda c: c.update(structures=_structure({"0.weight": {"first": [8, 4]}}))),
            "the number of an axis",
        ),
        (lambda text: text.replace("0.6", "Infinity"), "Infinity is no finite number"),
        (lambda text: text.replace("0.6", "1e999"), "is too large"),
        (lambda text: text.replace("1000", "1" + "0" * 400), "a number of 401 digits"),
        (lambda text: "[" * 100_000, "not complete JSON"),
        (lambda text: text.replace("{", '{"flops": 1,', 1), "the key 'flops' is there twice"),
    ],
)
def test_a_spoiled_file_is_one_clear_error(
    file: Path, spoil: Callable[[str], str], message: str
) -> None:
    file.write_text(spoil(file.read_text()), encoding="latin-1")
    with pytest.raises(PruneError, match=message) as error:
        load_plan(file)
    assert str(error.value).startswith(f"{file}: ")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none.prune.json", tmp_path):
        with pytest.raises(PruneError, match="cannot be read"):
            load_plan(path)


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (GroupPlan("backbone.conv1", 8, (0,), 1), "another architecture: it prunes 'backbone.conv"),
        (GroupPlan("0", 16, (0,), 1), "0 has 16 channels there and 8 here"),
        (GroupPlan("0", 8, (0, 8), 2), "impossible channels of 0"),
        (GroupPlan("0", 8, (-1, 3), 2), "impossible channels of 0"),
        (GroupPlan("0", 8, (3, 3), 2), "impossible channels of 0"),
        (GroupPlan("0", 8, (3, 1), 2), "impossible channels of 0"),
        (GroupPlan("0", 8, (1, 3), 3), "impossible channels of 0"),
        (GroupPlan("0", 8, (), 0), "impossible channels of 0"),
        (GroupPlan("0", 8, None, 9), "impossible channels of 0"),
        (GroupPlan("0", 8, None, 3), "does not say which channels"),
    ],
)
def test_an_impossible_plan_prunes_nothing(
    graph: ChannelGraph, item: GroupPlan, message: str
) -> None:
    possible = GroupPlan("2", 6, (0, 1), 2)
    with pytest.raises(PruneError, match=message):
        surgery.kept_masks(graph, [possible, item])
    assert list(surgery.kept_masks(graph, [possible])) == ["2.weight", "2.bias", "3.weight"]


def test_a_group_named_twice_is_refused(graph: ChannelGraph) -> None:
    item = GroupPlan("0", 8, (0, 1), 2)
    with pytest.raises(PruneError, match="names 0 twice"):
        surgery.kept_masks(graph, [item, item])


def test_writing_leaves_the_new_file_or_the_old_one(file: Path) -> None:
    old = file.read_text()
    write_atomically(file, "new")
    assert file.read_text() == "new" and os.listdir(file.parent) == [file.name]
    with pytest.raises(ZeroDivisionError), replacing(file) as new:
        new.write(b"half of")
        new.flush()
        raise ZeroDivisionError
    assert file.read_text() == "new" and os.listdir(file.parent) == [file.name]
    folder = file.parent / "folder"
    (folder / "inside").mkdir(parents=True)
    with pytest.raises(PruneError, match="folder: cannot be written: Is a directory"):
        write_atomically(folder, old)
    assert sorted(os.listdir(file.parent)) == sorted([file.name, "folder"])
