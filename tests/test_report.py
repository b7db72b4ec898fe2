"""The report: complete, self-contained, escaped, and the same when drawn again."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import paddle
import pytest

from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.documents import signed
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.network import inspect, make_plan
from ppocr_prune_plugin.plan import Change
from ppocr_prune_plugin.ratios.costs import params_of
from ppocr_prune_plugin.ratios.feasibility import feasibility
from ppocr_prune_plugin.ratios.search import Search
from ppocr_prune_plugin.ratios.targets import target_of
from ppocr_prune_plugin.report.build import build_report
from ppocr_prune_plugin.report.data import (
    FrozenChannels,
    Latency,
    Layer,
    Point,
    Report,
    load_report,
)
from ppocr_prune_plugin.report.html import render, write_report
from ppocr_prune_plugin.report.script import POLICY, SCRIPT
from ppocr_prune_plugin.report.svg import Scale
from ppocr_prune_plugin.section import parse_section
from ppocr_prune_plugin.sensitivity.store import Point as Measured
from ppocr_prune_plugin.sensitivity.store import SensitivityFile

NASTY = 'a<script>alert("1")</script>&\'.conv'


@pytest.fixture
def report() -> Report:
    return Report(
        criterion="fpgm",
        target="pruned_flops",
        target_value=0.4,
        flops=Change(1000, 600),
        params=Change(500, 400),
        layers=(
            Layer("stem.conv", 16, 16, 0.0, (Point(0.5, 0.9, 0.09, 8),), (0.75,)),
            Layer("flat.conv", 32, 8, 0.01, (Point(0.5, -0.02, 0.92, 8), Point(0.75, 0.01, 0.9))),
            Layer("body.conv", 64, 48, 0.02, (Point(0.25, 0.02), Point(0.5, 0.4))),
            Layer(NASTY, 4, 4),
        ),
        metric="hmean",
        before=0.9,
        after=0.6,
        images=8,
        frozen=(FrozenChannels("head.conv", 7, f"it is {NASTY}"),),
        unknown={"odd_op": 3},
        feasibility=((0.2, 0.001), (0.4, 0.03), (0.6, 1.5), (0.8, None)),
        source=f"{NASTY}.yml",
        command=f"python tools/train.py -c {NASTY}",
        created="2026-01-02 03:04:05+00:00",
        files={"Plan": f"/out/{NASTY}"},
        versions={"Paddle": NASTY},
    )


class _Page(HTMLParser):
    """Texts, tags and attributes; fails on tags that are not closed as they were opened."""

    VOID = frozenset({"meta", "wbr", "rect", "line", "polyline", "polygon", "br", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        self.elements.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_text_is_escaped_and_tags_balance(report: Report) -> None:
    page = _Page(render(report))
    assert "script" not in page.tags
    said = "".join(page.texts)
    # Criterion and unknown operation too come from outside.
    for words in (NASTY, f"{NASTY}.yml", f"it is {NASTY}", f"-c {NASTY}", "odd_op"):
        assert words in said
    odd = dataclasses.replace(
        report, criterion="<b>", target_value={"<i>": 0.5}, metric="<u>", unknown={"<s>": 1}
    )
    assert not {"b", "u", "s"} & set(_Page(render(odd)).tags)
    assert "<i>" not in render(odd).replace('<i style="', "")


def test_nothing_is_loaded_from_elsewhere(report: Report) -> None:
    text = render(report)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", text)
    names = {name for name, _ in _Page(text).attributes}
    assert not names & {"src", "href", "xlink:href", "srcset", "onload", "onclick"}


def test_curves_bars_and_marks_are_drawn(report: Report) -> None:
    text = render(report)
    assert text.count('class="curve"') == 3  # the fourth layer has no points
    captions = re.findall(r'<figcaption><span class="name">(\w+)\.', text)
    assert captions == ["stem", "body", "flat"]  # most sensitive first
    assert text.count('<circle class="chosen-dot" cx="13') == 1  # the legend's
    assert text.count("<title>chosen: ratio") == 2  # of the two layers that lose something
    assert text.count("<title>ratio 0.5: loss 90.00%, metric 0.0900 on 8 images</title>") == 1
    # The legend's sample, and the stretch of the stem that was not measured.
    assert text.count('class="unmeasured"') == 2
    bar = re.search(r"body\.conv: 64 channels, 48 kept</title>(.*?)</svg>", text)
    assert bar is not None
    assert re.findall(r'width="([\d.]+)"', bar[1]) == ["100.00", "75.00"]
    assert "more than was measured" in text and "over 100%" in text and "150" not in text
    assert re.search(r'class="chosen"><th scope="row" class="number">40%.*?; this plan', text)
    # 0.01 + 0.02 predicted, (0.9 - 0.6) / 0.9 measured.
    assert "3.00% predicted, 33.33% measured" in text


def test_the_band_of_confidence_is_drawn_and_said(report: Report) -> None:
    points = (Point(0.25, 0.1, 0.8, 20, (0.05, 0.15)), Point(0.5, 0.3, 0.6, 48))
    banded = dataclasses.replace(report, layers=(Layer("a.conv", 32, 16, 0.3, points),))
    page = render(banded)
    (band,) = re.findall(r'<polygon class="band" points="([^"]+)"', page)
    corners = [tuple(map(float, corner.split(","))) for corner in band.split()]
    # There along the upper bounds, and back along the lower ones; a point that was measured on all
    # images has no width, nor has the beginning.
    there, back = corners[:3], corners[:2:-1]
    assert [x for x, _ in there] == [x for x, _ in back] == sorted(x for x, _ in there)
    assert there[0] == back[0] and there[2] == back[2] and there[1][1] < back[1][1]
    height = there[0][1] - there[2][1]  # of a loss of 0.3
    assert there[0][1] - there[1][1] == pytest.approx(height * 0.15 / 0.3, abs=0.1)
    assert there[0][1] - back[1][1] == pytest.approx(height * 0.05 / 0.3, abs=0.1)
    (values,) = re.findall(r"<details>.*?</details>", page, re.S)
    said = re.sub(r"<[^>]+>", " ", values)
    assert re.search(r"25%\s+10\.00%\s+5\.0% to 15\.0%\s+0\.8000", said), said
    assert re.search(r"50%\s+30\.00%\s+exact\s+0\.6000", said), said
    assert "50% removed, 30.00% predicted" in said
    assert 'class="band"' in page and 'class="band"' not in render(report)
    wide = dataclasses.replace(points[0], interval=(0.0, 0.72))
    assert Scale.of([Layer("a", 32, 16, None, (wide,))]).high == 0.8


def test_tables_have_captions_and_headings(report: Report) -> None:
    page = _Page(render(report))
    count = page.tags.count
    assert count("table") == count("caption") == 2 + 3  # costs, layers, and values of each curve
    headings = [attributes for tag, attributes in page.elements if tag == "th"]
    assert all(attributes.get("scope") in ("row", "col") for attributes in headings)
    assert sum(attributes["scope"] == "row" for attributes in headings) == 4 + 4 + 5
    # What scrolls can be scrolled by keyboard, and has a name; charts are named or hidden.
    (region,) = [item for _, item in page.elements if item.get("role") == "region"]
    assert region["tabindex"] == "0" and region["aria-label"]
    for tag, attributes in page.elements:
        if tag == "svg":
            assert attributes.get("aria-hidden") == "true" or attributes["aria-label"]
    names = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(names) == len(set(names))
    named = {value for name, value in page.attributes if name in ("aria-labelledby", "for")}
    assert named <= set(names)


def test_many_layers_can_be_sorted_and_searched(report: Report) -> None:
    few = render(report)
    assert "<script" not in few and 'id="search"' not in few
    layers = tuple(
        dataclasses.replace(layer, name=f"{number}.{layer.name}")
        for number in range(8)
        for layer in report.layers
    )
    text = render(dataclasses.replace(report, layers=layers))
    page = _Page(text)
    # Without the script nothing offers what it cannot do; all is there.
    (tools,) = [item for _, item in page.elements if item.get("id") == "tools"]
    assert "hidden" in tools and "button" not in page.tags
    assert text.count('<tr><th scope="row" data-value=') == 32
    assert text.count("<figure data-layer=") == 24
    # No word of the data becomes code: the one script is the same whatever the report says.
    assert page.tags.count("script") == 1
    assert text.count(f"<script>{SCRIPT}</script>") == 1
    assert f'content="{POLICY}"' in text and f'content="{POLICY}"' in few
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch|XMLHttp|eval|innerHTML", text)
    # What it looks for is there, and numbers are sorted as numbers.
    for name in re.findall(r'getElementById\("(\w+)"\)', SCRIPT):
        assert f'id="{name}"' in text
    rows = re.findall(r'<tr><th scope="row" data-value="([^"]*)">(.*?)</tr>', text)
    body = next(cells for name, cells in rows if name == "0.body.conv")
    assert re.findall(r'<td class="number" data-value="([^"]*)">', body) == [
        "64", "48", "0.25", "0.02",
    ]  # fmt: skip
    stem = next(cells for name, cells in rows if name == "0.stem.conv")
    assert re.findall(r'<td class="number" data-value="([^"]*)">', stem) == ["16", "16", "0", ""]


def test_no_analysis_and_no_evaluation(report: Report) -> None:
    layers = tuple(Layer(layer.name, layer.channels, layer.kept) for layer in report.layers)
    text = render(
        dataclasses.replace(
            report, target="ratio", target_value={"body.*": 0.25}, layers=layers, feasibility=(),
            metric=None, before=None, after=None, images=None,
        )
    )  # fmt: skip
    page = _Page(text)
    assert "polyline" not in page.tags and "Not measured" in text
    assert "What each target would cost" not in text and "hmean" not in text


def test_latency_predicted_and_measured(report: Report, tmp_path: Path) -> None:
    timed = dataclasses.replace(
        report,
        target="pruned_latency",
        feasibility_of="latency",
        latency=Latency(200.0, 130.0, 124.0, NASTY),
    )
    path = write_report(timed, tmp_path)
    assert load_report(tmp_path / "report.json") == timed
    page = " ".join(_Page(path.read_text(encoding="utf-8")).texts)
    assert "38.0%" in page and "200 → 124 ms; predicted 130 ms" in page
    # The row nearest to what was achieved is marked, by time and not by FLOPs.
    (chosen,) = re.findall(r'<tr class="chosen"><th [^>]*>(\d+)%', path.read_text())
    assert chosen == "40"


def test_the_command_draws_the_same_page(report: Report, tmp_path: Path) -> None:
    path = write_report(report, tmp_path / "prune")
    assert path == tmp_path / "prune" / "report.html"
    original = path.read_text(encoding="utf-8")
    data = path.with_suffix(".json")
    assert load_report(data) == report
    path.unlink()
    assert main(["report", str(data)]) == 0
    assert path.read_text(encoding="utf-8") == original
    other = tmp_path / "new" / "other.html"
    assert main(["report", str(data), "-o", str(other)]) == 0
    assert other.read_text(encoding="utf-8") == original
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report.json"]


def test_numbers_that_are_not_numbers(report: Report, tmp_path: Path) -> None:
    write_report(dataclasses.replace(report, after=float("nan")), tmp_path)
    text = (tmp_path / "report.json").read_text(encoding="utf-8")
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name))["after"] is None
    assert load_report(tmp_path / "report.json").after is None


def _without(key: str) -> Callable[[dict[str, Any]], None]:
    return lambda content: content.pop(key)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_without("layers"), "lacks or misspells layers: should be there"),
        (lambda c: c.update(flops=5), "flops: should be a mapping"),
        (lambda c: c["layers"][1].update(kept=99), "layers[1].kept: should be 32 or less"),
        (lambda c: c.update(command=7), "command: should be text, found 7"),
        (lambda c: c.update(format="ppocr-prune-plan/1"), "format is 'ppocr-prune-plan/1'"),
    ],
)
def test_damaged_data_is_refused(
    report: Report,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    damage: Callable[[dict[str, Any]], None],
    said: str,
) -> None:
    write_report(report, tmp_path)
    data, page = tmp_path / "report.json", tmp_path / "report.html"
    page.write_text("kept")
    content = json.loads(data.read_text())
    damage(content)
    data.write_text(json.dumps(signed(content)))
    assert main(["report", str(data)]) == 2
    error = capsys.readouterr().err
    assert str(data) in error and said in error
    assert page.read_text() == "kept"


def test_cut_off_missing_and_overwriting(
    report: Report, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_report(report, tmp_path)
    data = tmp_path / "report.json"
    whole = data.read_text()
    assert main(["report", str(data), "-o", str(data)]) == 2
    assert data.read_text() == whole
    data.write_text(whole[: len(whole) // 2])
    with pytest.raises(PruneError, match="not complete JSON"):
        load_report(data)
    assert main(["report", str(tmp_path / "none.json")]) == 2
    assert "none.json: the report cannot be read" in capsys.readouterr().err


class _Net(paddle.nn.Layer):
    def __init__(self) -> None:
        super().__init__()
        self.first = paddle.nn.Conv2D(3, 16, 3)
        self.second = paddle.nn.Conv2D(16, 32, 3)
        self.last = paddle.nn.Conv2D(32, 5, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.last(paddle.nn.functional.relu(self.second(self.first(x))))


def test_collected_from_a_network(tmp_path: Path) -> None:
    network = inspect(_Net(), [([1, 3, 16, 16], "float32")])
    section = parse_section({"pruned_params": 0.3, "skip": ["first"], "round_to": 4}, "net.yml")
    groups = network.prunable(section, "net.yml")
    assert [group.name for group in groups] == ["second"]
    file = SensitivityFile(tmp_path / "sen.pickle", {}, {}, 0.8)
    file.points["second"] = {0.25: Measured(0.1, 0.72, 4), 0.5: Measured(0.3, 0.56, 4)}
    file.skipped["second"] = [0.75]

    sizes = {group.name: group.size for group in network.graph.groups}
    cost = params_of(network.graph, network.costs)
    rows = feasibility(Search({"second": file.curve("second")}, sizes, cost, 4), (0.2, 0.4, 0.8))
    plan = make_plan(network, {"second": 20}, Ranker("l1"))
    report = build_report(
        network.graph, groups, network.training_only, section, target_of(section), "net.yml", plan,
        file, rows,
        metric="acc", before=0.8, after=0.7, images=4,
    )  # fmt: skip
    assert report.layers[0].kept == 20
    # 12 of 32 removed is half way between the two points.
    assert report.layers[0].predicted_loss == pytest.approx(0.2)
    assert report.layers[0].skipped == (0.75,)
    reasons = {item.name: item.reason for item in report.frozen}
    assert reasons["first"] == "Prune.skip names it"
    assert "output of the network" in reasons["last"]
    assert report.feasibility_of == "parameters"
    # By hand: 448 + 4640 + 165 parameters, 150 for each filter of the second layer; the curve
    # ends at 16 of them, that is 2400 of 5253.
    (_, low), (_, middle), beyond = report.feasibility
    assert low is not None and middle is not None and 0 < low < middle <= 0.3
    assert beyond == (0.8, None)
    assert report.params.before == 5253 and report.params.after == 5253 - 12 * 150
    assert load_report(write_report(report, tmp_path).with_suffix(".json")) == report
