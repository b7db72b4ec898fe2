"""Links between pages of one language."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).resolve().parent.parent


def localised(markdown: str, language: str) -> str:
    """The text with links to pages of ``language``, where there are such pages."""
    if language == "en":
        return markdown

    def replace(match: re.Match[str]) -> str:
        name = match[1]
        own = f"{name}.{language}"
        return f"]({own if (DOCS / f'{own}.md').is_file() else name}.md"

    return re.sub(r"\]\((\w+)\.md", replace, markdown)
