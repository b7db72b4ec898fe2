"""Print or draw the channel groups of a config's model.

What is pruned together, what cannot be pruned, and why.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from .. import surgery
from ..drawing.dot import dot
from ..drawing.scene import Scene, scene_of
from ..drawing.svg import draw
from ..errors import PruneError, did_you_mean, quoted
from ..files import read_file, write_atomically
from ..graph.flow import AFFINE, IN, OUT
from ..graph.groups import ChannelGroup, Member
from ..hooks.adapters.classes import plan_of_lost
from ..hooks.adapters.dictionaries import in_use
from ..hooks.adapters.inputs import image_shape
from ..hooks.adapters.networks import Networks
from ..hooks.adapters.sub_models import families
from ..hooks.adapters.tree import build_from_config, find_tree, require_tree
from ..hooks.patches.config import current_section
from ..network import Network
from ..ratios.rounding import widths
from ..ratios.uniform import matches
from ..report.lines import characters_line, human
from ..section import PruneSection
from .config_options import add_config_options

_SHOWN = 3  # layers named per line without --all
# Stands in each file that is drawn, so that a later drawing may take its place.
_DRAWN = "Channel groups, drawn by ppocr-prune groups: "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; ``-c`` and ``-o`` are those of PaddleOCR's tools."""
    add_config_options(parser, required=True, help="a PaddleOCR config")
    parser.add_argument(
        "--tree", type=Path, default=None, help="the PaddleOCR tree (default: search for one)"
    )
    parser.add_argument("--all", action="store_true", help="name every layer of every group")
    parser.add_argument("--group", metavar="NAME", help="this group alone, with all of its layers")
    for ending, words in ((".svg", "as an image"), (".dot", "for Graphviz")):
        parser.add_argument(
            f"--{ending[1:]}", type=Path, metavar="FILE", help=f"draw the groups {words} as well"
        )


def run(args: argparse.Namespace) -> int:
    """Print the report, and draw it. Raises :class:`PruneError`."""
    files = [(path, ending) for path, ending in ((args.svg, ".svg"), (args.dot, ".dot")) if path]
    for path, ending in files:
        _require_drawing(path, ending)
    tree = require_tree(args.tree) if args.tree is not None else find_tree()
    model, config = build_from_config(args.config, args.opt, tree)
    source = str(args.config)
    section = current_section(config, source) or PruneSection()
    names: list[str] = []
    scenes: list[Scene] = []
    for family in families(config, model, section, source):
        first, *others = family.members
        image_shape(first.config, source)  # what is wrong with it is said of this file
        network = Networks().of(first)
        names += [group.name for group in network.graph.groups]
        chosen = [g for g in network.graph.groups if args.group in (None, g.name)]
        if not chosen and args.group is not None:
            continue
        shape = network.inputs[0][0]
        name = f"{first.name}, a {type(first.model).__name__}," if first.name else ""
        print(f"{source}: {name or type(first.model).__name__} at {' x '.join(map(str, shape))}")
        used = in_use()
        if used is not None and used.alphabet is not None:
            print(characters_line(used.alphabet, plan_of_lost(first, network, used)))
            print("What follows is of the network that is left.")
        if others:
            print(f"{', '.join(part.name for part in others)}: the same, and pruned as wide")
        if args.group is None:
            lines = describe(network, family.section, source, None if args.all else _SHOWN)
        else:
            lines = _group_lines("", network, chosen[0], _note(network, chosen[0]), None)
        for line in lines:
            print(line)
        if files:
            scenes += [_scene(network, group, first.name) for group in chosen]
    if args.group is not None and args.group not in names:
        raise PruneError(
            f"{source}: --group is {quoted(args.group)}, which is no channel group"
            f"{did_you_mean(args.group, names)}. Without --group all of them are listed."
        )
    description = _DRAWN + source + (f", {args.group}" if args.group else "")
    for path, ending in files:
        drawn = draw(scenes, description) if ending == ".svg" else dot(scenes, description)
        write_atomically(path, drawn)
        print(f"{path}: {_count(len(scenes), 'channel group')} drawn")
    return 0


def _require_drawing(path: Path, ending: str) -> None:
    """Refuse to write over what is no drawing of these."""
    if path.suffix != ending:
        raise PruneError(f"--{ending[1:]} {path}: the name of such a file ends with {ending}.")
    if path.exists() and _DRAWN.encode() not in read_file(path, "a drawing")[:2000]:
        raise PruneError(
            f"--{ending[1:]} {path}: there is a file that this command has not drawn, so it is not "
            "overwritten. Name another one, or move it away."
        )


def _scene(network: Network, group: ChannelGroup, part: str) -> Scene:
    flops, params = touched(network, group)
    notes = [f"in {_share(flops)} of the FLOPs (MACs) and {_share(params)} of the parameters"]
    if note := _note(network, group).strip():
        notes.append(note)
    scene = scene_of(network.model, network.graph, group, notes)
    return replace(scene, title=f"{part}: {scene.title}") if part else scene


def _note(network: Network, group: ChannelGroup) -> str:
    return "  (only training uses it)" if group in network.training_only else ""


