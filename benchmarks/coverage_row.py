"""One row of the coverage table: everything that PaddleOCR's tools do to one pruned architecture.

The model is built with random weights and brought into the state of a trained one, traced, and
pruned at two ratios. Each time it is run as it is deployed and as it trains, takes one step of
Adam, is saved, loaded into a new model and exported, by PaddleOCR's own functions with the plugin's
hooks in place.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import importlib.util
import inspect
import json
import logging
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import paddle
from coverage_table import Config, config_of

from ppocr_prune_plugin import surgery
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.export.exported import ExportedModel
from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.graph.groups import ChannelGroup
from ppocr_prune_plugin.graph.trace import is_spec, map_inputs
from ppocr_prune_plugin.hooks.adapters.inputs import example_inputs, training_inputs
from ppocr_prune_plugin.hooks.adapters.state import set_plan
from ppocr_prune_plugin.hooks.adapters.tracing import network_of
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, use_tree
from ppocr_prune_plugin.hooks.finder import install
from ppocr_prune_plugin.hooks.patches.export import wrap
from ppocr_prune_plugin.network import (
    Network,
    apply_checked,
    as_tensors,
    make_plan,
    random_inputs,
    run_once,
)
from ppocr_prune_plugin.ratios.rounding import width_for_ratio
from ppocr_prune_plugin.section import PruneSection

RATIOS = (0.3, 0.6)
_LONG = 3  # seconds to build a model
_WORDS = 500  # of heads whose dictionary of 50,000 no config can shorten
_LOGGER = logging.getLogger("coverage")

Result = dict[str, Any]


class Row:
    """The stages of one row; ``result`` is what is known so far, and on disk at any moment."""

    def __init__(self, name: str, tree: Path, path: Path, export: bool = True) -> None:
        self._path = path
        self._export = export
        self._begin = time.perf_counter()
        self.config: Config = config_of(name, tree)
        self.exported = as_exported(self.config)
        self.fresh: list[tuple[Config, paddle.nn.Layer]] = []
        self.result: Result = {"name": name, "status": "failed", "stage": "building", "kept": []}
        self.result["times"] = {}  # seconds of every stage

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """What is being done, should it end the process."""
        self.result["stage"] = name
        self.write()
        begin = time.perf_counter()
        yield
        self.result["times"][name] = round(time.perf_counter() - begin, 1)
        self.write()

    def model(self, config: Config) -> paddle.nn.Layer:
        """A new model; a copy where building takes long."""
        for known, model in self.fresh:
            if known == config:
                return copy.deepcopy(model)
        begin = time.perf_counter()
        model = build(config)
        if time.perf_counter() - begin > _LONG:
            self.fresh.append((config, copy.deepcopy(model)))
        return model

    def write(self) -> None:
        self.result["seconds"] = round(time.perf_counter() - self._begin, 1)
        write_atomically(self._path, json.dumps(self.result))

    def run(self) -> None:
        """All stages."""
        with self.stage("building"):
            model = self.model(self.config)
        with self.stage("running unpruned"):
            calibrate(model, self.config)
            run_once(model, example_inputs(self.config))
        with self.stage("tracing"):
            network = network_of(self.config, model)
            groups = network.prunable(PruneSection(ratio=0.0), "the network")
            self.result.update(describe(network, groups))
        weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
        for ratio in RATIOS:
            with tempfile.TemporaryDirectory() as folder:
                self.prune(network, groups, weights, ratio, Path(folder))
        self.result["status"] = "partly" if network.unseen else "pruned"

    def prune(
        self,
        network: Network,
        groups: list[ChannelGroup],
        weights: dict[str, Any],
        ratio: float,
        folder: Path,
    ) -> None:
        """Everything at one ratio, on a model of its own."""
        share = f"{ratio:.0%}"
        with self.stage(f"pruning {share}"):
            model = self.model(self.config)
            model.set_state_dict(weights)
            network = dataclasses.replace(network, model=model)
            widths = {g.name: width_for_ratio(g.size, ratio, 1) for g in groups}
            plan = make_plan(network, widths, Ranker("l1"))
            optimizer = paddle.optimizer.Adam(1e-4, parameters=model.parameters())
            apply_checked(network, plan)
            set_plan(model, plan)
            self.result[share] = plan.flops.pruned
        with self.stage(f"a training step at {share}"):
            step(model, optimizer, self.config)
        with self.stage(f"saving and loading at {share}"):
            expected = answers(model, self.config)
            again = self.model(self.config)
            save(model, optimizer, self.config, folder)
            load(again, self.config, folder)
            require_equal(answers(again, self.config), expected)
        if not self._export or "export" in self.result:
            return  # PaddleOCR cannot export this architecture at all
        with self.stage(f"exporting at {share}"):
            if self.exported != self.config:
                again = self.model(self.exported)
                load(again, self.exported, folder)
            try:
                export(again, self.exported, folder)
            except (Exception, SystemExit):
                # Is it PaddleOCR's export itself that does not work?
                whole = self.model(self.exported)
                whole.set_state_dict(weights)
                problem = reason_of_export(whole, self.exported, folder)
                if not problem:
                    raise
                self.result["export"] = problem


def build(config: Config) -> paddle.nn.Layer:
    """A model with random weights as ``tools/train.py`` builds it, always the same for a config."""
    from ppocr.modeling.architectures import build_model

    paddle.seed(0)
    np.random.seed(0)
    with shortened():
        try:
            model = build_model(copy.deepcopy(config["Architecture"]))
        except ValueError:  # a layer names its parameters itself, and there is such a model already
            with paddle.utils.unique_name.guard():
                model = build_model(copy.deepcopy(config["Architecture"]))
    if config["Architecture"]["algorithm"] == "LaTeXOCR":
        model.head.max_seq_len = 8  # a random model never says that its text is complete
    model.train()
    return model


@contextmanager
def shortened() -> Iterator[None]:
    """Let networks of formulas that state their sizes in the code have fewer words and fewer equal
    layers: two thirds of their weights are the words', and a row would take minutes."""
    stated = (
        ("ppocr.modeling.backbones.rec_donut_swin", "DonutSwinConfig", {"depths": [2, 2, 2, 2]}),
        ("ppocr.modeling.heads.rec_ppformulanet_head", "MBartConfig", {"vocab_size": _WORDS}),
        ("ppocr.modeling.heads.rec_unimernet_head", "MBartConfig", {"vocab_size": _WORDS}),
    )
    places: list[tuple[Any, str, dict[str, Any]]] = [
        (importlib.import_module(module), name, ours)
        for module, name, ours in stated
        if importlib.util.find_spec(module) is not None  # older trees have none of them
    ]
    originals = [getattr(module, name) for module, name, _ in places]
    for (module, name, ours), original in zip(places, originals, strict=True):
        setattr(module, name, functools.partial(_with, original, ours))
    try:
        yield
    finally:
        for (module, name, _), original in zip(places, originals, strict=True):
            setattr(module, name, original)


