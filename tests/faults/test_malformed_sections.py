"""Sections that are wrong in every way: each is one line that names the file and the key."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from fixtures_faults import Campaign

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.section import (
    LatencyOptions,
    PruneSection,
    SensitivityOptions,
    parse_section,
)

# As text of YAML: what PaddleOCR's loader makes of it is what arrives.
VALUES = [
    *("0", "-1", "1", "2", "0.3", "1.0", "-0.1", "30", "1e-2", ".nan", ".inf", "-.inf"),
    *("9" * 400, "-" + "9" * 400, "9" * 4000, "0x" + "f" * 5000, "1" * 19, "0.0000000000001e-400"),
    *("true", "yes", "'yes'", "'0.3'", "''", "' '", "text", "l1", "fpgm", "'*'", "'head.*'"),
    *(
        '"a\\0b"',
        '"a\\nppocr-prune: error: forged"',
        '"\\e[2K"',
        '"\\ud800"',
        "'" + "x" * 10**5 + "'",
    ),
    *("[]", "{}", "[[]]", "[null]", "[0.3]", "[0.5, 0.3]", "[0.3, 0.3]", "[0.3, 0.6]", "[0, 1, 2]"),
    *("[3, 640, 640]", "[3, 0, 640]", "[head]", "[head, head]", "{a: 1}", "{a: {b: 1}}", "{1: 2}"),
    *(
        "{'*': 0.5}",
        "{'*': 2}",
        "{null: 0.3}",
        "{'': 0.3}",
        "{'a\\nb': 2}",
        "2020-01-01",
        "!!set {a, b}",
    ),
    *(
        "!!binary aGVsbG8=",
        "&a [*a]",
        "&b {k: *b}",
        "[" * 100 + "]" * 100,
        "{a: " * 50 + "1" + "}" * 50,
    ),
    *("[" + "1, " * 10_000 + "]", "os:system", "':'", "a.b", "../x", "/", "12:30:45", "0o17", "~"),
]
SECTIONS = {"Prune": PruneSection, "sensitivity": SensitivityOptions, "latency": LatencyOptions}


def _keys() -> Iterator[tuple[str, str]]:
    for section, kind in SECTIONS.items():
        for key in kind.__dataclass_fields__:
            yield section, key
        yield section, "ratoi"
        yield section, '"a\\nb"'
        yield section, "9" * 5000 if section == "Prune" else "null"


def sections() -> list[tuple[str, str]]:
    """(key, a whole section in which it has an odd value); most are wrong."""
    found = []
    for (section, key), value in itertools.product(_keys(), VALUES):
        inside = f"{key}: {value}" if section == "Prune" else f"{section}: {{{key}: {value}}}"
        target = "" if key in ("ratio", "max_loss") or key.startswith("pruned_") else "ratio: 0.3, "
        found.append((key, f"{{{target}{inside}}}"))
    return found + [("Prune", value) for value in VALUES]


def test_sections(campaign: Campaign) -> None:
    every = sections()
    chosen = campaign.random.permutation(len(every))[: len(every) if campaign.long else 400]
    refused = 0
    for key, text in (every[index] for index in chosen.tolist()):
        try:
            raw: Any = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            continue  # PaddleOCR's loader says so
        try:
            section = parse_section(raw, "det.yml")
        except PruneError as error:
            message = str(error)
            refused += 1
            assert message.startswith("det.yml: Prune") and message.isprintable(), text[:200]
            assert len(message) < 5000
            if key.isidentifier() and isinstance(raw, dict):
                assert key in message or "how much to prune" in message, (text[:200], message)
        else:
            _plain(section)
    assert refused > 0.7 * len(chosen)


def _plain(section: PruneSection) -> None:
    """What is accepted is what the rest of the program may rely on."""
    numbers = [section.ratio, section.max_loss, section.pruned_flops, section.sensitivity.stop_loss]
    for number in [*numbers, section.pruned_params, section.pruned_latency]:
        values = number.values() if isinstance(number, dict) else [number]
        assert all(value is None or 0 <= value < 1 for value in values)
    counts = [section.round_to, section.bn_batches, section.sensitivity.samples or 1]
    counts += [section.sensitivity.cache_mb, section.latency.threads, section.latency.batch]
    assert all(type(count) is int and 0 <= count <= 10**9 for count in counts)
    assert all(0 < ratio < 1 for ratio in section.sensitivity.ratios)
    assert "\0" not in (section.sensitivity.file or "")


@pytest.mark.parametrize("text", ["{ratio: 0.3}", "{pruned_flops: 0.5, skip: [head.*]}"])
def test_what_is_right_is_not_refused(text: str) -> None:
    assert parse_section(yaml.safe_load(text), "det.yml").enable
