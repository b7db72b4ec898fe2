"""``ppocr-prune groups`` on real configs."""

from __future__ import annotations

import json
import re
import sysconfig
from pathlib import Path
from typing import Any

import yaml
from tool_processes import RunTool

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
    result = run_tool(["-c", script], fresh=False)
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


# Runs the command on several argument lists in one process, without the packages of argv[2].
_MANY = """
import contextlib, json, sys
from ppocr_prune_plugin.cli import main
for name in json.loads(sys.argv[2]):
    sys.modules[name] = None
for arguments in json.loads(sys.argv[1]):
    with contextlib.redirect_stderr(sys.stdout):
        print("exit code", main(["groups", *arguments]), end="\\n====\\n")
"""


def printed(
    run_tool: RunTool, folder: Path, commands: list[list[str]], without: tuple[str, ...] = ()
) -> list[str]:
    """What the command prints each time, in one process, which runs in ``folder``."""
    program = ["-c", _MANY, json.dumps(commands), json.dumps(without)]
    result = run_tool(program, cwd=folder, fresh=False if not without else None)
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stdout.split("====\n")[: len(commands)]


def answers(
    run_tool: RunTool,
    tree: Path,
    folder: Path,
    configs: dict[str, Any],
    without: tuple[str, ...] = (),
) -> dict[str, str]:
    """What the command prints about each config, by its name."""
    for name, content in configs.items():
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        (folder / f"{name}.yml").write_text(text)
    commands = [["-c", f"{name}.yml", "--tree", str(tree)] for name in configs]
    return dict(zip(configs, printed(run_tool, folder, commands, without), strict=True))


def test_bad_input_is_named(run_tool: RunTool, tree: Path, tmp_path: Path) -> None:
    command = ["-c", str(CONFIG), "--tree", str(tree), "-o", "Global.use_gpu=false"]
    missing, no_tree, pattern = printed(
        run_tool,
        tmp_path,
        [
            ["-c", "no.yml", "--tree", str(tree)],
            ["-c", str(CONFIG), "--tree", str(tmp_path)],
            [*command, "Prune.skip=['spine.*']"],
        ],
    )
    assert "no.yml: there is no such .yml file" in missing
    assert f"{tmp_path} is not a PaddleOCR source tree" in no_tree
    assert 'Prune.skip has the pattern "spine.*", which matches no layer' in pattern
    assert all("exit code 2" in said for said in (missing, no_tree, pattern))


def test_sizes_that_a_config_leaves_free(run_tool: RunTool, tree: Path, tmp_path: Path) -> None:
    """FLOPs at the size of the training crop; the backbone's weights are not asked for."""
    stated = yaml.safe_load(CONFIG.read_text())
    del stated["Prune"]
    stated["Architecture"]["Backbone"]["scale"] = 0.35
    sizes = {"free": [3, -1, -1], "half": [3, 320, -1], "none": [3, 0, 9]}
    configs = {
        name: {**stated, "Global": {**stated["Global"], "d2s_train_image_shape": size}}
        for name, size in sizes.items()
    }
    said = answers(run_tool, tree, tmp_path, configs)
    flops = {name: re.findall(r"^Total: .* (\S+) FLOPs", text, re.M) for name, text in said.items()}
    assert "at 1 x 3 x 640 x 640" in said["free"] and flops["free"], said["free"]
    assert float(flops["half"][0][:-1]) == round(float(flops["free"][0][:-1]) / 2, 3)
    assert "at 1 x 3 x 320 x 640" in said["half"]
    assert "error: none.yml: Global.d2s_train_image_shape is [3, 0, 9]" in said["none"]


def test_what_cannot_be_built_is_said_in_one_sentence(
    run_tool: RunTool, tree: Path, tmp_path: Path
) -> None:
    settings = {"character_dict_path": "dicts/none.txt", "save_res_path": "out/none.txt"}
    backbone = {"name": "PPLCNet", "scale": 0.25, "pretrained": True, "use_ssld": True}
    det = {"model_type": "det", "algorithm": "DB", "Backbone": backbone, "Transform": None}
    det["Neck"] = {"name": "DBFPN", "out_channels": 32}
    det["Head"] = {"name": "DBHead", "k": 50}
    rec = {"model_type": "rec", "algorithm": "CRNN", "Backbone": {"name": "ResNet", "layers": 18}}
    kie = {"model_type": "kie", "algorithm": "SDMGR", "Backbone": {"name": "Kie_backbone"}}
    layout = {**kie, "algorithm": "LayoutXLM"}
    decode = {"name": "CTCLabelDecode"}
    classes = {"name": "VQASerTokenLayoutLMPostProcess", "class_path": "none/classes.txt"}
    said = answers(
        run_tool, tree, tmp_path,
        {
            "dictionary": {"Global": settings, "Architecture": rec, "PostProcess": decode},
            "classes": {"Global": {}, "Architecture": rec, "PostProcess": classes},
            "package": {"Global": {}, "Architecture": kie},
            "language": {"Global": {}, "Architecture": layout, "PostProcess": classes},
            "backbone": {"Global": {}, "Architecture": {**det, "Backbone": {"name": "Spine"}}},
            "yaml": "Global: {a: *nothing}\n",
            "weights": {"Global": {"d2s_train_image_shape": [3, 64, -1]}, "Architecture": det},
        },
        without=("paddlenlp",),
    )  # fmt: skip
    expected = {
        "dictionary": r"cannot read Global\.character_dict_path: dicts/none\.txt\. Paths",
        "classes": r"cannot read PostProcess\.class_path: none/classes\.txt\. Paths",
        "package": r"needs the package paddlenlp, which cannot be imported",
        "language": r"Architecture\.algorithm: LayoutXLM is a language model",
        "backbone": r"cannot work with this config here; it says AssertionError: .*backbone only",
        "yaml": r"is not a YAML file that can be read: found undefined alias .*nothing.* line 1",
    }
    for name, sentence in expected.items():
        (error,) = [line for line in said[name].splitlines() if "error:" in line]
        assert re.match(rf"ppocr-prune: error: {name}\.yml: .*{sentence}", error), said[name]
        assert "exit code 2" in said[name] and "Traceback" not in said[name]
    # Weights that PaddleOCR would download for a backbone are not needed to see its groups.
    assert "exit code 0" in said["weights"] and "at 1 x 3 x 64 x 640" in said["weights"]
