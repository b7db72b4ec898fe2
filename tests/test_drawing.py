"""Drawings of channel groups: what flows where, and that boxes can be read."""

from __future__ import annotations

import itertools
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import paddle
import pytest
from fixtures_topologies import SHAPE, Net, conv
from paddle import nn
from tool_processes import RunTool

from ppocr_prune_plugin.cli import main
from ppocr_prune_plugin.drawing.dot import dot
from ppocr_prune_plugin.drawing.layout import place
from ppocr_prune_plugin.drawing.scene import Box, ChannelMap, DrawnLayer, Scene, scene_of
from ppocr_prune_plugin.drawing.svg import draw
from ppocr_prune_plugin.graph.groups import build_graph

ROOT = Path(__file__).parent.parent
SVG = "{http://www.w3.org/2000/svg}"


def drawn(model: nn.Layer, group: str) -> Scene:
    graph = build_graph(model, [(SHAPE, "float32")])
    return scene_of(model, graph, graph[group])


def flow(scene: Scene) -> set[tuple[str, str, str]]:
    """Arrows between boxes, by the names of their layers or their signs."""

    def name(box: Box) -> str:
        return box.sign or " ".join(layer.name for layer in box.layers)

    return {
        (name(scene.boxes[a.start]), "->" if a.direct else "..", name(scene.boxes[a.end]))
        for a in scene.arrows
    }


def words(scene: Scene) -> dict[str, list[str]]:
    return {
        layer.name: [item.words for item in layer.maps]
        for box in scene.boxes
        for layer in box.layers
    }


def test_a_residual_sum_with_a_gate() -> None:
    def forward(m: Any, x: Any) -> Any:
        x = nn.functional.relu(m.norm(m.stem(x)))
        gate = m.up(nn.functional.relu(m.down(x.mean([2, 3], keepdim=True))))
        return m.last(x + x * nn.functional.sigmoid(gate))

    model = Net(
        forward, stem=conv(3, 8, kernel=3), norm=nn.BatchNorm2D(8),
        down=conv(8, 2), up=conv(2, 8), last=conv(8, 4),
    )  # fmt: skip
    scene = drawn(model, "stem")
    # The norm follows the stem in its box; the gate depends on what the first of its layers reads.
    assert flow(scene) == {
        ("stem norm", "->", "down"), ("down", "..", "up"), ("stem norm", "->", "×"),
        ("up", "->", "×"), ("stem norm", "->", "+"), ("×", "->", "+"), ("+", "->", "last"),
    }  # fmt: skip
    assert words(scene)["stem"] == ["all 8 filters"] and words(scene)["last"] == ["all 8 inputs"]
    kinds = {layer.name: layer.kind for box in scene.boxes for layer in box.layers}
    assert kinds["stem"] == "Conv2D 3×3, 3 → 8" and kinds["norm"] == "BatchNorm2D, 8"


def test_channel_maps_of_a_concatenation_and_of_a_flattened_map() -> None:
    def forward(m: Any, x: Any) -> Any:
        both = paddle.concat([m.a(x), m.b(x)], axis=1)
        return m.last(both), m.linear(paddle.flatten(m.b2(both), 1))

    model = Net(
        forward, a=conv(3, 4), b=conv(3, 6), last=conv(10, 2), b2=conv(10, 3),
        linear=nn.Linear(3 * 64, 5),
    )  # fmt: skip
    scene = drawn(model, "b")
    assert flow(scene) == {("b", "->", "concat"), ("concat", "->", "last"), ("concat", "->", "b2")}
    assert words(scene)["last"] == ["inputs 4 to 9 of 10"]
    flat = drawn(model, "b2")
    assert words(flat)["linear"] == ["all 192 inputs, 64 for each channel"]


def test_sums_of_sums_are_one_and_a_layer_may_read_and_make() -> None:
    def forward(m: Any, x: Any) -> Any:
        x = m.a(x) + m.b(x) + m.c(x)
        return m.last(x + m.mix(m.depthwise(x)))

    model = Net(
        forward, a=conv(3, 8), b=conv(3, 8), c=conv(3, 8), mix=conv(8, 8),
        depthwise=conv(8, 8, kernel=3, padding=1, groups=8), last=conv(8, 2),
    )  # fmt: skip
    scene = drawn(model, "a")
    arrows = flow(scene)
    assert {("a", "->", "+"), ("b", "->", "+"), ("c", "->", "+")} <= arrows
    assert [box.sign for box in scene.boxes].count("+") == 2
    assert ("depthwise", "->", "mix") in arrows
    assert words(scene)["mix"] == ["all 8 filters", "all 8 inputs"]


