"""PaddleOCR's own tools on configs with and without a Prune section, up to the first work."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from fixtures_trees import changed_tree
from tool_processes import RunTool

from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.tree import set_out_channels
from ppocr_prune_plugin.hooks.patches.config import add_option_parents, current_section
from ppocr_prune_plugin.hooks.points import check_tree
from ppocr_prune_plugin.hooks.request import near_names

# A detector's config up to its data, which is not there: a run that is not stopped by its section
# stops at the missing label file, with PaddleOCR's own message.
STOCK = """\
Global:
  use_gpu: false
  epoch_num: 1
  log_smooth_window: 20
  print_batch_step: 1
  save_model_dir: out
  save_epoch_step: 1
  eval_batch_step: [0, 10]
  distributed: false
Architecture:
  model_type: det
  algorithm: DB
  Backbone: {name: MobileNetV3, scale: 0.5, model_name: large}
  Neck: {name: RSEFPN, out_channels: 24}
  Head: {name: DBHead, k: 50}
PostProcess: {name: DBPostProcess}
Train: &data
  dataset: {name: SimpleDataSet, data_dir: ., label_file_list: [no_such_labels.txt], transforms: []}
  loader: {shuffle: false, drop_last: false, batch_size_per_card: 1, num_workers: 0}
Eval: *data
"""
NO_DATA = "no_such_labels.txt"


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "stock.yml").write_text(STOCK)
    return tmp_path


def with_section(work: Path, section: str) -> str:
    (work / "pruned.yml").write_text(f"{STOCK}Prune: {section}\n")
    return "pruned.yml"


def test_a_bad_section_stops_train_before_anything_is_written(
    run_tool: RunTool, tree: Path, work: Path
) -> None:
    config = with_section(work, "{prune_flops: 0.5}")
    result = run_tool([tree / "tools" / "train.py", "-c", config], work)
    assert result.returncode == 2
    assert result.stderr.count("ppocr-prune: error:") == 1
    assert 'pruned.yml: Prune has an unknown key "prune_flops"' in result.stderr
    assert 'did you mean "pruned_flops"?' in result.stderr
    assert "Traceback" not in result.stderr
    assert not (work / "out").exists()


def test_a_bad_option_stops_eval_on_a_stock_config(
    run_tool: RunTool, tree: Path, work: Path
) -> None:
    options = ["Prune.ratio=0.3", "Prune.sensitivity.sample=20"]
    result = run_tool([tree / "tools" / "eval.py", "-c", "stock.yml", "-o", *options], work)
    assert result.returncode == 2
    assert 'did you mean "samples"?' in result.stderr
    assert "stock.yml with -o Prune.ratio Prune.sensitivity.sample: " in result.stderr
    assert NO_DATA not in result.stdout + result.stderr


def test_only_training_has_to_say_how_much(run_tool: RunTool, tree: Path, work: Path) -> None:
    """`-o Prune.…` of a training command may be left over in the next one."""
    for section, what in (
        ({"allow_untrained": True}, "does not say how much to prune"),
        ({"ratio": 0.2, "pruned_flops": 0.3}, "says in 2 ways how much to prune"),
    ):
        assert current_section({"Prune": section}) is not None
        with pytest.raises(PruneError, match=what):
            current_section({"Prune": section}, prunes=True)
    command = ["-c", "stock.yml", "-o", "Prune.allow_untrained=true"]
    done = run_tool([tree / "tools" / "eval.py", *command], work)
    assert "ppocr-prune" not in done.stderr and NO_DATA in done.stdout + done.stderr
    refused = run_tool([tree / "tools" / "train.py", *command], work)
    assert refused.returncode == 2
    assert "stock.yml with -o Prune.allow_untrained: Prune does not say how much" in refused.stderr


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"prune": {"ratio": 0.3}}, [("prune",)]),
        ({"PRUNE": {"ratio": 0.3}}, [("PRUNE",)]),
        ({"Pruning": {"ratio": 0.3}}, [("Pruning",)]),
        ({"Prune": {"ratio": 0.3}, "prune": None}, [("prune",)]),
        ({"\uff30\uff52\uff55\uff4e\uff45": {"ratio": 0.3}}, [("\uff30\uff52\uff55\uff4e\uff45",)]),
        ({"\ufeffPrune": {"ratio": 0.3}}, [("\ufeffPrune",)]),
        ({"Prune ": {}}, [("Prune ",)]),
        ({"Prunne": {}}, [("Prunne",)]),
        ({"\u0420rune": {}}, [("\u0420rune",)]),  # a Cyrillic letter
        ({"Global": {"Prune": {"ratio": 0.3}}}, [("Global", "Prune")]),
        ({"Train": {"prune": {"ratio": 0.3}}}, [("Train", "prune")]),
        ({"Prune": {"skip": ["prune"]}, "Global": {"pruned": False}, "Train": None, 3: {}}, []),
        ({"Architecture": {}, "Train": {}, "Eval": {}, "PostProcess": {}, "profiler": {}}, []),
        (["Prune"], []),
    ],
)
def test_names_that_are_meant_to_be_the_section(
    config: object, expected: list[tuple[str, ...]]
) -> None:
    found = [path for path, switched_on in near_names(config) if switched_on]
    assert found == expected
    assert not any(on for _, on in near_names({"prune": {"enable": False}}))


def test_a_section_under_a_near_name_is_warned_of_once(
    run_tool: RunTool, tree: Path, work: Path
) -> None:
    text = STOCK.replace("Global:", "Global:\n  Prune: {ratio: 0.3}")
    (work / "near.yml").write_text(f"{text}\uff30\uff52\uff55\uff4e\uff45: {{ratio: 0.3}}\n")
    done = run_tool([tree / "tools" / "train.py", "-c", "near.yml"], work)
    lines = [line for line in done.stderr.splitlines() if line.startswith("ppocr-prune: ")]
    assert [line.partition(" is not read")[0] for line in lines] == [
        'ppocr-prune: warning: near.yml: the section "Global"."Prune"',
        'ppocr-prune: warning: near.yml: the section "\\uff30\\uff52\\uff55\\uff4e\\uff45"',
    ]
    assert all('Write "Prune", at the top level' in line for line in lines)
    assert NO_DATA in done.stdout + done.stderr  # it goes on


def test_options_make_a_section_and_stock_configs_stay_stock(
    run_tool: RunTool, tree: Path, work: Path
) -> None:
    def written(*options: str, env: Mapping[str, str] | None = None) -> bytes:
        """The config.yml that train.py writes: the merged config."""
        shutil.rmtree(work / "out", ignore_errors=True)
        result = run_tool(
            [tree / "tools" / "train.py", "-c", "stock.yml", "-o", "Global.epoch_num=3", *options],
            work,
            env,
        )
        assert NO_DATA in result.stdout + result.stderr
        assert "ppocr-prune" not in result.stdout + result.stderr
        return (work / "out" / "config.yml").read_bytes()

    plain = written(env={"PPOCR_PRUNE": "0"})
    assert written() == plain
    pruned = yaml.safe_load(written("Prune.enable=false", "Prune.sensitivity.samples=20"))
    assert pruned.pop("Prune") == {"enable": False, "sensitivity": {"samples": 20}}
    assert pruned == yaml.safe_load(plain)


def test_export_has_the_option_prune_plan(run_tool: RunTool, tree: Path, work: Path) -> None:
    tool = tree / "tools" / "export_model.py"
    assert "--prune-plan FILE" in run_tool([tool, "--help"], work).stdout
    command = [tool, "-c", "stock.yml", "--prune-plan"]
    for name, problem in {
        "no.json": "there is no such file",
        "stock.yml": "is a .json file",
    }.items():
        result = run_tool([*command, name], work)
        assert result.returncode == 2
        assert f"ppocr-prune: error: --prune-plan {name}: " in result.stderr
        assert problem in result.stderr


@pytest.mark.parametrize(
    ("file", "changes", "missing"),
    [
        # A function that the tools import by its name, …
        (
            "ppocr/utils/save_load.py",
            {"def load_model(config, model,": "def load_model(config, net,"},
            "the parameter model of ppocr.utils.save_load.load_model",
        ),
        # … and one without which no section would be seen.
        (
            "tools/program.py",
            {"def merge_config(config, opts):": "def merge_config(config, o):\n    opts = o"},
            "the parameter opts of tools.program.merge_config",
        ),
    ],
)
def test_a_tree_that_does_not_fit(
    run_tool: RunTool,
    tree: Path,
    work: Path,
    file: str,
    changes: Mapping[str, str],
    missing: str,
) -> None:
    """An error for who prunes or has pruned weights, nothing for anybody else."""
    copy = changed_tree(tree, work / "tree", file, changes)
    assert [check.lacks for check in check_tree(copy) if not check.fits] == [missing]

    tool = copy / "tools" / "eval.py"
    (work / "pruned.prune.json").write_text("{}")
    for arguments in (
        ["-c", with_section(work, "{ratio: 0.3}")],
        ["-c", "stock.yml", "-o", f"Global.checkpoints={work / 'pruned'}"],
    ):
        refused = run_tool([tool, *arguments], work)
        assert refused.returncode == 2
        assert refused.stderr.count("ppocr-prune: error:") == 1
        assert f"{copy} lacks what pruning hooks into: {missing}." in refused.stderr
    # Without either the tree works as well as it did: up to its missing data.
    stock = run_tool([tool, "-c", "stock.yml"], work)
    assert "ppocr-prune" not in stock.stderr
    assert NO_DATA in stock.stdout + stock.stderr


def test_what_a_tree_lacks_is_read_off_its_source(tree: Path, today_tree: Path, work: Path) -> None:
    for fitting in (tree, today_tree):
        assert not [check.lacks for check in check_tree(fitting) if not check.fits]
    (today,) = (c for c in check_tree(today_tree) if str(c.point) == "tools.program.train")
    assert today.parameters is not None and {"ema", "wd_scheduler"} <= set(today.parameters)
    copy = changed_tree(tree, work / "a", "tools/program.py", {"def eval(": "def evaluate("})
    assert [c.lacks for c in check_tree(copy) if not c.fits] == ["tools.program.eval"]
    # Where the function of an export is neither in its newer place nor in the older one.
    file = "ppocr/utils/export_model.py"
    copy = changed_tree(tree, work / "b", file, {"def export_single_model(": "def single("})
    lacking = ["ppocr.utils.export_model.export_single_model"]
    assert [c.lacks for c in check_tree(copy) if not c.fits] == lacking


def test_options_below_something_that_is_no_section() -> None:
    with pytest.raises(PruneError, match=r"-o Prune.ratio.head: Prune.ratio is 0.3"):
        add_option_parents({"Prune": {"ratio": 0.3}}, {"Prune.ratio.head": 0.5})
    with pytest.raises(PruneError, match="-o Prune: Prune must be a section"):
        add_option_parents({"Global": {}}, {"Prune": 0.3})


def test_an_empty_section_can_be_filled_by_options() -> None:
    config: dict[str, object] = {"Prune": None}
    add_option_parents(config, {"Prune.ratio": 0.3})
    assert config == {"Prune": {}}


def test_current_section() -> None:
    assert current_section({"Global": {}}) is None
    assert current_section({"Prune": {"enable": False}}) is None
    section = current_section({"Prune": {"ratio": 0.3}})
    assert section is not None and section.target == ("ratio", 0.3)


def test_classes_of_recognition_heads() -> None:
    """As tools/train.py sets them: the decoders differ in their extra symbols."""
    multi = {"name": "MultiHead"}
    config = {"Architecture": {"Head": multi}, "PostProcess": {"name": "CTCLabelDecode"}}
    set_out_channels(config, 100)
    expected = {"CTCLabelDecode": 100, "SARLabelDecode": 102, "NRTRLabelDecode": 103}
    assert multi["out_channels_list"] == expected  # type: ignore[comparison-overlap]
    student: dict[str, object] = {"name": "CTCHead"}
    config = {
        "Architecture": {"Models": {"Student": {"Head": student}}},
        "PostProcess": {"name": "DistillationCTCLabelDecode"},
    }
    set_out_channels(config, 100)
    assert student["out_channels"] == 100


BUILD = """\
import sys
from pathlib import Path
from ppocr_prune_plugin.hooks.adapters.tree import build_from_config, find_tree
from ppocr_prune_plugin.errors import PruneError
tree = find_tree()
model, config = build_from_config("stock.yml", ["Architecture.Neck.out_channels=48"], tree)
print(model.training, tuple(model.neck.ins_conv[0].in_conv.weight.shape)[:1], "Prune" in config)
model, config = build_from_config("rec.yml", [], tree)
print(tuple(model.head.fc.weight.shape)[1:])
for name, options in [
    ("none.yml", []),
    ("stock.yml", ["Gloal.a=1"]),
    ("stock.yml", ["Prune.ratio=2"]),
    ("nodict.yml", []),
]:
    try:
        build_from_config(name, options, tree)
    except PruneError as error:
        print("PruneError:", error)
