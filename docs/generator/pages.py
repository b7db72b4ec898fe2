"""What pages that are written by a script have in common: two languages, and a check."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent
ENDINGS = {"en": ".md", "zh": ".zh.md"}


def localised(markdown: str, language: str) -> str:
    """The text with links to pages of ``language``, where there are such pages."""
    if language == "en":
        return markdown

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        own = f"{name}.{language}"
        return f"]({own if (DOCS / f'{own}.md').is_file() else name}.md"

    return re.sub(r"\]\((\w+)\.md", replace, markdown)


def write_or_check(name: str, page: Callable[[str], str], description: str) -> int:
    """Write ``docs/<name>`` in every language, or with ``--check`` say which are behind.

    ``page`` gives the Markdown of a language. Returns the exit code, 1 where a page is behind.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--check", action="store_true", help="write nothing")
    check = parser.parse_args().check
    behind = 0
    for language, ending in ENDINGS.items():
        path, content = DOCS / f"{name}{ending}", localised(page(language), language)
        if path.is_file() and path.read_text(encoding="utf-8") == content:
            continue
        behind += 1
        if check:
            print(f"{path} is behind")
        else:
            path.write_text(content, encoding="utf-8")
    return 1 if check and behind else 0
