"""``ppocr-prune groups`` on real configs."""

from __future__ import annotations

import re
import sysconfig
from pathlib import Path

from conftest import RunTool

GROUPS = [Path(sysconfig.get_path("scripts"), "ppocr-prune"), "groups"]
CONFIG = Path(__file__).parent.parent / "configs" / "det" / "mv3_db_prune.yml"
HEAD = re.compile(r"^ *(\d+)\. (\S+): (\d+) channels?, in (\S+|under \S+) of the FLOPs", re.M)


def sections(text: str) -> dict[str, list[str]]:
    """The indented lines below each group's head line, by the group's name."""
    found: dict[str, list[str]] = {}
    name = None
    for line in text.splitlines():
        head = HEAD.match(line)
        name = head[2] if head else name if line.startswith("       ") else None
        if name is not None:
            found.setdefault(name, []).append(line.strip())
    return found


def test_groups_name_their_layers_and_shares(run_tool: RunTool, tree: Path) -> None:
    result = run_tool([*GROUPS, "-c", CONFIG, "--tree", tree, "-o", "Global.use_gpu=false"])
    assert result.returncode == 0, result.stderr
    found = sections(result.stdout)
    # A residual add joins the filters of two layers; their norms go along.
    stem = found["backbone.conv.conv"]
    assert stem[1] == "produced by backbone.conv.conv, backbone.stage0.0.linear_conv.conv"
    assert stem[2].startswith("carried by  backbone.conv.bn, ")
    # The neck's 256 channels are cut per pyramid level, and all meet in the head's first layer.
    reads = [lines for lines in found.values() if any("64 of its 256" in line for line in lines)]
    assert len(reads) == 4
    assert "head.thresh.conv1: 64 channels" in result.stdout.split("Only training uses")[1]
    assert "head.thresh.conv1" not in found
    total = re.search(r"Total: (\d+) prunable groups, (\S+) FLOPs", result.stdout)
    assert total is not None and int(total[1]) == len(found) == len(HEAD.findall(result.stdout))


def test_shares_agree_with_the_cost_of_cutting(run_tool: RunTool, tree: Path) -> None:
    """The share is what stands in the group, counted here weight by weight."""
    script = (
        "import sys; from pathlib import Path; from math import prod\n"
        "from ppocr_prune_plugin.commands.groups import touched\n"
        "from ppocr_prune_plugin.hooks.adapters.tree import build_from_config\n"
        "from ppocr_prune_plugin.hooks.adapters.tracing import network_of\n"
        f"model, config = build_from_config({str(CONFIG)!r}, [], Path({str(tree)!r}))\n"
        "network = network_of(config, model)\n"
        "shapes, positions = network.graph.shapes, network.costs.positions\n"
        "total = sum(n * prod(shapes[p]) for p, n in positions.items())\n"
        "for group in network.graph.groups:\n"
        "    inside = {}\n"
        "    for m in group.members:\n"
        "        share = 1 - m.indices.size / shapes[m.parameter][m.axis]\n"
        "        inside[m.parameter] = inside.get(m.parameter, 1) * share\n"
        "    flops = sum(positions.get(p, 0) * prod(shapes[p]) * (1 - k)"
        " for p, k in inside.items())\n"
        "    assert abs(touched(network, group)[0] - flops / total) < 1e-9, group.name\n"
        "print('compared', len(network.graph.groups))\n"
    )
    result = run_tool(["-c", script])
    assert result.returncode == 0, result.stderr[-2000:]
    assert int(result.stdout.split("compared ")[1]) > 20


def test_skipped_groups_and_every_layer(run_tool: RunTool, tree: Path) -> None:
    options = ["-o", "Global.use_gpu=false", "Prune.skip=['backbone.*']", "Prune.ratio=0.5"]
    options += ["Prune.pruned_flops=null", "Prune.round_to=1"]
    result = run_tool([*GROUPS, "-c", CONFIG, "--tree", tree, *options, "--all"])
    assert result.returncode == 0, result.stderr
    heads = [line for line in result.stdout.splitlines() if HEAD.match(line)]
    assert all(
        line.endswith("(left out by Prune.skip)") == ("backbone." in line) for line in heads
    ), heads
    assert "round_to: 1" in result.stdout and " more" not in result.stdout


def test_bad_input_is_named(run_tool: RunTool, tree: Path, tmp_path: Path) -> None:
    missing = run_tool([*GROUPS, "-c", tmp_path / "no.yml", "--tree", tree])
    assert missing.returncode == 2 and "no.yml: there is no such .yml file" in missing.stderr
    no_tree = run_tool([*GROUPS, "-c", CONFIG, "--tree", tmp_path])
    assert no_tree.returncode == 2
    assert f"{tmp_path} is not a PaddleOCR source tree" in no_tree.stderr
    options = ["-o", "Global.use_gpu=false", "Prune.skip=['spine.*']"]
    pattern = run_tool([*GROUPS, "-c", CONFIG, "--tree", tree, *options])
    assert pattern.returncode == 2
    assert 'Prune.skip has the pattern "spine.*", which matches no layer' in pattern.stderr
