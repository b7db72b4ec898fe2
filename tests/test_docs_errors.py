"""Every message of an error can be looked up, by the words in it that do not vary."""

from __future__ import annotations

import ast
import itertools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import yaml

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "ppocr_prune_plugin"
ROWS = [
    row
    for part in yaml.safe_load((ROOT / "docs/generator/errors.yml").read_text(encoding="utf-8"))
    for row in part["rows"]
]
VARIES = "…"
_FEWEST = 3  # fixed words without which a message only carries on another one


def texts(node: ast.expr) -> list[str]:
    """What a message can say, with ``…`` for what varies."""
    if isinstance(node, ast.Constant):
        return [str(node.value)]
    if isinstance(node, ast.IfExp):
        return texts(node.body) + texts(node.orelse)
    if isinstance(node, ast.JoinedStr):
        return ["".join(parts) for parts in itertools.product(*map(texts, node.values))]
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return [left + right for left in texts(node.left) for right in texts(node.right)]
    return [VARIES]


def messages() -> Iterator[tuple[str, str]]:
    """Where every error is made, and its message; the classes are found by what they inherit."""
    trees = {path: ast.parse(path.read_text("utf-8")) for path in sorted(PACKAGE.rglob("*.py"))}
    errors, known = {"PruneError"}, 0
    while len(errors) > known:
        known = len(errors)
        for tree in trees.values():
            for node in ast.walk(tree):
                if isinstance(node, ast.ClassDef):
                    bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
                    errors |= {node.name} if bases & errors else set()
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call) or not node.args:
                continue
            name = getattr(node.func, "id", getattr(node.func, "attr", ""))
            if name in errors or (name == "fail" and path.name == "section.py"):
                for number, text in enumerate(texts(node.args[-1])):
                    yield f"{path.relative_to(ROOT)}:{node.lineno}.{number}", text


MESSAGES = dict(messages())


def is_in(words: str, message: str) -> bool:
    """Whether words of the page are in a message, in their order."""
    parts = [re.escape(part.strip()) for part in words.split(VARIES) if part.strip()]
    return re.search(".*".join(parts), message) is not None


def test_messages_are_found_at_all() -> None:
    assert len(MESSAGES) > 200
    carriers = [m for m in MESSAGES.values() if len(re.findall(r"[^\W\d_]{2,}", m)) < _FEWEST]
    assert len(carriers) < 25, "messages without words of their own"


def test_every_message_is_on_the_page() -> None:
    """But those that only put a file before another message."""
    lost = {
        place: message
        for place, message in MESSAGES.items()
        if len(re.findall(r"[^\W\d_]{2,}", message)) >= _FEWEST
        and not any(is_in(words, message) for row in ROWS for words in row["say"])
    }
    assert not lost


def test_the_page_has_no_message_that_nothing_says() -> None:
    said = MESSAGES.values()
    lost = [w for row in ROWS for w in row["say"] if not any(is_in(w, m) for m in said)]
    assert not lost


def test_words_of_the_page_tell_messages_apart() -> None:
    """What is so short that it is in everything helps nobody."""
    for row in ROWS:
        for words in row["say"]:
            assert len(re.findall(r"[^\W\d_]{2,}", words)) >= 2, words


def test_both_pages_are_up_to_date() -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "docs/generator/errors_page.py", "--check"],
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
