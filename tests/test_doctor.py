"""``ppocr-prune doctor`` on good and bad set-ups."""

from __future__ import annotations

import re
import subprocess
import sys
import sysconfig
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from architectures import DETECTORS
from fixtures_networks import build
from fixtures_trees import changed_tree
from tool_processes import RunTool

from ppocr_prune_plugin.commands import doctor
from ppocr_prune_plugin.commands.doctor import import_failure, paddle_findings
from ppocr_prune_plugin.criteria import Ranker
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.sub_models import SubModel
from ppocr_prune_plugin.hooks.adapters.tree import use_tree
from ppocr_prune_plugin.hooks.rehearsal import _enliven, _fused, rehearse
from ppocr_prune_plugin.hooks.release import release_of
from ppocr_prune_plugin.network import apply_checked, inspect, make_plan

# The console script: unlike -m it leaves the working directory out of sys.path.
DOCTOR = [Path(sysconfig.get_path("scripts"), "ppocr-prune"), "doctor"]


def test_all_is_well(run_tool: RunTool, tree: Path) -> None:
    result = run_tool([*DOCTOR, "--tree", tree])
    assert result.returncode == 0, result.stdout
    assert "FAIL" not in result.stdout
    for point in ("tools.program.train", "ppocr.utils.save_load.load_model", "build_model"):
        assert f"{point}\n" in result.stdout
    assert f" at {tree}" in result.stdout


def test_what_a_tree_lacks_is_named(run_tool: RunTool, tree: Path, tmp_path: Path) -> None:
    copy = changed_tree(
        tree,
        tmp_path / "tree",
        "ppocr/utils/save_load.py",
        {
            "def load_model(config, model,": "def load_model(config, net,",
            "def save_model": "def put",
        },
    )
    result = run_tool([*DOCTOR, "--tree", copy])
    assert result.returncode == 1
    failed = [line for line in result.stdout.splitlines() if "FAIL" in line]
    where = "ppocr/utils/save_load.py lacks "
    assert [line.partition(where)[2] for line in failed] == [
        "the parameter model of ppocr.utils.save_load.load_model",
        "ppocr.utils.save_load.save_model",
    ]


def test_which_paddleocr_a_tree_is(tree: Path, today_tree: Path, tmp_path: Path) -> None:
    """What it states where its code agrees; else what the code shows, and what is stated."""
    assert str(release_of(tree)) == metadata.version("unstructured_paddleocr")
    today = release_of(today_tree)
    assert (today.stated, today.least, today.before) == (None, "3.7", None)
    assert today.asks.startswith(">=3.7")

    file = "ppocr/utils/save_load.py"
    copy = changed_tree(tree, tmp_path / "copy", file, {})
    assert str(release_of(copy)) == "2.9 or later, before 3.7 by its code (it states no version)"
    (copy / "paddleocr.py").write_text("VERSION = '2.6.1.0'\n")  # as branches keep it
    assert str(release_of(copy)).endswith(" by its code (paddleocr.py says 2.6.1.0)")
    (copy / "PKG-INFO").write_text("Name: paddleocr\nVersion: 2.10.0\n")
    assert str(release_of(copy)) == "2.10.0"
    (copy / "ppocr/utils/export_model.py").unlink()
    (copy / "paddleocr.py").unlink()
    (copy / "PKG-INFO").unlink()
    assert release_of(copy).by_code == "2.8 or later, before 2.9"


def test_a_clone_says_its_commit(tree: Path, tmp_path: Path) -> None:
    copy = changed_tree(tree, tmp_path / "copy", "ppocr/utils/save_load.py", {})
    git = ["git", "-C", copy, "-c", "user.name=x", "-c", "user.email=x@x"]
    for words in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"], ["tag", "v9.8"]):
        subprocess.run([*git, *words], check=True)
    assert "(commit v9.8; it states no version)" in str(release_of(copy))


