"""PaddleOCR's tools with a config, the way a user starts them."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any


def output(done: subprocess.CompletedProcess[str]) -> str:
    return done.stdout + done.stderr


@dataclass(frozen=True)
class Tools:
    """``tools("eval", "Global.checkpoints=…")`` runs tools/eval.py; ``weights`` is where training
    begins, without the suffix, ``folder`` the working directory, if not this one's."""

    run: Callable[..., subprocess.CompletedProcess[str]]
    tree: Path
    config: Path
    weights: Path
    folder: Path | None = None

    def __call__(
        self,
        tool: str,
        *options: str,
        before: tuple[str, ...] = (),
        env: dict[str, str] | None = None,
        fresh: bool | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """``before`` goes before ``-o``; ``fresh`` starts a Python from nothing."""
        command = [self.tree / "tools" / f"{tool}.py", "-c", self.config, *before]
        command += ["-o", "Global.use_gpu=false", *options]
        return self.run(command, cwd=self.folder, env=env, fresh=fresh)

    def train(self, folder: Path, *options: str, **more: Any) -> str:
        done = self("train", f"Global.save_model_dir={folder}", *options, **more)
        assert done.returncode == 0, output(done)
        return output(done)

    def metric(self, name: str, *options: str) -> float:
        """What tools/eval.py says of a metric."""
        done = self("eval", *options)
        assert done.returncode == 0, output(done)
        found = re.findall(rf"^.*ppocr INFO: {name}:([\d.e-]+)", output(done), re.MULTILINE)
        assert found, output(done)[-2000:]
        return float(found[-1])


def right_after(log: str) -> dict[str, float]:
    """The main indicator before and right after pruning."""
    found = re.search(r"(\w+) ([\d.]+) -> ([\d.]+) right after pruning", log)
    assert found, log[-3000:]
    return {"before": float(found[2]), "after": float(found[3])}


def on_two_ranks(
    run: Callable[..., subprocess.CompletedProcess[str]], source: str, folder: Path
) -> list[str]:
    """Run a program as two processes that reduce gradients by gloo; what each has written."""
    (folder / "program.py").write_text(source)
    done = run(
        ["-m", "paddle.distributed.launch", "--nproc_per_node", "2", "--backend", "gloo",
         "--log_dir", folder / "logs", folder / "program.py"],
        timeout=120,
    )  # fmt: skip
    logs = [path.read_text(errors="replace") for path in (folder / "logs").glob("workerlog.*")]
    assert done.returncode == 0, "\n".join(log[-3000:] for log in logs)
    return logs
