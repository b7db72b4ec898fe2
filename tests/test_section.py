"""The Prune section: defaults, and one clear error for each mistake."""

from __future__ import annotations

import pytest
import yaml

from ppocr_prune_plugin.errors import PruneError, did_you_mean
from ppocr_prune_plugin.section import (
    DistillOptions,
    LatencyOptions,
    PruneSection,
    RecoveryOptions,
    SensitivityOptions,
    parse_section,
)


def parse(text: str) -> PruneSection:
    return parse_section(yaml.safe_load(text), "det.yml")


def test_defaults() -> None:
    section = parse("ratio: 0.3")
    assert section == PruneSection(ratio=0.3)
    assert section.enable and section.criterion == "obs" and section.round_to == 8
    assert section.sensitivity.ratios == (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
    assert section.target == ("ratio", 0.3)


def test_every_key_is_read() -> None:
    text = """
        enable: true
        criterion: bn_scale
        ratio: null
        pruned_flops: 0.5
        skip: ["head.*"]
        round_to: 4
        sensitivity:
          {file: sen.pickle, ratios: [0.2, 0.5], samples: 20, cache_mb: 0, exact: true, by: output}
        latency: {threads: 2, onednn: false, batch: 4, shape: [3, 960, 960]}
        dry_run: true
        allow_untrained: true
    """
    assert parse(text) == PruneSection(
        criterion="bn_scale",
        pruned_flops=0.5,
        skip=("head.*",),
        round_to=4,
        sensitivity=SensitivityOptions(
            "sen.pickle", (0.2, 0.5), 20, cache_mb=0, exact=True, by="output"
        ),
        latency=LatencyOptions(2, False, 4, (3, 960, 960)),
        dry_run=True,
        allow_untrained=True,
    )


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("ratio: 0", ("ratio", 0.0)),
        (
            "ratio: {'backbone.*': 0.5, 'neck.*': 0}",
            ("ratio", {"backbone.*": 0.5, "neck.*": 0.0}),
        ),
        ("max_loss: 0.02", ("max_loss", 0.02)),
        ("pruned_params: 0.999", ("pruned_params", 0.999)),
        ("pruned_latency: 0.3", ("pruned_latency", 0.3)),
    ],
)
def test_targets(text: str, target: object) -> None:
    assert parse(text).target == target


def test_a_mapping_keeps_its_order_because_the_first_match_wins() -> None:
    target = parse("ratio: {'b.*': 0.1, 'a.*': 0.2, '*': 0.3}").target[1]
    assert isinstance(target, dict) and list(target) == ["b.*", "a.*", "*"]


@pytest.mark.parametrize("text", ["enable: false", "{enable: false, ratio: 0.1, max_loss: 0.1}"])
def test_a_disabled_section_needs_no_target(text: str) -> None:
    assert parse(text).enable is False


def test_a_disabled_section_without_target_has_none_to_give() -> None:
    with pytest.raises(PruneError, match="how much to prune"):
        _ = parse("enable: false").target


