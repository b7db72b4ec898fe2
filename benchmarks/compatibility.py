"""Drive the tools' tests on a PaddleOCR tree, and write what became of each as a row of a page.

tests/test_tools_tree.py takes several models through the tree's own tools, pruned, a test for each
stage; where one fails it is run unpruned as well. The exit code is 1 where only pruning fails.
Results of other trees, and of other environments (--python), are kept beside each other.

    make test-tree TREE=DIR
    .venv-trees/bin/python benchmarks/compatibility.py --tree DIR --out docs/compatibility.md
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ppocr_prune_plugin.errors import exiting_on_error
from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.hooks.adapters.tree import require_tree
from ppocr_prune_plugin.hooks.release import release_of

Row = dict[str, Any]

ROOT = Path(__file__).resolve().parent.parent
STAGES = ("train", "eval", "infer", "export", "resume")
_UNPRUNED_TOO = "unpruned as well: "  # as tests/test_tools_tree.py begins such a message
_PACKAGES = ("paddlepaddle", "numpy", "opencv-python-headless", "albumentations")
_VERSIONS = f"""
import json, platform
from importlib.metadata import version
print(json.dumps({{"python": platform.python_version(), **{{n: version(n) for n in {_PACKAGES}}}}}))
"""
_MODELS = {
    "det": "PP-OCRv4's mobile detector with its weights (before 2.7, which has no PPLCNetV3: a"
    " MobileNetV3 detector with random weights)",
    "rec": "its recogniser, CTC alone, with its weights (before 2.7: a CRNN with random weights)",
    "cls": "the angle classifier with its weights",
    "ema": "the same with `Global.use_ema`, where the tree has it",
    "distillation": "the detector beside a frozen teacher",
    "PP-OCRv…": "the tree's newest stock configs of a mobile or small detector and recogniser, as"
    " they stand but for data and sizes of images; random weights",
}

_OF_2_6 = (
    "2.6 is the release as of September 2022, with an older NumPy (`requirements/trees-2.6.txt`)."
    " Its later commits compile an operation for GPUs when they are imported, which needs a CUDA"
    " toolkit, pruned or not."
)


def run(tree: Path, name: str, python: str) -> Row:
    """One row: every model's stages on one tree, in one environment."""
    begin = time.perf_counter()
    versions = subprocess.run([python, "-c", _VERSIONS], capture_output=True, text=True, check=True)
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder, "report.xml")
        command = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
        command += [f"--junitxml={report}", "--tb=short", str(ROOT / "tests/test_tools_tree.py")]
        environment = {**os.environ, "PADDLEOCR_ROOT": str(tree)}
        done = subprocess.run(command, cwd=ROOT, env=environment)
        if not report.is_file():
            raise SystemExit(f"pytest wrote no report and ended with code {done.returncode}")
        outcomes = read_report(report.read_text(encoding="utf-8"))
    return {
        "tree": name,
        "versions": json.loads(versions.stdout),
        "outcomes": outcomes,
        "seconds": round(time.perf_counter() - begin),
    }


def read_report(xml: str) -> dict[str, dict[str, list[str]]]:
    """JUnit's report as {model: {stage: [outcome, message]}}.

    An outcome is "ok", "unpruned" (fails without this package, too), "failed" or "skipped". A model
    from a stock config bears its name.
    """
    outcomes: dict[str, dict[str, list[str]]] = {}
    for case in ElementTree.fromstring(xml).iter("testcase"):
        found = re.fullmatch(r"test_stage\[(.+)-(\w+)\]", case.get("name", ""))
        if found is None:
            continue
        model, stage = found.groups()
        outcome, message = "ok", ""
        for said in case.iter("property"):
            if model.startswith("newest-") and said.get("name") == "config":
                model = said.get("value", model)
        for problem in case:
            if problem.tag in ("failure", "error"):
                message = problem.get("message", "").strip()
                message = message.removeprefix("Failed: ").removeprefix("AssertionError: ")
                outcome = "unpruned" if message.startswith(_UNPRUNED_TOO) else "failed"
                message = message.removeprefix(_UNPRUNED_TOO).partition("\n")[0]
            elif problem.tag == "skipped":
                outcome, message = "skipped", problem.get("message", "")
        outcomes.setdefault(model, {})[stage] = [outcome, message]
    return outcomes