def test_boxes_do_not_overlap_and_arrows_lead_down() -> None:
    random = np.random.default_rng(0)
    for _ in range(20):
        count = int(random.integers(2, 14))
        sizes = [(float(w), float(h)) for w, h in random.uniform(20, 200, (count, 2))]
        pairs = list(itertools.combinations(range(count), 2))
        arrows = [pair for pair in pairs if random.random() < 0.3]
        found = place(sizes, arrows)
        for a, b in pairs:
            apart = np.abs(np.subtract(found.centres[a], found.centres[b]))
            assert (apart + 1e-6 >= np.add(sizes[a], sizes[b]) / 2).any(), (a, b)
        for (start, end), path in zip(arrows, found.paths, strict=True):
            tops = [found.rows[start], *((top, low) for _, top, low in path), found.rows[end]]
            assert all(above[1] < below[0] for above, below in itertools.pairwise(tops))
        for (x, y), (w, h) in zip(found.centres, sizes, strict=True):
            assert x - w / 2 > -1e-6 and x + w / 2 < found.width + 1e-6
            assert y - h / 2 > -1e-6 and y + h / 2 < found.height + 1e-6
        # What passes by a row keeps clear of its boxes.
        for path in found.paths:
            for x, top, low in path:
                beside = [n for n, row in enumerate(found.rows) if row == (top, low)]
                assert all(abs(x - found.centres[n][0]) >= sizes[n][0] / 2 for n in beside)


def test_text_from_outside_is_escaped() -> None:
    nasty = 'a"<b>&\\'
    half = ChannelMap("in", 4, ((1, 2),), nasty)
    scene = Scene(nasty, (nasty,), (Box((DrawnLayer(nasty, nasty, (half,)),)),), ())
    root = ElementTree.fromstring(draw([scene], f"{nasty}\n"))
    assert [text.text for text in root.iter(f"{SVG}text")][:2] == [nasty, nasty]
    assert root.attrib["role"] == "img" and root.find(f"{SVG}desc") is not None
    (line,) = [line for line in dot([scene], f"{nasty}\nx").splitlines() if " n0_0" in line]
    assert 'label="a\\"<b>&\\\\\\la' in line
    assert dot([scene], f"{nasty}\nx").startswith(f"// {nasty}\\nx\ndigraph")


def test_the_guides_drawing_is_what_the_command_draws(
    run_tool: RunTool, tree: Path, tmp_path: Path
) -> None:
    """docs/images/channel_group.svg; the command is in docs/api.md."""
    target, group = tmp_path / "drawn.svg", "neck.inp_conv.0.in_conv"
    script = (
        "import sys; from ppocr_prune_plugin.cli import main\n"
        "common = ['groups', '-c', 'configs/det/ppocrv4_mobile_det_prune.yml', '--tree',"
        " sys.argv[1], '--group', sys.argv[2]]\n"
        "assert main([*common, '--svg', sys.argv[3], '--dot', sys.argv[3][:-3] + 'dot']) == 0\n"
    )
    result = run_tool(["-c", script, tree, group, target], cwd=ROOT, fresh=False)
    assert result.returncode == 0, result.stderr[-2000:]
    assert target.read_text() == (ROOT / "docs" / "images" / "channel_group.svg").read_text()
    command = f"--group {group} --svg docs/images/channel_group.svg"
    assert all(command in (ROOT / "docs" / name).read_text() for name in ("api.md", "api.zh.md"))
    assert f"{group}: 24 channels, in 28.8% of the FLOPs" in result.stdout
    assert "neck.ins_conv" not in result.stdout
    graph = target.with_suffix(".dot").read_text()
    assert graph.count("{") == graph.count("}") == 2 and "inputs 72 to 95 of 96" in graph


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: p / "drawing.png", "ends with .svg"),
        (lambda p: _written(p / "mine.svg"), "that this command has not drawn"),
    ],
)
def test_other_files_are_not_overwritten(
    make: Callable[[Path], Path], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = make(tmp_path)
    assert main(["groups", "-c", "none.yml", "--svg", str(path)]) == 2
    assert said in capsys.readouterr().err
    assert not path.exists() or path.read_text() == "mine"


def _written(path: Path) -> Path:
    path.write_text("mine")
    return path
