"""Write docs/troubleshooting.md and docs/troubleshooting.zh.md from ``errors.yml``.

python docs/generator/errors_page.py          # writes both
python docs/generator/errors_page.py --check  # exit code 1 where they are behind
"""

from __future__ import annotations

import sys
from pathlib import Path

import yaml
from pages import write_or_check

HERE = Path(__file__).resolve().parent
HEADS = {"en": ("you see", "what to do"), "zh": ("报错", "怎么办")}


def page(language: str) -> str:
    """The page in Markdown: the text of ``troubleshooting_head`` and a table for every part."""
    lines = [(HERE / f"troubleshooting_head.{language}.md").read_text(encoding="utf-8").rstrip()]
    seen, todo = HEADS[language]
    for part in yaml.safe_load((HERE / "errors.yml").read_text(encoding="utf-8")):
        lines += ["", f"## {part['title'][language]}", "", f"| {seen} | {todo} |", "|---|---|"]
        for row in part["rows"]:
            said = "<br>".join(
                f"`` {words} ``" if "`" in words else f"`{words}`" for words in row["say"]
            )
            lines.append(f"| {said} | {row[language]} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(write_or_check("troubleshooting", page, __doc__.splitlines()[0]))