def _with(original: Any, ours: dict[str, Any], **options: Any) -> Any:
    return original(**{**options, **ours})


def as_exported(config: Config) -> Config:
    """The config as ``tools/export_model.py`` changes it before it builds the model."""
    config = copy.deepcopy(config)
    architecture = config["Architecture"]
    if architecture["model_type"] == "sr":
        architecture["Transform"]["infer_mode"] = True
    algorithm = architecture["algorithm"]
    if algorithm == "LaTeXOCR":
        architecture["Backbone"]["is_predict"] = True
    if algorithm in ("LaTeXOCR", "UniMERNet"):
        architecture["Backbone"]["is_export"] = True
    if algorithm in ("LaTeXOCR", "UniMERNet") or algorithm.startswith("PP-FormulaNet"):
        architecture["Head"]["is_export"] = True
    return config


def calibrate(model: paddle.nn.Layer, config: Config) -> None:
    """Make running statistics those of a batch, as in a trained network: else signals die or grow
    with depth, and two networks that answer nothing agree whatever they are."""
    norms = [layer for layer in model.sublayers() if hasattr(layer, "_momentum")]
    momenta = [layer._momentum for layer in norms]
    for layer in norms:
        layer._momentum = 0.0
    with paddle.no_grad():
        model(*training_batch(config))
    for layer, momentum in zip(norms, momenta, strict=True):
        layer._momentum = momentum


def training_batch(config: Config) -> list[Any]:
    """Made-up pictures, between 0 and 1 because SPIN takes roots of them, and labels."""

    def between(item: Any) -> Any:
        return random_inputs([item])[0] / np.float32(8) + np.float32(0.5) if is_spec(item) else item

    return as_tensors(map_inputs(training_inputs(config), between))


def describe(network: Network, groups: list[ChannelGroup]) -> Result:
    """Groups, the shares of the costs that stand in their channels, and what is frozen."""
    graph, costs = network.graph, network.costs
    gone = surgery.shapes_after(graph, {group.name: 0 for group in groups})
    kept: dict[str, int] = {}
    for item in graph.frozen:
        kept[item.reason] = kept.get(item.reason, 0) + item.channels
    return {
        "groups": len(groups),
        "flops": 1 - costs.flops(gone) / costs.flops(graph.shapes),
        "params": 1 - costs.params(gone) / costs.params(graph.shapes),
        "unseen": network.unseen,
        "kept": sorted(kept, key=lambda reason: -kept[reason]),
        "unknown": dict(graph.unknown),
    }


