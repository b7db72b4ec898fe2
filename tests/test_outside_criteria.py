"""Criteria from outside: the guide's example, entry points, and what is wrong with them."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from paddle import nn

from ppocr_prune_plugin.criteria import Context, Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.graph.groups import ChannelGroup, build_graph
from ppocr_prune_plugin.section import parse_section, registered_criteria

GUIDE = Path(__file__).parent.parent / "docs" / "criteria.md"
INPUTS = [([1, 3, 4, 4], "float32")]


class Case:
    """Eight filters in one group: 0 and 1 alike but for their size, 7 almost nothing."""

    def __init__(self) -> None:
        self.model = nn.Sequential(nn.Conv2D(3, 8, 3, padding=1), nn.Conv2D(8, 2, 1))
        weight = np.random.default_rng(1).standard_normal((8, 3, 3, 3)).astype("float32")
        weight[1] = 1.5 * weight[0]
        weight[7] *= 1e-3
        self.model[0].weight.set_value(weight)
        graph = build_graph(self.model, INPUTS)
        self.group: ChannelGroup = graph.groups[0]
        self.arrays = {name: t.numpy() for name, t in self.model.state_dict().items()}
        self.context = Context(self.model, INPUTS, graph.groups, lambda: [])

    def kept(self, name: str, width: int) -> tuple[int, ...]:
        ranker = Ranker(name)
        ranker.prepare(self.context)
        return ranker.rank(self.group, self.arrays).kept(width)


@pytest.fixture(scope="module")
def case() -> Case:
    return Case()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, named by PYTHONPATH; modules that are imported from it are forgotten
    afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(["", "."]))
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def write(folder: Path, name: str, body: str) -> None:
    (folder / f"{name}.py").write_text(f"import numpy as np\n{body}\n")


def test_the_example_of_the_guide(case: Case, folder: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)
    (folder / "my_criteria.py").write_text(code)
    name = re.findall(r"Prune\.criterion=(my_criteria:\w+)", GUIDE.read_text(encoding="utf-8"))[0]
    assert parse_section({"ratio": 0.2, "criterion": name}, "guide").criterion == name
    path = list(sys.path)
    assert case.kept(name, 5) == (2, 3, 4, 5, 6)
    assert sys.path == path
    assert case.kept("l1", 5) != (2, 3, 4, 5, 6)


@pytest.mark.parametrize("named", [None, "", "::", "/somewhere/else"])
def test_the_current_folder_is_not_imported_from_unless_it_is_named(
    folder: Path, monkeypatch: pytest.MonkeyPatch, named: str | None
) -> None:
    """Where a config has come with a module of its own, naming both is up to the user. That a tool
    has put the folder on the path (it starts in its tree) makes no difference."""
    write(folder, "planted", "open('ran', 'w').close()\nclass C:\n  importance = print")
    monkeypatch.syspath_prepend("")
    if named is None:
        monkeypatch.delenv("PYTHONPATH")
    else:
        monkeypatch.setenv("PYTHONPATH", named)
    path = list(sys.path)
    with pytest.raises(PruneError, match="module of planted:C cannot be imported.*PYTHONPATH="):
        Ranker("planted:C")
    assert not (folder / "ran").exists() and sys.path == path
    monkeypatch.setenv("PYTHONPATH", f"/somewhere/else{os.pathsep}{folder}")
    Ranker("planted:C")
    assert (folder / "ran").exists()


def test_a_package_that_is_installed_from_the_current_folder_is_installed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``pip install -e .`` leaves a line with the folder in a ``.pth`` file."""
    write(folder, "editable", "class C:\n  importance = print")
    monkeypatch.delenv("PYTHONPATH")
    (folder / "site").mkdir()
    (folder / "site" / "__editable__.mine.pth").write_text(f"import this\n{folder}\n")
    monkeypatch.setattr("site.getsitepackages", lambda: [str(folder / "site")])
    assert Ranker("editable:C").identity.startswith("editable:C")


def test_both_languages_show_the_same_code() -> None:
    english, chinese = (
        re.findall(r"```\w+\n.*?```", guide.read_text(encoding="utf-8"), re.S)
        for guide in (GUIDE, GUIDE.with_name("criteria.zh.md"))
    )
    assert english == chinese and len(english) == 4


def test_a_changed_source_is_another_criterion(folder: Path) -> None:
    body = (
        "class C:\n    def importance(self, group, arrays):\n        return np.arange(group.size)"
    )
    write(folder, "first", body)
    write(folder, "second", body.replace("np.arange", "-np.arange"))
    one, two = Ranker("first:C").identity, Ranker("second:C").identity
    assert one.partition("(")[0] == "first:C " and one.partition("(")[2] != two.partition("(")[2]
    assert Ranker("fpgm").identity == "fpgm"


