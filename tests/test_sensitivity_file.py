"""The sensitivity file: round trip, what it belongs to, merging, damage."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.documents import signed
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.sensitivity.store import (
    Point,
    SensitivityFile,
    load_pickle,
    load_sensitivity,
    open_sensitivity,
    pair_of,
)

BELONGS = {"model": "m1", "weights": "w1", "criterion": "l1", "metric": "hmean"}


def made(path: Path, groups: dict[str, dict[float, float]], **other: str) -> SensitivityFile:
    names = {name: f"{name}.w_0" for name in groups}
    file = SensitivityFile(path, {**BELONGS, **other}, names, baseline=0.9)
    file.points = {
        name: {ratio: Point(loss, 0.9 * (1 - loss), 7) for ratio, loss in points.items()}
        for name, points in groups.items()
    }
    file.save()
    return file


def reopened(path: Path, **other: str) -> SensitivityFile:
    return opened(path, **other)[0]


def opened(
    path: Path, names: Sequence[str] = ("a", "b"), **other: str
) -> tuple[SensitivityFile, str]:
    """The file, and what is said about it, by a run on a model with these groups."""

    def group(name: str) -> SimpleNamespace:
        member = SimpleNamespace(parameter=name + ".weight")
        return SimpleNamespace(name=name, root=member, producers=(member,))

    weights = {f"{name}.weight": f"{name}.w_0" for name in names}
    return open_sensitivity(path, {**BELONGS, **other}, [group(n) for n in names], weights)  # type: ignore[misc]


def test_both_halves_say_the_same(tmp_path: Path) -> None:
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01, 0.5: 0.1}})
    assert pickle.loads((tmp_path / "sen.pickle").read_bytes()) == {"a.w_0": {0.2: 0.01, 0.5: 0.1}}
    file = reopened(tmp_path / "sen.pickle")
    assert file.baseline == 0.9 and file.points["a"][0.5].images == 7
    assert sorted(p.name for p in tmp_path.iterdir()) == ["sen.pickle", "sensitivity.json"]


@pytest.mark.parametrize("item", sorted(BELONGS))
def test_a_file_of_something_else_is_refused_by_name(tmp_path: Path, item: str) -> None:
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    before = (tmp_path / "sensitivity.json").read_bytes()
    with pytest.raises(PruneError, match=f"another {item}.*'other'"):
        reopened(tmp_path / "sen.pickle", **{item: "other"})
    assert (tmp_path / "sensitivity.json").read_bytes() == before


def test_everything_that_changed_is_named_at_once(tmp_path: Path) -> None:
    """Also what only one side knows."""
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}}, **{"PostProcess.thresh": "0.3", "AMP": "O1"})
    with pytest.raises(PruneError) as error:
        reopened(tmp_path / "sen.pickle", **{"PostProcess.thresh": "0.2", "Metric.name": "M"})
    assert (
        "belongs to another PostProcess.thresh ('0.3' there, '0.2' here), another Metric.name "
        "('not set' there, 'M' here) and another AMP ('O1' there, 'not set' here). Nothing was"
    ) in str(error.value)


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "x"}', '{"format": 1, "groups": 2}'])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    (tmp_path / "sensitivity.json").write_text(damage)
    with pytest.raises(PruneError, match="sensitivity.json: .*Nothing was changed"):
        reopened(tmp_path / "sen.pickle")


def edited(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change a JSON file by hand, checksum included."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(signed(content)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda c: c["groups"]["a"]["points"]["0.2"].update(loss=-5), r"loss: should be 0\.0100"),
        (lambda c: c["groups"]["a"]["points"]["0.2"].update(loss=True), "loss: should be a number"),
        (
            lambda c: c["groups"]["a"]["points"]["0.5"].update(interval=[0.2, 0.3]),
            "loss: should be within its interval",
        ),
        (lambda c: c["groups"]["a"]["points"].update({"1.5": {"loss": 0}}), "ratios from 0 to 1"),
        (lambda c: c["groups"]["a"]["points"].update(x={"loss": 0}), "ratios from 0 to 1"),
        (lambda c: c["groups"]["a"]["points"]["0.2"].update(los=0), "a mapping of loss, metric"),
        (lambda c: c["groups"]["a"]["points"]["0.2"].update(images=0), "images: should be a whole"),
        (
            lambda c: c["groups"]["a"].update(skipped=[2]),
            r"skipped\[0\]: should be a finite number from 0",
        ),
        (lambda c: c["groups"]["a"].pop("weight"), "groups.a.weight: should be there"),
        (lambda c: c.update(baseline=0.5), "baseline: should be within its spread"),
        (lambda c: c.update(baseline="0.9"), "baseline: should be a number"),
        (lambda c: c.update(groups=[]), "groups: should be a mapping"),
        (lambda c: c["fingerprint"].update(model=3), "fingerprint.model: should be text"),
    ],
)
def test_an_edit_that_contradicts_itself_is_refused(
    tmp_path: Path, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    file = made(tmp_path / "sen.pickle", {"a": {0.2: 0.01, 0.5: 0.1}})
    file.spread, file.beside = (0.85, 0.95), {"mean IoU": 0.75}
    file.save()
    again = reopened(tmp_path / "sen.pickle")
    assert (again.spread, again.beside) == ((0.85, 0.95), {"mean IoU": 0.75})
    edited(tmp_path / "sensitivity.json", change)
    before = (tmp_path / "sensitivity.json").read_bytes()
    with pytest.raises(PruneError, match=f"lacks or misspells .*{said}.*Nothing was changed"):
        reopened(tmp_path / "sen.pickle")
    assert (tmp_path / "sensitivity.json").read_bytes() == before


def test_an_edit_shows_in_the_checksum(tmp_path: Path) -> None:
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    path = tmp_path / "sensitivity.json"
    path.write_text(path.read_text().replace('"images": 7', '"images": 8'))
    with pytest.raises(PruneError, match="was changed after it was written"):
        reopened(tmp_path / "sen.pickle")


def test_a_metric_that_is_no_number_can_be_read_again(tmp_path: Path) -> None:
    file = made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    file.points["a"][0.5] = Point(1.0, float("nan"), 7)
    file.save()
    assert reopened(tmp_path / "sen.pickle").points["a"][0.5] == Point(1.0, None, 7)


def test_a_pickle_without_json_is_taken_by_weight_names_and_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "sen.pickle").write_bytes(pickle.dumps({"b.w_0": {0.1: 0.02}}))
    file, remark = opened(tmp_path / "sen.pickle")
    assert file.points["b"][0.1].loss == 0.02
    assert "no sensitivity.json beside it" in remark and "nothing says which weights" in remark
    file.save()
    assert opened(tmp_path / "sen.pickle")[1] == ""


def test_a_file_of_more_or_of_fewer_groups_serves(tmp_path: Path) -> None:
    """``Prune.skip`` was set or taken away between two runs; what the other one measured stays."""
    path = tmp_path / "sen.pickle"
    made(path, {"a": {0.2: 0.01}, "b": {0.3: 0.5}})
    file, _ = opened(path, names=("a",))
    file.points["a"][0.5] = Point(0.1)
    file.save()
    both = reopened(path)
    assert set(both.points["a"]) == {0.2, 0.5} and set(both.points["b"]) == {0.3}
    assert set(pickle.loads(path.read_bytes())) == {"a.w_0", "b.w_0"}
    wider, _ = opened(path, names=("a", "b", "c"))
    assert wider.weight_names == {"a": "a.w_0", "b": "b.w_0", "c": "c.w_0"}


@pytest.mark.parametrize(
    "name", ["x.json", "x.JSON", "x", "x.pkl", "sen.pickle", "sensitivity.json"]
)
def test_both_halves_have_names_of_their_own_whatever_is_given(tmp_path: Path, name: str) -> None:
    file = made(pair_of(tmp_path / name)[0], {"a": {0.2: 0.01}})
    assert file.path != file.json_path and len(list(tmp_path.iterdir())) == 2
    assert name.lower() in (file.path.name, file.json_path.name)
    assert (
        reopened(tmp_path / name).points == file.points == load_sensitivity(tmp_path / name).points
    )


def test_a_pickle_that_says_something_else_is_kept(tmp_path: Path) -> None:
    """Copied there, or damaged. One that a kill left behind by a point is not."""
    path = tmp_path / "sen.pickle"
    made(path, {"a": {0.2: 0.01, 0.5: 0.1}})
    path.write_bytes(pickle.dumps({"a.w_0": {0.2: 0.01}}))
    assert opened(path)[1] == "" and len(list(tmp_path.iterdir())) == 2
    for number, content in enumerate((pickle.dumps({"a.w_0": {0.2: 0.9}}), b"broken")):
        path.write_bytes(content)
        file, remark = opened(path)
        copy = tmp_path / ("sen.pickle.original" + ("1" if number else ""))
        assert file.points["a"][0.2].loss == 0.01 and copy.name in remark
        file.save()
        assert copy.read_bytes() == content


def test_points_of_ranks_are_merged_and_those_of_other_runs_left_alone(tmp_path: Path) -> None:
    ranks = tmp_path / "ranks"
    file = made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    for rank, points in ((1, {0.4: 0.02}), (3, {0.6: 0.03})):
        made(file.of_rank(ranks, rank), {"b": points})
    other = reopened(tmp_path / "other.pickle", weights="w2")
    assert other.of_rank(ranks, 1) != file.of_rank(ranks, 1)
    made(other.of_rank(ranks, 1), {"b": {0.9: 0.9}}, weights="w2")
    file.of_rank(ranks, 1).unlink()  # killed between the two files
    again = reopened(tmp_path / "sen.pickle")
    again.merge_ranks(ranks)
    assert set(again.points["b"]) == {0.4, 0.6} and again.weight_names["b"] == "b.w_0"
    assert load_sensitivity(other.of_rank(ranks, 1)).points["b"][0.9].loss == 0.9
    again.merge_ranks(tmp_path / "none")
    pair_of(file.of_rank(ranks, 3))[1].write_text("{")
    with pytest.raises(PruneError, match="rank3-.*not complete JSON"):
        again.merge_ranks(ranks)


class Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (f"touch {self.marker}",)


def test_reading_a_pickle_runs_no_code(tmp_path: Path) -> None:
    path, marker = tmp_path / "sen.pickle", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"a.w_0": {0.1: Hostile(marker)}}))
    with pytest.raises(PruneError, match="not a sensitivity file"):
        load_pickle(path)
    assert not marker.exists()


def test_merge_takes_layers_from_everywhere(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made(tmp_path / "one.pickle", {"a": {0.2: 0.01}})
    made(tmp_path / "two.pickle", {"a": {0.4: 0.02}, "b": {0.3: 0.5}})
    merged = tmp_path / "sen.pickle"
    files = [str(tmp_path / "one.pickle"), str(tmp_path / "two.json")]
    assert main(["sensitivity", "merge", *files, "-o", str(merged)]) == 0
    assert "2 layers, 3 points" in capsys.readouterr().out
    points = {
        name: {ratio: point.loss for ratio, point in group.items()}
        for name, group in load_sensitivity(merged).points.items()
    }
    assert points == {"a": {0.2: 0.01, 0.4: 0.02}, "b": {0.3: 0.5}}
    assert json.loads((tmp_path / "sensitivity.json").read_text())["fingerprint"] == BELONGS
    # Once there, it is not overwritten.
    assert main(["sensitivity", "merge", *files, "-o", str(merged)]) == 2


def test_merge_refuses_other_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path / "one.pickle", {"a": {0.2: 0.01}})
    made(tmp_path / "two.pickle", {"b": {0.2: 0.01}}, weights="w2")
    files = [str(tmp_path / "one.pickle"), str(tmp_path / "two.pickle")]
    assert main(["sensitivity", "merge", *files, "-o", str(tmp_path / "sen.pickle")]) == 2
    assert "another weights ('w2' there, 'w1' here)" in capsys.readouterr().err
    assert not (tmp_path / "sen.pickle").exists()
