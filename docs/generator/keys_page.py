"""Write docs/section.md and docs/section.zh.md: every key of the ``Prune`` section.

    python docs/generator/keys_page.py          # writes both
    python docs/generator/keys_page.py --check  # exit code 1 where they are behind

Names and defaults are those of :class:`PruneSection`, and what is allowed is what the section's own
checks say when they refuse a value; only the explanations and examples are text (``keys.yml``).
"""

from __future__ import annotations

import re
import sys
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from pages import write_or_check

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.section import PruneSection, parse_section

HERE = Path(__file__).resolve().parent
WORDS: dict[str, dict[str, str]] = {
    "en": {
        "title": "All keys",
        "head": "The `Prune` section of a config, or `-o Prune.key=value` on the command line. "
        "Ratios, losses and shares are fractions.\nA mistake in the section is refused before any "
        "work is done, with exit code 2, the key, what was found and what\n"
        "is allowed. `null` means the default.",
        "note": "Written by `docs/generator/keys_page.py` from the section's own definition.",
        "default": "default",
        "allowed": "allowed",
        "example": "example",
    },
    "zh": {
        "title": "全部配置项",
        "head": "配置文件的 `Prune` 段，或命令行上的 `-o Prune.key=value`。"
        "所有比例和损失都写成小数，不写百分数。\n"
        "写错时，插件会在开始任何工作之前报错（退出码 2），"
        "指出是哪个键、写了什么、允许什么。\n"
        "`null` 表示默认值。“允许”之后是插件报错时的原文。",
        "note": "由 `docs/generator/keys_page.py` 根据段的定义生成。",
        "default": "默认",
        "allowed": "允许",
        "example": "示例",
    },
}


class _Nothing:
    """What no key allows; the message that refuses it says what is allowed."""

    def __repr__(self) -> str:
        return "nothing"


def keys() -> dict[str, Any]:
    """Every key with its default, those of sub-sections as ``sensitivity.by``."""
    found: dict[str, Any] = {}
    for item in fields(PruneSection):
        default = getattr(PruneSection(), item.name)
        if is_dataclass(default):
            inner = {f"{item.name}.{f.name}": getattr(default, f.name) for f in fields(default)}
            found.update(inner)
        else:
            found[item.name] = default
    return found


def nested(key: str, value: Any) -> dict[str, Any]:
    """A section with one key, which may be of a sub-section."""
    outer, _, inner = key.partition(".")
    return {outer: {inner: value}} if inner else {outer: value}


def allowed(key: str) -> str:
    """What the section's check of a key says it must be."""
    try:
        parse_section(nested(key, _Nothing()), "page", prunes=False)
    except PruneError as error:
        found = re.search(r" must be (.*?), found ", str(error))
        if found is None:
            found = re.search(r" must be (.*?), and has no ", str(error))
        if found is not None:
            return found[1]
        raise AssertionError(f"{key}: the message does not say what is allowed: {error}") from error
    raise AssertionError(f"{key}: anything is taken")


def shown(value: Any) -> str:
    """A default as YAML writes it in one line."""
    plain = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(plain, default_flow_style=True, width=1000).split("\n")[0]


def page(language: str) -> str:
    """The page in Markdown.

    Raises:
        AssertionError: ``keys.yml`` and the section have other keys, or an example is not valid.
    """
    words = WORDS[language]
    groups = yaml.safe_load((HERE / "keys.yml").read_text(encoding="utf-8"))
    defaults = keys()
    told = [key for group in groups for key in group["keys"]]
    if sorted(told) != sorted(defaults):
        raise AssertionError(f"keys.yml differs from the section: {set(told) ^ set(defaults)}")
    lines = [f"# {words['title']}", "", words["head"], "", f"<!-- {words['note']} -->"]
    for group in groups:
        lines += ["", f"## {group['group'][language]}"]
        for key, text in group["keys"].items():
            example = yaml.safe_load(text["example"])
            parsed = parse_section(example, f"the example of {key}", prunes=False)
            if _value(parsed, key) == defaults[key]:
                raise AssertionError(f"the example of {key} shows its default")
            if ("default" in text) != (defaults[key] is None):
                raise AssertionError(f"{key}: its default is {defaults[key]}, and keys.yml …")
            default = (
                text["default"][language] if "default" in text else f"`{shown(defaults[key])}`"
            )
            lines += [
                "",
                f"### `{key}`",
                "",
                f"{words['default']}: {default} · {words['allowed']}: {_code(allowed(key))}",
                "",
                text[language],
                "",
                f"{words['example']}: `{text['example']}`",
            ]
    return "\n".join(lines) + "\n"


def _value(section: PruneSection, key: str) -> Any:
    value: Any = section
    for name in key.split("."):
        value = getattr(value, name)
    return value


def _code(text: str) -> str:
    """Lists and sections in a message are code on a page."""
    return re.sub(r"(\[[^\]]*\]|\{[^}]*\})", r"`\1`", text)


if __name__ == "__main__":
    sys.exit(write_or_check("section", page, __doc__.splitlines()[0]))