"""
REC = """\
Global: {use_gpu: false, character_dict_path: %s, use_space_char: false}
Architecture:
  model_type: rec
  algorithm: CRNN
  Transform:
  Backbone: {name: MobileNetV3, scale: 0.5, model_name: small}
  Neck: {name: SequenceEncoder, encoder_type: rnn, hidden_size: 48}
  Head: {name: CTCHead}
PostProcess: {name: CTCLabelDecode}
"""


def test_models_are_built_from_configs(run_tool: RunTool, tree: Path, work: Path) -> None:
    (work / "dict.txt").write_text("\n".join("abcdefg"))
    (work / "rec.yml").write_text(REC % "dict.txt")
    (work / "nodict.yml").write_text(REC % "no_dict.txt")
    (work / "build.py").write_text(BUILD)
    result = run_tool(["build.py"], work, {"PADDLEOCR_ROOT": str(tree)})
    lines = [line for line in result.stdout.splitlines() if line.startswith(("True", "(", "Prune"))]
    assert lines[0] == "True (48,) False", result.stderr
    assert lines[1] == "(8,)"  # the dictionary and CTC's blank
    assert lines[2].startswith("PruneError: none.yml: there is no such")
    assert lines[3].startswith("PruneError: -o Gloal.a=1: does not fit stock.yml")
    assert lines[4].startswith("PruneError: stock.yml with -o Prune.ratio: Prune.ratio must be")
    assert lines[5].startswith(
        "PruneError: nodict.yml: cannot read Global.character_dict_path: no_dict.txt"
    )