def test_no_tree_and_switched_off(run_tool: RunTool, tmp_path: Path) -> None:
    result = run_tool(DOCTOR, tmp_path, {"PADDLEOCR_ROOT": str(tmp_path), "PPOCR_PRUNE": "0"})
    assert result.returncode == 1
    assert "PPOCR_PRUNE=0 in this shell" in result.stdout
    assert f"PADDLEOCR_ROOT is {tmp_path}, which is not a PaddleOCR source tree" in result.stdout
    assert "is hooked" in result.stdout  # installed all the same: two separate findings


@pytest.mark.parametrize(("numpy", "fails"), [("2.3.5", False), ("2.4.0", True), ("2.5.5", True)])
def test_a_numpy_that_crops_no_image(
    numpy: str, fails: bool, tree: Path, today_tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In every tree that takes arrays of one number for numbers."""
    installed = doctor._first_installed
    monkeypatch.setattr(
        doctor,
        "_first_installed",
        lambda *names: ("numpy", numpy) if names == ("numpy",) else installed(*names),
    )
    for root, remedy in ((tree, "albumentations==1.4.10"), (today_tree, '"numpy<2.4"')):
        findings = list(doctor._version_findings(release_of(root), root))
        (found,) = [f for f in findings if f.text.startswith(f"NumPy {numpy}")]
        assert found.level == ("FAIL" if fails else "ok")
        assert not fails or remedy in found.remedy
    assert not doctor._crops_by_arrays(tree.parent)


def test_a_tree_is_found_from_inside_it(run_tool: RunTool, tree: Path) -> None:
    result = run_tool(DOCTOR, tree / "ppocr" / "utils")
    assert result.returncode == 0, result.stdout
    assert f" at {tree}" in result.stdout


@pytest.mark.parametrize(
    ("paddle", "old_ir", "wanted"),
    [
        ("3.0.0", True, []),
        ("3.2.2", False, []),
        ("3.2.2", True, ["Global.export_with_pir=true"]),
        ("3.3.0", False, ["use Paddle 3.2.2, the newest", "`ppocr-prune onnx`"]),
        ("3.3.1", True, ["use Paddle 3.2.2", "--paddle 3.2.2`", "Global.export_with_pir=true"]),
        ("3.3.2", False, ["`ppocr-prune onnx`"]),  # whether its oneDNN is whole is not known yet
        ("", True, []),
    ],
)
def test_what_a_paddle_cannot_do(paddle: str, old_ir: bool, wanted: list[str]) -> None:
    found = list(paddle_findings(paddle, old_ir))
    assert len(found) == len(wanted) and all(finding.level == "note" for finding in found)
    assert all(words in finding.remedy for words, finding in zip(wanted, found, strict=True))


@pytest.mark.parametrize(
    ("code", "said", "remedy"),
    [
        ("import setuptools_of_nobody", "No module named", "pip install setuptools_of_nobody"),
        ("raise ImportError('libgomp.so.1: cannot open shared object file: No such')", "libgomp",
         "apt-get install libgomp1"),
        ("raise ImportError('libxcb.so.1: cannot open shared object file: No such')", "libxcb",
         "apt-get install libgl1 libglib2.0-0"),
        ("1 / 0", "ZeroDivisionError: division by zero", ""),
        ("", "", ""),
    ],
)  # fmt: skip
def test_what_is_installed_and_cannot_be_imported(
    code: str, said: str, remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its metadata say that it is there."""
    (tmp_path / "broken_package.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "broken_package", raising=False)
    found = import_failure("broken_package", "Broken 1.0")
    if not code:
        assert found is None
        return
    assert found is not None and found.level == "FAIL"
    assert found.text.startswith("Broken 1.0 cannot be imported: ") and said in found.text
    assert remedy in found.remedy


def test_what_the_installed_paddle_cannot_do(run_tool: RunTool, tree: Path) -> None:
    """This tree exports through the old IR."""
    result = run_tool([*DOCTOR, "--tree", tree])
    expected = list(paddle_findings(metadata.version("paddlepaddle"), old_ir=True))
    for finding in expected:
        assert f"note  {finding.text}\n        -> {finding.remedy}\n" in result.stdout
    assert ("cannot run detectors with oneDNN" in result.stdout) == (len(expected) == 3)


def test_a_config_is_pruned_and_exported(
    run_tool: RunTool, today_tree: Path, cls_config: Path, tmp_path: Path
) -> None:
    """The classifier from end to end, by PaddleOCR's own export_model.py."""
    before = sorted(tmp_path.iterdir())
    result = run_tool([*DOCTOR, "--tree", today_tree, "-c", cls_config], tmp_path)
    assert result.returncode == 0, result.stdout
    said = [line.split(maxsplit=1) for line in result.stdout.splitlines() if line[:2] == "  "]
    oks = [text for level, text in said if level == "ok"]
    (groups,) = re.findall(r"traced: (\d+) channel groups", "\n".join(oks))
    assert any(text.startswith(f"one channel of each of {groups} groups removed") for text in oks)
    (worked,) = (text for text in oks if text.startswith("export works: "))
    assert float(re.findall(r"at most ([\d.e+-]+) ", worked)[0]) < 1e-3
    assert "3.7 or later by its code (it states no version; asks for PaddleX" in result.stdout
    assert any(level == "note" and "not to be known" in text for level, text in said)
    assert sorted(tmp_path.iterdir()) == before


def test_an_export_that_fails_is_told_apart(
    run_tool: RunTool, tree: Path, cls_config: Path, tmp_path: Path
) -> None:
    broken = {"paddle.jit.save(model, save_path)": "raise RuntimeError('no export today')"}
    copy = changed_tree(tree, tmp_path / "tree", "ppocr/utils/export_model.py", broken)
    result = run_tool([*DOCTOR, "--tree", copy, "-c", cls_config])
    assert result.returncode == 1
    (failed,) = [line for line in result.stdout.splitlines() if "FAIL" in line]
    assert "export fails: RuntimeError: no export today; PaddleOCR does not export the" in failed


def test_a_config_that_cannot_be_built(tree: Path, cls_config: Path) -> None:
    (failed,) = rehearse(cls_config, ["Architecture.Backbone.name=NoNet"], tree)
    assert failed.level == "FAIL" and "the model cannot be built" in failed.text
    assert "backbone only support" in failed.remedy
    *_, failed = rehearse(cls_config, ['Prune.skip=["*"]', "Prune.ratio=0.3"], tree)
    assert failed.level == "FAIL" and "Prune.skip leaves no layer" in failed.remedy


def test_a_rep_that_is_wrong_or_fails(tree: Path) -> None:
    use_tree(tree)
    model = build("lcnetv3_rsefpn")
    sub_model = SubModel("", model, {"Architecture": DETECTORS["lcnetv3_rsefpn"]})
    network = inspect(model, [([1, 3, 160, 160], "float32")])
    _enliven(network)
    (whole,) = _fused(sub_model, network)
    assert whole.level == "ok" and "rep() changes its answers by" in whole.text
    plan = make_plan(network, {g.name: g.size - 1 for g in network.graph.groups}, Ranker("l1"))
    first = next(layer for layer in model.sublayers() if hasattr(layer, "rep"))
    kind = type(first)
    original = kind.rep

    def forgets(layer: Any) -> None:
        original(layer)
        layer.reparam_conv.bias.set_value(layer.reparam_conv.bias + 1)

    for replaced, words in ((forgets, "rep.. changes an output by"), (lambda: None, "rep.. of ")):
        kind.rep = replaced
        try:
            with pytest.raises(PruneError, match=words):
                apply_checked(network, plan)
        finally:
            kind.rep = original
    assert not any(getattr(layer, "is_repped", False) for layer in model.sublayers())