# section → what the message must say
MISTAKES = {
    "ratoi: 0.3": ['unknown key "ratoi"', 'did you mean "ratio"?', "pruned_flops"],
    "{ratio: 0.3, prune_flops: 0.5}": ['did you mean "pruned_flops"?'],
    "{ratio: 0.3, 3: 4}": ['unknown key "3"'],
    "{enable: false, ratoi: 0.3}": ['did you mean "ratio"?'],
    "{ratio: 0.3, sensitivity: {sample: 3}}": ["Prune.sensitivity", 'did you mean "samples"?'],
    "{ratio: 0.3, pruned_flops: 0.5}": ["in 2 ways", "ratio, pruned_flops", "exactly one of"],
    "criterion: l1": ["does not say how much", "exactly one of", "enable: false"],
    "": ["does not say how much"],
    "0.3": ["must be a section", "found 0.3", "criterion"],
    "[ratio]": ["must be a section", "the list ['ratio']"],
    "ratio: 1": ["Prune.ratio", "from 0 up to but not including 1", "found 1"],
    "ratio: 1.0": ["found 1.0"],
    "ratio: -0.1": ["found -0.1"],
    "ratio: 30": ["For 30 percent write 0.3"],
    "ratio: .nan": ["found nan"],
    "ratio: '0.3'": ['the text "0.3"', "Write 0.3 without quotes"],
    "ratio: 3e-1": ['the text "3e-1"', "Write 0.3"],  # YAML 1.1 reads it as text
    "ratio: yes": ["found true"],
    "ratio: [0.3]": ["the list [0.3]"],
    "ratio: {}": ["empty mapping"],
    "ratio: {'a.*': 1.5}": ['Prune.ratio["a.*"]', "found 1.5"],
    "ratio: {3: 0.5}": ["layer pattern 3"],
    "max_loss: 2": ["Prune.max_loss", "2 percent write 0.02"],
    "pruned_flops: 0": ["Prune.pruned_flops", "between 0 and 1"],
    "pruned_params: 1.5": ["Prune.pruned_params"],
    "pruned_latency: 1": ["Prune.pruned_latency", "between 0 and 1"],
    "{pruned_latency: 0.3, latency: 2}": ["Prune.latency must be a section", "threads, onednn"],
    "{pruned_latency: 0.3, latency: {thread: 2}}": ["Prune.latency", 'did you mean "threads"?'],
    "{pruned_latency: 0.3, latency: {threads: 0}}": ["Prune.latency.threads", "1 or more"],
    "{pruned_latency: 0.3, latency: {onednn: 1}}": ["Prune.latency.onednn must be true or false"],
    "{pruned_latency: 0.3, latency: {batch: 1.5}}": ["Prune.latency.batch", "whole number"],
    "{pruned_latency: 0.3, latency: {shape: 640}}": ["Prune.latency.shape", "[3, 640, 640]"],
    "{pruned_latency: 0.3, latency: {shape: [640, 640]}}": ["the list [640, 640]"],
    "{pruned_latency: 0.3, latency: {shape: [3, 0, 640]}}": ["Prune.latency.shape[1]", "1 or more"],
    "{ratio: 0.3, criterion: fpmg}": ["l1, l2, fpgm", 'did you mean "fpgm"?'],
    "{ratio: 0.3, criterion: 1}": ["Prune.criterion", "found 1"],
    "{ratio: 0.3, enable: 1}": ["Prune.enable must be true or false, found 1"],
    "{ratio: 0.3, dry_run: 'true'}": ["Prune.dry_run", 'the text "true"'],
    "{ratio: 0.3, allow_untrained: 0}": ["Prune.allow_untrained"],
    "{ratio: 0.3, skip: 'head.*'}": ["Prune.skip", "a list", 'the text "head.*"'],
    "{ratio: 0.3, skip: [1]}": ["Prune.skip", "layer pattern 1"],
    "{ratio: 0.3, round_to: 0}": ["Prune.round_to", "1 or more"],
    "{ratio: 0.3, round_to: 8.0}": ["whole number"],
    "{ratio: 0.3, round_to: true}": ["found true"],
    "{ratio: 0.3, sensitivity: 3}": ["Prune.sensitivity must be a section"],
    "{ratio: 0.3, sensitivity: {file: 3}}": ["Prune.sensitivity.file"],
    "{ratio: 0.3, sensitivity: {samples: 0}}": ["Prune.sensitivity.samples", "1 or more"],
    "{ratio: 0.3, sensitivity: {by: outputs}}": ["sensitivity.by", 'did you mean "output"?'],
    "{ratio: 0.3, sensitivity: {exact: 1}}": ["Prune.sensitivity.exact", "true or false"],
    "{ratio: 0.3, sensitivity: {cache_mb: -1}}": ["Prune.sensitivity.cache_mb", "0 or more"],
    "{ratio: 0.3, sensitivity: {ratios: 0.5}}": ["Prune.sensitivity.ratios", "a list"],
    "{ratio: 0.3, sensitivity: {ratios: []}}": ["is empty"],
    "{ratio: 0.3, sensitivity: {ratios: [0.1, 1.0]}}": ["ratios[1]", "found 1.0"],
    "{ratio: 0.3, sensitivity: {ratios: [0, 0.1]}}": ["ratios[0]"],
    "{ratio: 0.3, sensitivity: {ratios: [0.5, 0.1, 0.5]}}": ["Write [0.1, 0.5]"],
    "{ratio: 0.3, recovery: {distill: 1}}": ["Prune.recovery.distill must be true, false, or a s"],
    "{ratio: 0.3, recovery: {distill: {wieght: 1}}}": ["distill has", 'did you mean "weight"?'],
    "{ratio: 0.3, recovery: {distill: {weight: 0}}}": ["distill.weight", "above 0, found 0"],
    "{ratio: 0.3, recovery: {distill: {features: 1}}}": ["distill.features must be true or false"],
    "{ratio: 0.3, recovery: {freeze_bn: never}}": ["freeze_bn must be auto, true or false"],
    "{ratio: 0.3, recovery: {distill: true, unlabelled: scans}}": ["unlabelled", "a list", "scans"],
    "{ratio: 0.3, recovery: {distill: true, unlabelled: [3]}}": ["has 3, which is no path of a"],
    "{ratio: 0.3, recovery: {unlabelled: [scans]}}": ["needs the teacher", "distill: true"],
}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{}", RecoveryOptions()),
        ("{distill: true}", RecoveryOptions(distill=DistillOptions(1.0, True))),
        ("{distill: false, freeze_bn: auto}", RecoveryOptions(distill=None, freeze_bn=None)),
        ("{distill: {features: false}}", RecoveryOptions(distill=DistillOptions(1.0, False))),
        (
            "{distill: {weight: 2}, unlabelled: [a, b/c], freeze_bn: false}",
            RecoveryOptions(
                distill=DistillOptions(2.0, True), unlabelled=("a", "b/c"), freeze_bn=False
            ),
        ),
    ],
)
def test_recovery(text: str, expected: RecoveryOptions) -> None:
    assert parse(f"{{ratio: 0.3, recovery: {text}}}").recovery == expected


@pytest.mark.parametrize("text", MISTAKES)
def test_mistakes(text: str) -> None:
    with pytest.raises(PruneError) as caught:
        parse(text)
    message = str(caught.value)
    assert message.startswith("det.yml: Prune")
    for part in MISTAKES[text]:
        assert part in message


def test_no_suggestion_where_nothing_is_near() -> None:
    assert did_you_mean("zzz", ["ratio"]) == ""
