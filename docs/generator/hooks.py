"""What MkDocs asks while it builds: links into the repository, measured tables, the changelog."""

from __future__ import annotations

import logging
import re
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))  # MkDocs loads this file by its path
from measured_tables import with_tables

ROOT = Path(__file__).resolve().parent.parent.parent
_LOG = logging.getLogger("mkdocs.hooks.ppocr_prune")
# The line under a title that leads to the other language, which the site has a menu for.
_LANGUAGES = re.compile(r"^\[(?:中文|English)\]\([\w.]+\.md\)\n", re.M)
# Chinese lines are broken for the editor; a break between two characters is no space.
_BREAK = re.compile(r"(?<=[\u3000-\u9fff\uff00-\uffef]) *\n {0,3}(?=[\u3001-\u9fff\uff00-\uffef])")
_CHANGES = "<!-- CHANGELOG.md -->"
_LINK = re.compile(r"\[([^\]]*)\]\(\.\./([^)#\s]+)(#[^)\s]*)?\)")


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Links that leave docs/ lead into the repository, where its address is known; what they name
    has to be there."""
    address = repository()
    markdown = with_tables(markdown)
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    # Seen from docs/, where the pages are, its links begin there or one folder higher.
    changes = re.sub(r"\]\((?!docs/|https?:|#)", "](../", changes).replace("](docs/", "](")
    if page.file.src_uri == "changelog.md":
        markdown = changes
    markdown = markdown.replace(_CHANGES, changes.partition("\n")[2])

    def replace(match: re.Match[str]) -> str:
        shown, path, anchor = match.group(1), match.group(2), match.group(3) or ""
        if not (ROOT / path).exists():
            _LOG.warning("%s: the link to %s leads nowhere", page.file.src_uri, path)
        return f"[{shown}]({address}/blob/main/{path}{anchor})" if address else shown

    return _LINK.sub(replace, _BREAK.sub("", _LANGUAGES.sub("", markdown)))


def on_page_content(html: str, page: Any, **_: Any) -> None:
    """A list whose items ran into the paragraph above them lacks an empty line there."""
    prose = re.sub(r"<pre.*?</pre>|<code>.*?</code>", "", html, flags=re.S)
    for item in re.findall(r"\n(?:\d+\.|[-*]) [^\n<]{0,40}", prose):
        _LOG.warning("%s: this is no item of a list: %s", page.file.src_uri, item.strip())


def repository() -> str:
    """The address of the repository, "" where pyproject.toml does not say it."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'^(?:Repository|Source) *= *"([^"]+)"', text, re.M)
    return found[1].rstrip("/") if found else ""