def describe(network: Network, section: PruneSection, source: str, shown: int | None) -> list[str]:
    """Everything that the command says of a network.

    Args:
        network: the traced model.
        section: the ``Prune`` section: its ``skip`` and ``round_to`` count.
        source: where the section is written, for messages.
        shown: how many layers a line names before it only counts them; None names all.

    Raises:
        PruneError: a pattern of ``skip`` matches no layer.
    """
    training = network.training_only
    deployed = [group for group in network.graph.groups if group not in training]
    network.require_skipped(section.skip, source)
    skipped = [g for g in deployed if any(matches(g, pattern) for pattern in section.skip)]
    lines = ["", network.unseen] if network.unseen else [""]
    for number, group in enumerate(deployed, 1):
        note = "  (left out by Prune.skip)" if group in skipped else ""
        lines += _group_lines(f"{number:>3}. ", network, group, note, shown)
    lines += _frozen_lines(network)
    if training:
        lines += ["", f"Only training uses ({len(training)} groups; nothing is gained by pruning):"]
        lines += [f"  {group.name}: {_count(group.size, 'channel')}" for group in training]
    if network.graph.unknown:
        lines += ["", "Operations without a rule (what reaches them is frozen):"]
        lines += [f"  {op}: {count}x" for op, count in network.graph.unknown.items()]
    free = [group for group in deployed if group not in skipped]
    return [*lines, "", *_total_lines(network, free, section.round_to)]


def touched(network: Network, group: ChannelGroup) -> tuple[float, float]:
    """Shares of the network's FLOPs and parameters that stand in the group's channels.

    Groups share weights (one's filters are another's inputs), so the shares add up to more than 1.
    """
    graph, costs = network.graph, network.costs
    gone = surgery.shapes_after(graph, {group.name: 0})
    return (
        1 - costs.flops(gone) / costs.flops(graph.shapes),
        1 - costs.params(gone) / costs.params(graph.shapes),
    )


def _group_lines(
    head: str, network: Network, group: ChannelGroup, note: str, shown: int | None
) -> list[str]:
    flops, params = touched(network, group)
    by_role: dict[str, dict[str, list[Member]]] = {}
    for member in group.members:
        by_role.setdefault(member.role, {}).setdefault(member.layer, []).append(member)
    lines = [
        f"{head}{group.name}: {_count(group.size, 'channel')}, in {_share(flops)} of the FLOPs and "
        f"{_share(params)} of the parameters{note}"
    ]
    # A convolution's bias is cut with its filters: layers that produce are not also carried along.
    carried = by_role.get(AFFINE, {})
    for layer in by_role.get(OUT, {}):
        carried.pop(layer, None)
    for role, words in ((OUT, "produced by"), (AFFINE, "carried by"), (IN, "read by")):
        layers = by_role.get(role, {})
        if layers:
            named = [_layer(network, name, members, group) for name, members in layers.items()]
            lines.append(f"       {words:<12}{_some(named, shown)}")
    return lines


def _layer(network: Network, name: str, members: list[Member], group: ChannelGroup) -> str:
    """The layer, and which of its channels where it is not simply all of them."""
    member = members[0]
    size = network.graph.shapes[member.parameter][member.axis]
    places = member.indices.size // group.size
    if places > 1:
        return f"{name} ({places} places per channel)"
    if member.indices.size < size:
        return f"{name} ({member.indices.size} of its {size})"
    return name


def _frozen_lines(network: Network) -> list[str]:
    reasons: dict[str, list[str]] = {}
    for item in network.graph.frozen:
        reasons.setdefault(item.reason, []).append(
            f"{item.name} ({_count(item.channels, 'channel')})"
        )
    if not reasons:
        return []
    lines = ["", "Frozen:"]
    for reason, layers in reasons.items():
        lines += [f"  because {reason}:", *(f"    {layer}" for layer in layers)]
    return lines


def _total_lines(network: Network, free: Sequence[ChannelGroup], round_to: int) -> list[str]:
    graph, costs = network.graph, network.costs
    narrowest = surgery.shapes_after(
        graph, {group.name: widths(group.size, round_to)[-1] for group in free}
    )
    flops, params = costs.flops(graph.shapes), costs.params(graph.shapes)
    most_flops, most_params = (
        1 - costs.flops(narrowest) / flops,
        1 - costs.params(narrowest) / params,
    )
    return [
        f"Total: {_count(len(free), 'prunable group')}, {human(flops)} FLOPs "
        f"(multiply-accumulates), {human(params)} parameters.",
        f"With every group at its narrowest (round_to: {round_to}) {most_flops:.1%} of the FLOPs "
        f"and {most_params:.1%} of the parameters would go.",
    ]


def _some(names: Iterable[str], shown: int | None) -> str:
    names = list(names)
    if shown is None or len(names) <= shown + 1:
        return ", ".join(names)
    return f"{', '.join(names[:shown])} and {len(names) - shown} more"


def _share(value: float) -> str:
    return "under 0.1%" if 0 < value < 0.001 else f"{value:.1%}"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
