"""Rules from other installed packages: the guide's example, and what is wrong with some."""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import paddle
import paddle.nn.functional as F
import pytest
from fixtures_topologies import Net, check, conv, frozen, places

from ppocr_prune_plugin.graph import rules
from ppocr_prune_plugin.graph.groups import build_graph

GUIDE = Path(__file__).parent.parent / "docs" / "rules.md"
INPUTS = [([1, 3, 8, 8], "float32")]

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """``install(code, line)`` puts a package with a module ``my_rules`` and one entry point on the
    path; afterwards there are only the built-in rules."""
    before = dict(rules._RULES)

    def installed(code: str, line: str) -> None:
        info = tmp_path / "somebodys-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
        (info / "entry_points.txt").write_text(f"[ppocr_prune_plugin.rules]\n{line}\n")
        (tmp_path / "my_rules.py").write_text(code)
        monkeypatch.syspath_prepend(str(tmp_path))
        rules._load_outside.cache_clear()

    yield installed
    sys.modules.pop("my_rules", None)
    rules._RULES.clear()
    rules._RULES.update(before)
    rules._load_outside.cache_clear()


def shuffled() -> Net:
    def forward(net: Net, x: paddle.Tensor) -> paddle.Tensor:
        return net.head(F.relu(F.channel_shuffle(net.stem(x), 2)))

    return Net(forward, stem=conv(3, 8), head=conv(8, 2))


def blocks(kind: str) -> list[str]:
    return re.findall(rf"```{kind}\n(.*?)```", GUIDE.read_text(encoding="utf-8"), re.S)


def test_without_the_rule() -> None:
    graph = check(shuffled())
    assert frozen(graph)["stem"][1].startswith("channel_shuffle")
    assert graph.unknown == {"channel_shuffle": 1}


@pytest.mark.parametrize("line", [None, "anything = my_rules"])
def test_the_example_of_the_guide(install: Install, line: str | None) -> None:
    """By the name of the operation, and as a module."""
    (code,), (toml,) = blocks("python"), blocks("toml")
    entry = toml.strip().splitlines()[-1].replace('"', "")
    install(code, line or entry)
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        graph = check(shuffled(), stem=4)
    assert places(graph, "stem", "stem.weight", 0) == [[i, i + 4] for i in range(4)]
    assert places(graph, "stem", "head.weight", 1) == [[2 * i, 2 * i + 1] for i in range(4)]
    assert graph.unknown == {}


def test_both_languages_show_the_same_code() -> None:
    english, chinese = (
        re.findall(r"```\w+\n.*?```", guide.read_text(encoding="utf-8"), re.S)
        for guide in (GUIDE, GUIDE.with_name("rules.zh.md"))
    )
    assert english == chinese and len(english) == 3


@pytest.mark.parametrize(
    ("code", "line", "message"),
    [
        ("1 / 0", "flip = my_rules", "flip.*my_rules.*cannot be loaded: ZeroDivisionError"),
        ("", "flip = my_rules:missing", "cannot be loaded: AttributeError"),
        ("", "flip = nowhere:rule", "cannot be loaded: ModuleNotFoundError"),
        ("number = 3", "flip = my_rules:number", "is a int, not a function"),
        ("def mine(flow, op): pass", "relu = my_rules:mine", "has a rule already, .*same_place"),
    ],
)
def test_what_cannot_be_used(install: Install, code: str, line: str, message: str) -> None:
    """A warning, once; everything else works."""
    install(code, line)
    with pytest.warns(RuntimeWarning, match=message):
        graph = build_graph(shuffled(), INPUTS)
    assert graph.unknown == {"channel_shuffle": 1}
    with warnings.catch_warnings():
        warnings.simplefilter("error", RuntimeWarning)
        build_graph(shuffled(), INPUTS)


def test_a_rule_that_fails(install: Install) -> None:
    install("def mine(flow, op): raise KeyError", "channel_shuffle = my_rules:mine")
    graph = build_graph(shuffled(), INPUTS)
    assert "its rule failed (KeyError)" in frozen(graph)["stem"][1]
