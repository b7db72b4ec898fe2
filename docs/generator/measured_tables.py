"""Measured tables on the Chinese pages: taken from the English page when the site is built.

In the repository a Chinese page leads to the English one for them, by the line below
``<!-- tables -->``. On the site that page's headings, tables and plots stand there, and the
sentences that ``measured_tables.yml`` has words for. So every figure stands in one file, which a
benchmark writes; what a benchmark says anew stays English until ``measured_tables.yml`` knows it.
"""

from __future__ import annotations

import re
from pathlib import Path

import yaml

DOCS = Path(__file__).resolve().parent.parent
MARK = re.compile(r"^<!-- tables -->\n.*\]\((\w+)\.md\).*$", re.M)
# Some pages have words of their own around what their benchmark writes.
_WRITTEN = re.compile(r"<!-- measured: begin -->(.*?)<!-- measured: end -->", re.S)
_SHOWN = re.compile(r"\||!\[|#+ ")


def with_tables(markdown: str) -> str:
    """The page with its mark replaced by the tables that it names, in Chinese."""

    def replace(match: re.Match[str]) -> str:
        english = (DOCS / f"{match[1]}.md").read_text(encoding="utf-8")
        title = english.partition("\n")[0].lstrip("# ")
        # A link in Markdown would lead to this page itself: the site takes it to its own language.
        original = f'英文原文：<a href="../{match[1]}.html">{title}</a>'
        return f"{original}\n\n{chinese(english)}"

    return MARK.sub(replace, markdown)


def chinese(english: str) -> str:
    """Headings, tables, plots and known sentences of an English page, in Chinese."""
    terms = yaml.safe_load(
        Path(__file__).with_name("measured_tables.yml").read_text(encoding="utf-8")
    )
    written = _WRITTEN.search(english)
    body = written[1] if written else english.split("\n", 1)[1]  # without the page's own title
    lines = []
    for line in body.splitlines():
        sentence = _translated(line, terms["sentences"])
        if not line or _SHOWN.match(line):
            lines.append(_translated(line, terms["cells"]))
        elif sentence != line:
            lines.append(sentence)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip()


def _translated(line: str, terms: list[list[str]]) -> str:
    for pattern, words in terms:
        line = re.sub(pattern, words, line)
    return line