def page(rows: list[Row]) -> str:
    """All of ``docs/compatibility.md``."""
    trees = list(dict.fromkeys(row["tree"] for row in rows))
    rows = sorted(rows, key=lambda row: (trees.index(row["tree"]), _paddle(row)))
    lines = [
        "# PaddleOCR trees and Paddle releases",
        "",
        "Written by `benchmarks/compatibility.py` from what was run (`make test-tree TREE=DIR`"
        " makes a row): PaddleOCR's own tools, on a CPU, take each model through pruning and"
        " training, evaluation, inference, export and resuming. Evaluation must give the metric"
        " that training gave, nothing may be left out of a checkpoint, and the exported model must"
        " agree with the trained one. The models:",
        "",
        *(f"- **{name}**: {text}" for name, text in _MODELS.items()),
        "",
        "*ok*: all of the row's models. *Unpruned too*: PaddleOCR's tool fails in the same way"
        " with this package switched off. The notes below say what fails.",
        "",
        f"| PaddleOCR | Paddle | {' | '.join(STAGES)} | models | beside |",
        "|---|---|" + "---|" * (len(STAGES) + 2),
        *map(_line, rows),
    ]
    if "2.6" in trees:
        lines += ["", _OF_2_6]
    notes = [note for row in rows for note in _notes(row)]
    if notes:
        lines += ["", "## What fails", "", *notes]
    return "\n".join(lines) + "\n"


def _line(row: Row) -> str:
    ran = {
        model: stages
        for model, stages in row["outcomes"].items()
        if any(outcome != "skipped" for outcome, _ in stages.values())
    }
    cells = []
    for stage in STAGES:
        found = {model: stages[stage][0] for model, stages in ran.items()}
        bad = [model for model, outcome in found.items() if outcome == "failed"]
        stock = [model for model, outcome in found.items() if outcome == "unpruned"]
        parts = []
        if bad:
            parts.append(f"**fails**: {', '.join(bad)}")
        if stock:
            parts.append(f"unpruned too: {', '.join(stock)}")
        cells.append("; ".join(parts) or "ok")
    versions = row["versions"]
    beside = f"Python {versions['python']}, NumPy {versions['numpy']}"
    return " | ".join(
        [f"| {row['tree']}", versions["paddlepaddle"], *cells, ", ".join(ran), beside + " |"]
    )


def _notes(row: Row) -> list[str]:
    """What failed, once for each message: a stage that only lacks an earlier one is not named."""
    stages_of: dict[tuple[str, str], list[str]] = {}
    for model, stages in row["outcomes"].items():
        for stage, (outcome, message) in stages.items():
            if outcome in ("failed", "unpruned") and message != "train failed":
                words = "unpruned as well" if outcome == "unpruned" else "**only pruned**"
                stages_of.setdefault((words, message), []).append(f"{model} {stage}")
    where = f"{row['tree']}, Paddle {row['versions']['paddlepaddle']}"
    return [
        f"- {where}, {words}: {', '.join(stages)}: {_plain(message)}"
        for (words, message), stages in stages_of.items()
    ]


def _plain(text: str) -> str:
    """Without line ends, what Markdown would read as its own, and folders of this machine."""
    text = re.sub(r"(?<!\w)/(?:[\w.+-]+/)+", "", " ".join(text.split()))
    return "`" + text.replace("`", "'") + "`"


def _paddle(row: Row) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", row["versions"]["paddlepaddle"]))


def main() -> int:
    """Run a tree's row, and print it or write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, help="the PaddleOCR tree; without it, nothing is run")
    parser.add_argument(
        "--name", help="what the page calls it; default: the version that it states"
    )
    parser.add_argument("--python", default=sys.executable, help="of another environment")
    parser.add_argument(
        "--results", type=Path, default=ROOT / "build" / "compatibility.json",
        help="rows of earlier runs, which go into the page, too (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="write the page here")
    args = parser.parse_args()
    rows: list[Row] = []
    if args.results.is_file():
        rows = json.loads(args.results.read_text(encoding="utf-8"))
    failed = False
    if args.tree is not None:
        tree = require_tree(args.tree)
        row = run(tree, args.name or release_of(tree).stated or tree.name, args.python)
        failed = any(
            outcome == "failed"
            for stages in row["outcomes"].values()
            for outcome, _ in stages.values()
        )
        same = [r for r in rows if (r["tree"], _paddle(r)) == (row["tree"], _paddle(row))]
        if same:
            rows[rows.index(same[0])] = row
        else:
            rows.append(row)
        args.results.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(args.results, json.dumps(rows, indent=1))
        print(_line(row), *_notes(row), sep="\n")
    if args.out is not None:
        write_atomically(args.out, page(rows))
    return int(failed)


if __name__ == "__main__":
    with exiting_on_error():
        sys.exit(main())
