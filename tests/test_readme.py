"""The guides keep up with the code, and with each other."""

from __future__ import annotations

import re
from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from ppocr_prune_plugin.section import (
    CRITERIA,
    LatencyOptions,
    PruneSection,
    RecoveryOptions,
    SensitivityOptions,
    parse_section,
)

ROOT = Path(__file__).parent.parent
GUIDES = ["README.md", "README_ch.md"]


def text(guide: str) -> str:
    return (ROOT / guide).read_text(encoding="utf-8")


@pytest.mark.parametrize("guide", GUIDES)
def test_every_key_of_the_section_is_explained(guide: str) -> None:
    keys = {field.name for field in fields(PruneSection)} - {"sensitivity", "latency", "recovery"}
    keys |= {f"sensitivity.{field.name}" for field in fields(SensitivityOptions)}
    keys |= {f"latency.{field.name}" for field in fields(LatencyOptions)}
    keys |= {f"recovery.{field.name}" for field in fields(RecoveryOptions)}
    explained = re.findall(r"^\| `([a-z_.]+)` \|.*\|.*\|$", text(guide), re.M)
    assert sorted(explained) == sorted(keys)
    (criteria,) = (line for line in text(guide).splitlines() if line.startswith("| `criterion`"))
    assert set(CRITERIA) <= set(re.findall(r"`(\w+)`", criteria))


@pytest.mark.parametrize("guide", GUIDES)
def test_defaults_and_example_are_true(guide: str) -> None:
    defaults = dict(re.findall(r"^\| `([a-z_]+)` \| `(\w+)` \|", text(guide), re.M))
    assert {"criterion", "round_to", "bn_batches", "dry_run", "allow_untrained"} <= set(defaults)
    for key, value in defaults.items():
        assert getattr(PruneSection(), key) == yaml.safe_load(value), key
    (example,) = re.findall(r"```yaml\n(.*?)```", text(guide), re.S)
    assert parse_section(yaml.safe_load(example)["Prune"], guide).pruned_flops == 0.5


@pytest.mark.parametrize("guide", GUIDES)
def test_links_lead_somewhere(guide: str) -> None:
    headings = re.findall(r"^#+ (.+)$", text(guide), re.M)
    anchors = {"#" + re.sub(r"[^\w\- ]", "", h).lower().replace(" ", "-") for h in headings}
    targets = re.findall(r"\]\(([^)]+)\)", text(guide))
    assert len(targets) == text(guide).count("](") > 0
    for target in targets:
        assert target in anchors or (ROOT / target).exists(), target


def test_both_languages_show_the_same_commands() -> None:
    def commands(guide: str) -> list[str]:
        blocks = re.findall(r"```sh\n(.*?)```", text(guide), re.S)
        lines = [line.partition("#")[0].strip() for block in blocks for line in block.splitlines()]
        return [line for line in lines if line]

    english, chinese = (commands(guide) for guide in GUIDES)
    assert english == chinese
    # Each of the steps is shown, and nothing of what is shown was overlooked.
    for step in ("pip install", "train.py", "eval.py", "export_model.py", "ppocr-prune"):
        assert any(step in line for line in english), step
