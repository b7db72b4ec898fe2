"""PaddleOCR's own tools on damaged files, malformed sections and full disks: one message of ours,
or a run as if nothing had been."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from damage import BYTES, edited
from fixtures_faults import Campaign
from nursery import Child, Nursery
from test_full_disk import needs_mount, on_own_disk
from test_malformed_sections import sections

from ppocr_prune_plugin.plan import load_plan

pytestmark = pytest.mark.long


@pytest.fixture(scope="module")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


class Tool:
    """A tool on the angle classifier."""

    def __init__(self, nursery: Nursery, tree: Path, config: Path, weights: Path) -> None:
        self._nursery, self._tree, self._config, self._weights = nursery, tree, config, weights

    def __call__(
        self, tool: str, folder: Path, *options: str, config: Path | None = None
    ) -> tuple[int, str]:
        """Exit code and output."""
        child: Child = self._nursery.start(
            self._tree / "tools" / f"{tool}.py",
            ["-c", config or self._config, "-o", *self.options(folder), *options],
            folder.parent / "log",
        )
        code = child.wait(600)
        assert code is not None, f"it goes on for ever: {child.output()[-2000:]}"
        return code, child.output()

    def options(self, folder: Path) -> list[str]:
        return [
            "Global.use_gpu=false", f"Global.save_model_dir={folder}",
            f"Global.pretrained_model={self._weights}",
        ]  # fmt: skip

    @property
    def config(self) -> Path:
        return self._config

    @property
    def train(self) -> Path:
        return self._tree / "tools" / "train.py"


@pytest.fixture(scope="module")
def tool(nursery: Nursery, tree: Path, cls_config: Path, cls_weights: Path) -> Tool:
    return Tool(nursery, tree, cls_config, cls_weights)


ANALYSIS = ["Prune.max_loss=0.2", "Prune.sensitivity.ratios=[0.5]", "Prune.round_to=32"]


@pytest.fixture(scope="module")
def trained(tool: Tool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained") / "output"
    code, log = tool("train", folder, *ANALYSIS)
    assert code == 0, log[-3000:]
    return folder


def messages(log: str) -> list[str]:
    return [line for line in log.splitlines() if line.startswith("ppocr-prune: error:")]


def check_refused(code: int, log: str) -> None:
    assert code == 2 and len(messages(log)) == 1, log[-3000:]
    assert "Traceback" not in log, log[-3000:]


def test_sections(tool: Tool, campaign: Campaign, tmp_path: Path) -> None:
    stock = yaml.safe_load(tool.config.read_text(encoding="utf-8"))
    every = sections()
    refused = 0
    for number in campaign.times(0, 12):
        _, text = every[int(campaign.random.integers(len(every)))]
        config = tmp_path / "cls.yml"
        config.write_text(yaml.safe_dump(stock) + f"\nPrune: {text}\n", encoding="utf-8")
        code, log = tool("train", tmp_path / str(number), "Prune.dry_run=true", config=config)
        if messages(log):
            check_refused(code, log)
            refused += 1
        else:
            assert code == 0 or "yaml" in log or "ValueError: Exceeds" in log, (text, log[-3000:])
    assert refused > 6


@pytest.mark.parametrize(
    ("name", "uses"),
    [
        ("prune/sensitivity.json", "train"),
        ("prune/sen.pickle", "train"),
        ("prune/calibration", "train"),
        ("latest.prune.json", "eval"),
        ("latest.pdparams", "eval"),
    ],
)
def test_files(
    tool: Tool, trained: Path, campaign: Campaign, tmp_path: Path, name: str, uses: str
) -> None:
    expected = load_plan(trained / "latest.prune.json")
    for number in campaign.times(0, 6):
        folder = tmp_path / str(number)
        shutil.copytree(trained, folder)
        (path,) = folder.glob(name + "*")
        whole = path.read_bytes()
        ways = [*BYTES, edited] if path.suffix == ".json" else BYTES
        damaged = ways[number % len(ways)](whole, campaign.random)
        path.write_bytes(damaged)
        if uses == "train":
            code, log = tool("train", folder, *ANALYSIS, "Prune.dry_run=true")
        else:
            code, log = tool("eval", folder, f"Global.checkpoints={folder / 'latest'}")
        if messages(log):
            check_refused(code, log)
            assert path.read_bytes() == damaged, "what was refused was changed"
        elif name == "latest.pdparams" and "Traceback" in log:
            # PaddleOCR reads it, too; shapes that could be read say nothing of the rest.
            assert "ppocr_prune_plugin" not in last_frame(log), log[-3000:]
        else:
            assert code == 0, log[-3000:]
            if uses == "train":
                plan = load_plan(folder / "prune" / "plan.prune.json")
                assert plan == expected
                kept = list((folder / "prune").glob("*.original*"))
                assert [p.read_bytes() for p in kept] in ([], [damaged])


def last_frame(log: str) -> str:
    frames = re.findall(r'^  File "(.*?)", line', log, re.MULTILINE)
    return frames[-1] if frames else ""


@needs_mount
def test_full_disks(
    tool: Tool,
    nursery: Nursery,
    campaign: Campaign,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Of a size at which something of the run does not fit any more: whose file that is decides who
    complains."""
    import subprocess
    import sys

    monkeypatch.setenv("DISK", str(tmp_path))
    ours = 0
    for _ in campaign.times(0, 8):
        size = int(campaign.random.uniform(16, 3000))
        done = subprocess.run(
            [*on_own_disk(f"size={size}k"), sys.executable, tool.train, "-c", tool.config,
             "-o", *tool.options(tmp_path / "output"), *ANALYSIS],
            capture_output=True, text=True, timeout=600,
        )  # fmt: skip
        log = done.stdout + done.stderr
        assert done.returncode != 0
        if messages(log):
            assert done.returncode == 2 and len(messages(log)) == 1, log[-3000:]
            assert "No space left on device" in messages(log)[0]
            ours += 1
        else:
            assert "ppocr_prune_plugin" not in last_frame(log), log[-3000:]
    assert ours > 0
