"""What PaddleOCR's old pruning scripts left goes in as it is: ``sen.pickle`` and its names."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from paddle import nn
from tool_processes import RunTool

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.network import inspect
from ppocr_prune_plugin.plan import load_plan

# Names of weights and their shapes, from a model that is built as the old script built it, without
# this package; what it pruned is chosen as there, by dimensions and names.
_NAMES = """
import json, sys, yaml
sys.path.insert(0, sys.argv[1])
from ppocr.modeling.architectures import build_model
from ppocr.postprocess import build_post_process
config = yaml.safe_load(open(sys.argv[2]))
build_post_process(config["PostProcess"], config["Global"])
model = build_model(config["Architecture"])
found = {p.name: (name, p.shape) for name, p in model.named_parameters() if len(p.shape) == 4}
print("names:", json.dumps(found))
"""


def test_an_old_sensitivity_file_and_its_names_go_in_as_they_are(
    run_tool: RunTool, tree: Path, det_config: Path, det_weights: Path, tmp_path: Path
) -> None:
    """As ``FPGMFilterPruner.sensitive`` left it: its losses choose the widths, nothing that it
    knows is measured, and names of ``skip_vars`` are names for ``Prune.skip``."""
    names = ["-c", _NAMES, tree, det_config]
    built = run_tool(names, env={"PPOCR_PRUNE": "0"}, cwd=tmp_path, fresh=False)
    assert built.returncode == 0, built.stderr
    named = json.loads(re.findall(r"^names: (.*)$", built.stdout, re.M)[-1])
    shapes = {weight: item for weight, item in named.items() if "transpose" not in weight}
    outputs = [weight for weight in named if "transpose" in weight]
    # Every other layer may lose 20%, the rest all that was measured.
    slopes = {weight: (0.1, 0.01)[number % 2] for number, weight in enumerate(shapes)}
    old = {
        weight: {float(f"{step / 10}"): np.float64(slope * step / 10) for step in range(1, 10)}
        for weight, slope in slopes.items()
    }
    path = tmp_path / "sen.pickle"
    path.write_bytes(pickle.dumps(old, protocol=2))
    skipped = next(weight for weight, (name, _) in shapes.items() if "layer_list" in name)
    done = run_tool(
        [
            *(tree / "tools" / "train.py", "-c", det_config, "-o"),
            *(f"Global.pretrained_model={det_weights}", f"Global.save_model_dir={tmp_path}"),
            *(f"Prune.sensitivity.file={path}", "Prune.max_loss=0.02", "Prune.criterion=fpgm"),
            *("Prune.recovery.compensate=false", "Prune.bn_batches=0", "Prune.round_to=1"),
            *(f"Prune.skip=[{','.join([skipped, *outputs])}]", "Prune.dry_run=true"),
        ],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-2000:]
    assert "nothing says which weights, data and settings" in done.stdout
    kept = {group.name: group for group in load_plan(tmp_path / "prune/plan.prune.json").groups}
    layers = {name.rpartition(".")[0]: weight for weight, (name, _) in shapes.items()}
    assert layers.keys() & kept.keys() and shapes[skipped][0].rpartition(".")[0] not in kept
    for layer in layers.keys() & kept.keys():
        group, share = kept[layer], 0.2 if slopes[layers[layer]] == 0.1 else 0.9
        wanted = group.channels * (1 - share)
        # Up to the loss that is allowed, never beyond; as deep as was measured, to the next width.
        off = (0, 1) if share == 0.2 else (-1, 1)
        assert off[0] - 0.01 <= group.kept_channels - wanted <= off[1], layer
    content = json.loads((tmp_path / "sensitivity.json").read_text(encoding="utf-8"))["groups"]
    for name in layers.keys() & content.keys():
        assert not any("images" in point for point in content[name]["points"].values()), name
    assert (tmp_path / "sen.pickle.original").read_bytes() == pickle.dumps(old, protocol=2)


@pytest.mark.parametrize("name", ["conv", "out", "norm", "each", "nothing"])
def test_what_may_be_named_for_skipping(name: str) -> None:
    """A layer that produces channels, be they frozen; not one that only carries them, which skips
    nothing."""
    model = nn.Sequential(
        ("conv", nn.Conv2D(3, 8, 1)), ("norm", nn.BatchNorm2D(8)),
        ("each", nn.Conv2D(8, 8, 3, groups=8, bias_attr=False)), ("out", nn.Conv2D(8, 1, 1)),
    )  # fmt: skip
    network = inspect(model, [([1, 3, 8, 8], "float32")])
    if name in ("conv", "out"):
        network.require_skipped([name], "x.yml")
    else:
        with pytest.raises(PruneError, match=f'Prune.skip has the pattern "{name}", which matches'):
            network.require_skipped([name], "x.yml")