def step(model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, config: Config) -> None:
    """One step of the optimizer on a made-up batch and loss."""
    model.train()
    outputs = paddle.utils.flatten(model(*training_batch(config)))
    tensors = [t for t in outputs if isinstance(t, paddle.Tensor) and t.is_floating_point()]
    loss = paddle.add_n([tensor.square().mean() for tensor in tensors if not tensor.stop_gradient])
    loss.backward()
    before = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    optimizer.step()
    optimizer.clear_grad()
    after = {name: parameter.numpy() for name, parameter in model.named_parameters()}
    if not all(np.isfinite(array).all() for array in after.values()):
        raise AssertionError("a weight is not finite after a step")
    if all(np.array_equal(array, after[name]) for name, array in before.items()):
        raise AssertionError("no weight changes in a step")


def save(
    model: paddle.nn.Layer, optimizer: paddle.optimizer.Optimizer, config: Config, folder: Path
) -> None:
    """Save a model as PaddleOCR does while it trains."""
    from ppocr.utils import save_load

    save_load.save_model(model, optimizer, str(folder), _LOGGER, config, prefix="latest")


def load(model: paddle.nn.Layer, config: Config, folder: Path) -> None:
    """Load what :func:`save` has saved into a new model."""
    from ppocr.utils import save_load

    settings = {**config["Global"], "checkpoints": None}
    settings["pretrained_model"] = str(folder / "latest")
    kind = config["Architecture"]["model_type"]
    save_load.load_model({**config, "Global": settings}, model, None, kind)


def answers(model: paddle.nn.Layer, config: Config) -> list[Any]:
    """Outputs as deployed; SRN drops out then, too, so that chance has to be the same."""
    paddle.seed(0)
    return run_once(model, example_inputs(config))


def require_equal(found: list[Any], expected: list[Any]) -> None:
    """Raise AssertionError unless two runs gave the same."""
    for ours, theirs in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6 * np.abs(theirs).max())


def export(model: paddle.nn.Layer, config: Config, folder: Path) -> None:
    """PaddleOCR's export, after which the plugin compares its result with the model."""
    newer = importlib.util.find_spec("ppocr.utils.export_model") is not None
    module = importlib.import_module("ppocr.utils.export_model" if newer else "tools.export_model")
    wrap(module)  # in tools/ it is, up to 2.8, once the tool runs
    model.eval()
    config = copy.deepcopy(config)
    config["Global"]["export_with_pir"] = True
    shape = example_inputs(config)[0]
    arguments = {
        "model": model,
        "arch_config": config["Architecture"],
        "save_path": str(folder / "inference"),
        "logger": _LOGGER,
        "yaml_path": str(folder / "inference.yml"),
        "config": config,
        "input_shape": list(shape[0][1:]) if isinstance(shape, tuple) else None,
    }
    known = inspect.signature(module.export_single_model).parameters
    module.export_single_model(**{key: arguments[key] for key in known if key in arguments})


def run_exported(folder: Path, config: Config) -> None:
    """Run what :func:`export` has written."""
    ExportedModel(folder / "inference").run([random_inputs(example_inputs(config))])


def reason_of_export(model: paddle.nn.Layer, config: Config, folder: Path) -> str:
    """Why PaddleOCR's export of an unpruned model fails, or its result; empty where both work."""
    try:
        export(model, config, folder)
        run_exported(folder, config)
    except (Exception, SystemExit) as error:
        return short(error)
    return ""


def short(error: BaseException) -> str:
    """The line of an error that says what is wrong."""
    cause = error.__cause__ if isinstance(error, SystemExit) and error.__cause__ else error
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    named = [line for line in lines if "Error: " in line or "Error]" in line]
    text = (named or lines or [""])[-1]
    return text if isinstance(cause, PruneError) else f"{type(cause).__name__}: {text}"


def export_unpruned(config: Config) -> None:
    """Export an unpruned model and run the result; ends the process where Paddle crashes."""
    trained = build(config)
    calibrate(trained, config)
    config = as_exported(config)
    model = build(config)
    model.set_state_dict({name: tensor.numpy() for name, tensor in trained.state_dict().items()})
    with tempfile.TemporaryDirectory() as folder:
        export(model, config, Path(folder))
        run_exported(Path(folder), config)


def main() -> int:
    """``coverage_row.py NAME RESULT``: write the row's result as JSON. A third word ``no-export``
    leaves the export away, ``export-unpruned`` does nothing else."""
    tree = find_tree()
    row = Row(sys.argv[1], tree, Path(sys.argv[2]).resolve(), "no-export" not in sys.argv)
    install()
    use_tree(tree)
    os.chdir(tree)  # paths of dictionaries are relative to the tree
    if "export-unpruned" in sys.argv:
        export_unpruned(row.config)
        return 0
    try:
        row.run()
    except (Exception, SystemExit) as error:
        row.result["problem"] = short(error)
        cause = error.__cause__ if isinstance(error, SystemExit) else error
        if row.result["stage"] in ("building", "running unpruned"):
            row.result["status"] = "no"  # PaddleOCR itself cannot
        elif isinstance(cause, PruneError) and row.result["stage"] == "tracing":
            row.result["status"] = "refused"
        else:
            raise
    finally:
        row.write()
    return 0


if __name__ == "__main__":
    sys.exit(main())
