"""What PaddleOCR's old pruning scripts left goes in as it is: ``sen.pickle`` and its names."""

from __future__ import annotations

import json
import pickle
import re
from pathlib import Path

import numpy as np
from tool_processes import RunTool

from ppocr_prune_plugin.plan import load_plan
from ppocr_prune_plugin.sensitivity.store import load_pickle

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
print("names:", json.dumps({k: v for k, v in found.items() if "transpose" not in k}))
"""


def test_an_old_sensitivity_file_and_its_names_go_in_as_they_are(
    run_tool: RunTool, tree: Path, det_config: Path, det_weights: Path, tmp_path: Path
) -> None:
    """``FPGMFilterPruner.sensitive`` wrote it, its losses choose the widths, and ``skip_vars`` is
    ``Prune.skip``."""
    built = run_tool(
        ["-c", _NAMES, tree, det_config], env={"PPOCR_PRUNE": "0"}, cwd=tmp_path, fresh=True
    )
    assert built.returncode == 0, built.stderr
    names = json.loads(re.findall(r"^names: (.*)$", built.stdout, re.M)[-1])
    old = {
        weight: {round(ratio, 1): np.float64(ratio * (0.01 if number % 2 else 0.1))
                 for ratio in np.arange(0.1, 1, 0.1)}
        for number, weight in enumerate(names)
    }  # fmt: skip
    path = tmp_path / "sen.pickle"
    path.write_bytes(pickle.dumps(old, protocol=2))
    skipped, sliced = list(names)[-1], [name for name in names if names[name][1][0] >= 64]
    done = run_tool(
        [
            *(tree / "tools" / "train.py", "-c", det_config, "-o"),
            *(f"Global.pretrained_model={det_weights}", f"Global.save_model_dir={tmp_path}"),
            *(f"Prune.sensitivity.file={path}", "Prune.max_loss=0.02", "Prune.criterion=fpgm"),
            *(f"Prune.skip=[{sliced[0]}]", "Prune.bn_batches=0", "Prune.dry_run=true"),
            *("Prune.recovery.compensate=false", "Prune.round_to=1"),
        ],
        cwd=tmp_path,
    )
    print(done.stdout[-3000:], done.stderr[-2000:], skipped)
    assert done.returncode == 0
    plan = load_plan(tmp_path / "prune" / "plan.prune.json")
    print(len(plan.groups), [(g.name, g.size, g.width) for g in plan.groups][:10])
    assert load_pickle(tmp_path / "sen.pickle.original") == load_pickle(path)
    assert 0