def test_entry_points(
    case: Case, folder: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    info = folder / "site" / "somebodys-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[ppocr_prune_plugin.criteria]\nbackwards = somebodys_module:Backwards\n"
    )
    write(
        folder / "site",
        "somebodys_module",
        "class Backwards:\n"
        "    def importance(self, group, arrays):\n"
        "        return -np.arange(group.size)",
    )
    monkeypatch.syspath_prepend(str(folder / "site"))
    registered_criteria.cache_clear()
    request.addfinalizer(registered_criteria.cache_clear)
    assert parse_section({"ratio": 0.2, "criterion": "backwards"}, "x").criterion == "backwards"
    with pytest.raises(PruneError, match='did you mean "backwards"'):
        parse_section({"ratio": 0.2, "criterion": "backward"}, "x")
    assert case.kept("backwards", 3) == (0, 1, 2)


def test_keep_and_prepare(case: Case, folder: Path) -> None:
    body = """
class Every:
    def prepare(self, context):
        self.names = [group.name for group in context.groups]
        assert context.model.sublayers() and context.gradients() == []

    def keep(self, group, arrays, width):
        assert group.name in self.names
        return range(group.size)[::-1][:width]
"""
    write(folder, "chooser", body)
    assert case.kept("chooser:Every", 3) == (5, 6, 7)


_WRONG = {
    "return np.zeros((group.size, 2))": r"scores of the shape \[8, 2\] for 8 channels",
    "return np.zeros(3)": r"scores of the shape \[3\] for 8 channels.*shape \[8\]",
    "return np.full(group.size, np.nan)": "not finite, for the channels 0, 1, 2, 3, 4, 5, 6, 7",
    "return [1, 2, 3, 4, 5, 6, 7, float('inf')]": "not finite, for the channels 7",
    "return ['a'] * group.size": "list instead of an array of numbers",
    "return None": "NoneType instead of an array of numbers",
    "return [[1], [1, 2]]": "returns no array",
    "return arrays['nothing']": "failed with KeyError: 'nothing'",
}


@pytest.mark.parametrize("line", _WRONG)
def test_wrong_answers(case: Case, folder: Path, line: str) -> None:
    write(folder, "wrong", f"class C:\n    def importance(self, group, arrays):\n        {line}")
    with pytest.raises(PruneError, match=f"wrong:C, asked about the layer 0, .*{_WRONG[line]}"):
        case.kept("wrong:C", 4)


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        ("[0]", "to keep 2 of 8 channels and keeps 1: 0"),
        ("[0, 0]", "keeps 2: 0, 0"),
        ("[0, 8]", "keeps 2: 0, 8"),
        ("[-1, 3]", "keeps 2: -1, 3"),
    ],
)
def test_wrong_choices(case: Case, folder: Path, kept: str, message: str) -> None:
    write(folder, "wrong", f"class C:\n    def keep(self, group, arrays, width): return {kept}")
    with pytest.raises(PruneError, match=message):
        case.kept("wrong:C", 2)


@pytest.mark.parametrize(
    ("body", "name", "message"),
    [
        ("", "nowhere:C", "module of nowhere:C cannot be imported: ModuleNotFound.*PYTHONPATH"),
        ("1 / 0", "mine:C", "mine:C cannot be imported: ZeroDivisionError"),
        ("class Mine: pass", "mine:Mime", 'mine has no Mime .did you mean "Mine"'),
        ("class C: pass", "mine:C", "no method importance.group, arrays..*docs/criteria.md"),
        ("class C:\n  def importnace(self): pass", "mine:C", 'did you mean "importnace"'),
        (
            "class C:\n  def __init__(self, a): pass\n  def importance(self, g, a): pass",
            "mine:C",
            "cannot be made without arguments: TypeError",
        ),
        (
            "class C:\n  def prepare(self, c): c.nothing\n  def importance(self, g, a): pass",
            "mine:C",
            r"mine:C failed in prepare\(\) with AttributeError",
        ),
    ],
)
def test_what_is_no_criterion(case: Case, folder: Path, body: str, name: str, message: str) -> None:
    write(folder, "mine", body)
    with pytest.raises(PruneError, match=message):
        case.kept(name, 3)


@pytest.mark.parametrize("name", ["a.b:C", "a:B.c", "paddleslim.L1NormFilterPruner", "taylor"])
def test_forms_that_the_section_takes(name: str) -> None:
    assert parse_section({"ratio": 0.2, "criterion": name}, "x").criterion == name


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("tailor", 'did you mean "taylor"'),
        ("l3", 'did you mean "l'),
        ("my_criteria.Mine", "package.module:Class"),
        ("a:", "package.module:Class"),
        (":C", "package.module:Class"),
        ("a b:C", "package.module:Class"),
        ("paddleslim.a.b", "paddleslim.Class"),
        ({"fpgm": 1}, "a mapping"),
    ],
)
def test_forms_that_the_section_refuses(name: Any, hint: str) -> None:
    with pytest.raises(PruneError, match=hint):
        parse_section({"ratio": 0.2, "criterion": name}, "x")
