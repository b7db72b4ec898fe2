"""Channel groups in Graphviz's language, for those who lay them out themselves.

One cluster for each group: ``dot -Tsvg groups.dot -o groups.svg``.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import one_line
from ..graph.flow import AFFINE, IN, OUT
from .scene import Box, Scene

_LOOKS = {
    OUT: 'fillcolor="#dbe9f8", color="#2563a8"',
    IN: 'fillcolor="#fdeadc", color="#c2560c"',
    AFFINE: 'fillcolor="#f1f3f6", color="#8a96a6"',
}


def dot(scenes: Sequence[Scene], description: str) -> str:
    """The scenes as one directed graph; the description becomes a comment."""
    lines = [
        f"// {one_line(description)}",
        "digraph groups {",
        '  graph [fontname="sans-serif", labeljust=l];',
        '  node [shape=box, style="rounded,filled", fontname="sans-serif", fontsize=11];',
        "  edge [arrowsize=0.7];",
    ]
    for number, scene in enumerate(scenes):
        label = "\n".join((scene.title, *scene.notes))
        lines += [f"  subgraph cluster_{number} {{", f"    label={_quoted(label, left=True)};"]
        lines += [f"    n{number}_{k} [{_node(box)}];" for k, box in enumerate(scene.boxes)]
        for arrow in scene.arrows:
            look = "" if arrow.direct else " [style=dashed, color=gray]"
            lines.append(f"    n{number}_{arrow.start} -> n{number}_{arrow.end}{look};")
        lines.append("  }")
    return "\n".join([*lines, "}"]) + "\n"


def _node(box: Box) -> str:
    if not box.layers:
        return f"label={_quoted(box.sign)}, shape=circle, fillcolor=white"
    text = []
    for layer in box.layers:
        text += [layer.name, layer.kind, *(item.words for item in layer.maps)]
    return f"label={_quoted(chr(10).join(text), left=True)}, {_LOOKS[box.role]}"


def _quoted(text: str, left: bool = False) -> str:
    """A string of DOT's; its lines end to the left."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    end = "\\l" if left else "\\n"
    return '"' + escaped.replace("\n", end) + (end if left else "") + '"'
