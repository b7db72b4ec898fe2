"""Write docs/troubleshooting.md and docs/troubleshooting.zh.md from ``errors.yml``.

python docs/generator/errors_page.py          # writes both
python docs/generator/errors_page.py --check  # exit code 1 where they are behind
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import yaml
from localised import localised

HERE = Path(__file__).resolve().parent
PAGES = {
    name: HERE.parent / f"troubleshooting{end}" for name, end in (("en", ".md"), ("zh", ".zh.md"))
}
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
    return localised("\n".join(lines) + "\n", language)


def main() -> int:
    """Write or check both pages."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing")
    args = parser.parse_args()
    behind = [
        path
        for language, path in PAGES.items()
        if not path.is_file() or path.read_text(encoding="utf-8") != page(language)
    ]
    if args.check:
        for path in behind:
            print(f"{path} is behind: run python docs/generator/errors_page.py")
        return 1 if behind else 0
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
