"""Pruning and exporting a config's model once, with random weights, to see whether it will work.

Nothing of the user's is written or read but the config and what it names to build a model from.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import paddle

from ..criteria import Ranker
from ..errors import PruneError
from ..graph.inference_mode import in_inference_mode, reparameterises
from ..network import (
    Network,
    apply_checked,
    as_tensors,
    make_plan,
    random_inputs,
    run_once,
)
from ..plan import PruningPlan, plan_path
from ..report.lines import characters_line, human
from ..section import PruneSection
from .adapters.classes import plan_of_lost
from .adapters.dictionaries import in_use
from .adapters.networks import Networks
from .adapters.sub_models import SubModel, combined, families
from .adapters.tree import build_from_config
from .patches.config import current_section
from .patches.weights import with_dictionary

_EXPORT_SECONDS = 900


class Step(NamedTuple):
    """What one step showed: ``level`` is "ok", "note" or "FAIL"."""

    level: str
    text: str
    remedy: str = ""


def rehearse(config_path: Path, options: Sequence[str], tree: Path) -> Iterator[Step]:
    """Build, trace, prune by a little, call ``rep()``, export; stops at the first that fails.

    Args:
        config_path: a PaddleOCR config.
        options: ``key=value`` items as after ``-o``.
        tree: the PaddleOCR tree.
    """
    try:
        model, config = build_from_config(config_path, list(options), tree)
        source = str(config_path)
        section = current_section(config, source) or PruneSection()
        found = families(config, model, section, source)
    except PruneError as error:
        yield Step("FAIL", "the model cannot be built", str(error))
        return
    except ModuleNotFoundError as error:
        yield Step("FAIL", f"the model cannot be built: {error}", "install what this tree imports")
        return
    except Exception as error:  # whatever PaddleOCR's code raises, or lacks
        yield Step("FAIL", f"the model cannot be built: {_said(error)}")
        return
    yield Step("ok", f"built: {type(model).__name__}, {human(_parameters(model))} parameters")
    networks, plans = Networks(), {}
    for family in found:
        for part in family.members:
            try:
                network = networks.of(part)
                yield from _traced(part, network)
                used = in_use()
                if used is not None and used.alphabet is not None:
                    lost = plan_of_lost(part, network, used)
                    yield Step("ok", f"{_named(part)}{characters_line(used.alphabet, lost)}")
                _enliven(network)
                plan = _pruned(network, family.section, source)
            except PruneError as error:
                yield Step("FAIL", f"{_named(part)}cannot be pruned", str(error))
                return
            except Exception as error:
                yield Step("FAIL", f"{_named(part)}cannot be pruned: {_said(error)}")
                return
            yield Step(
                "ok",
                f"{_named(part)}one channel of each of {len(plan.groups)} groups removed: it runs, "
                "deployed and as it trains",
            )
            yield from _fused(part, network)
            plans[part.name] = plan
    whole = combined(plans)
    assert whole is not None
    yield from _exported(model, whole, config_path, options, tree)
    yield Step(
        "note",
        "not to be known from here: what trained weights lose, time, and engines other than Paddle "
        "Inference on this CPU. A run with Prune.dry_run=true says the first",
    )


def _enliven(network: Network) -> None:
    """Make a fresh network answer: scales and shifts are drawn, and statistics become those of the
    signals, which neither die nor grow then."""
    model, random = network.model, np.random.default_rng(0)
    for name, parameter in model.named_parameters():
        if len(parameter.shape) == 1 and not parameter.stop_gradient:
            drawn = (not name.endswith("bias")) + 0.3 * random.standard_normal(parameter.shape)
            parameter.set_value(drawn.astype(parameter.numpy().dtype))
    norms = [layer for layer in model.sublayers() if getattr(layer, "_variance", None) is not None]
    momenta = [layer._momentum for layer in norms]
    for layer in norms:
        layer._momentum = 0.0
    model.train()
    with paddle.no_grad():
        model(*as_tensors(random_inputs(network.training_inputs)))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer._momentum = momentum


def _traced(part: SubModel, network: Network) -> Iterator[Step]:
    graph = network.graph
    yield Step(
        "ok",
        f"{_named(part)}traced: {len(graph.groups)} channel groups, "
        f"{human(network.costs.flops(graph.shapes))} FLOPs (MACs)",
    )
    if network.unseen:
        yield Step("note", f"{_named(part)}{network.unseen}")
    if graph.unknown:
        listed = ", ".join(f"{op} ({count}x)" for op, count in graph.unknown.items())
        yield Step(
            "note",
            f"{_named(part)}operations without a rule, so that what reaches them stays: {listed}",
        )


def _pruned(network: Network, section: PruneSection, source: str) -> PruningPlan:
    """The live model with one channel less in every group that the section lets through."""
    groups = network.prunable(section, source)
    widths = {group.name: group.size - 1 for group in groups if group.size > 1}
    plan = make_plan(network, widths, Ranker("l1"))
    apply_checked(network, plan)
    return plan


def _fused(part: SubModel, network: Network) -> Iterator[Step]:
    """What ``rep()`` changes of the answers of the pruned model."""
    if not reparameterises(network.model):
        return
    before = run_once(network.model, network.inputs)
    after = run_once(in_inference_mode(network.model), network.inputs)
    spread = max(float(np.abs(array - array.mean()).max()) for array in before)
    differ = max(float(np.abs(a - b).max()) for a, b in zip(after, before, strict=True))
    yield Step(
        "ok",
        f"{_named(part)}rep() changes its answers by {differ:.1e}, of answers that differ among "
        f"themselves by {spread:.1e}",
    )


def _exported(
    model: paddle.nn.Layer, plan: PruningPlan, config: Path, options: Sequence[str], tree: Path
) -> Iterator[Step]:
    """What tools/export_model.py makes of the pruned weights, and where it fails, of whole ones."""
    with tempfile.TemporaryDirectory(prefix="ppocr-prune-doctor-") as folder:
        pruned = Path(folder, "pruned.pdparams")
        paddle.save(with_dictionary(model.state_dict()), str(pruned))
        plan.save(plan_path(pruned))
        failed, said = _export(config, options, tree, pruned, Path(folder, "inference"))
        agreed = re.findall(r"prune: (the exported model agrees .*)", said)
        if not failed and agreed:
            yield Step("ok", f"export works: {'; '.join(dict.fromkeys(agreed))}")
        elif not failed:
            unsure = re.findall(r"prune: (.*)", said)
            yield Step(
                "note", f"export runs; whether its result is right is not known. {unsure[-1:]}"
            )
        else:
            unpruned, _ = _export(config, options, tree, None, Path(folder, "whole"))
            whose = (
                "; PaddleOCR does not export the unpruned model here either"
                if unpruned
                else "; the unpruned model is exported"
            )
            yield Step("FAIL", f"export fails: {failed}{whose}")


def _export(
    config: Path, options: Sequence[str], tree: Path, weights: Path | None, folder: Path
) -> tuple[str, str]:
    """The last line that the tool said where it failed, else nothing; and all that it said."""
    command = [sys.executable, "-m", "ppocr_prune_plugin.cli", "run"]
    if weights is None:
        command = [sys.executable]
    command += [str(tree / "tools" / "export_model.py"), "-c", str(config), "-o", *options]
    command += [
        "Global.checkpoints=null",
        f"Global.pretrained_model={weights or 'null'}",
        f"Global.save_inference_dir={folder}",
    ]
    environment = {**os.environ, "PPOCR_PRUNE": "0"} if weights is None else dict(os.environ)
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_EXPORT_SECONDS
        )
    except subprocess.TimeoutExpired:
        return f"no answer within {_EXPORT_SECONDS} seconds", ""
    said = done.stdout + done.stderr
    if done.returncode == 0:
        return "", said
    lines = [line for line in done.stderr.splitlines() if line.strip()] or ["it said nothing"]
    errors = [
        line.strip() for line in lines if re.match(r"\s*([\w.]*Error|ppocr-prune: error): ", line)
    ]
    return (errors or lines)[-1].removeprefix("ppocr-prune: error: "), said


def _parameters(model: paddle.nn.Layer) -> int:
    return sum(int(np.prod(p.shape)) for p in model.parameters() if not p.stop_gradient)


def _named(part: SubModel) -> str:
    return f"{part.name}: " if part.name else ""


def _said(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[-1].strip() if lines else ''}"
