"""The sensitivity file: round trip, what it belongs to, merging, damage."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from types import SimpleNamespace

import pytest

from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.sensitivity.store import (
    Point,
    SensitivityFile,
    load_pickle,
    load_sensitivity,
    open_sensitivity,
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
    def group(name: str) -> SimpleNamespace:
        member = SimpleNamespace(parameter=name + ".weight")
        return SimpleNamespace(name=name, root=member, producers=(member,))

    names = {"a.weight": "a.w_0", "b.weight": "b.w_0"}
    return open_sensitivity(path, {**BELONGS, **other}, [group("a"), group("b")], names)  # type: ignore[list-item]


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


@pytest.mark.parametrize("damage", ["{", "[]", '{"format": "x"}', '{"format": 1, "groups": 2}'])
def test_a_damaged_file_is_refused(tmp_path: Path, damage: str) -> None:
    made(tmp_path / "sen.pickle", {"a": {0.2: 0.01}})
    (tmp_path / "sensitivity.json").write_text(damage)
    with pytest.raises(PruneError, match="sensitivity.json: .*Nothing was changed"):
        reopened(tmp_path / "sen.pickle")


def test_a_pickle_without_json_is_taken_by_weight_names(tmp_path: Path) -> None:
    (tmp_path / "sen.pickle").write_bytes(pickle.dumps({"b.w_0": {0.1: 0.02}}))
    assert reopened(tmp_path / "sen.pickle").points["b"][0.1].loss == 0.02


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
    assert "another weights" in capsys.readouterr().err
    assert not (tmp_path / "sen.pickle").exists()
