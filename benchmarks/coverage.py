"""Prune every architecture that PaddleOCR's trees can build, and say what became of each.

Rows run one after the other, each in a process of its own, as ``coverage_row.py`` describes. A row
ends pruned, pruned in part (a head that cannot be traced is kept whole), refused with a reason, or
not at all because PaddleOCR itself cannot run the model here; everything else has failed, and the
exit code says so. ``--results`` keeps rows of other trees and earlier runs: they go into the table
as they are, each with the tree and the Paddle that it was run on.

    make env
    .venv/bin/python benchmarks/coverage.py \\
        --results benchmarks/coverage.json --out docs/coverage.md
    .venv/bin/python benchmarks/coverage.py --tree PaddleOCR --label main --rows '*ppocrv6*' \\
        --results benchmarks/coverage.json --out docs/coverage.md
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from coverage_table import CONFIGS, STOCK, names_of
from versions import paddle_version

from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.hooks.adapters.tree import find_tree, require_tree
from ppocr_prune_plugin.hooks.release import release_of

Result = dict[str, Any]

_WORDS = {
    "pruned": "pruned",
    "partly": "in part",
    "refused": "refused",
    "no": "does not run",
    "failed": "**failed**",
}
_KINDS = {
    "det": "Detection",
    "rec": "Recognition",
    "formula": "Formulas",
    "cls": "Classification",
    "e2e": "End to end",
    "table": "Tables",
    "kie": "Key information",
    "sr": "Super-resolution",
}
_SHARES = ("flops", "params", "30%", "60%")
_KEPT = 2  # reasons named per row


def run_row(name: str, tree: Path, limit: float) -> Result:
    """One row on a tree. Where Paddle crashes at the export, the row is done without one, if it
    crashes at the export of the unpruned model as well. Its seconds are those of all attempts."""
    row, code = _attempt(name, tree, limit)
    seconds = row["seconds"]
    if code < 0 and row["stage"].startswith("exporting"):
        alone, unpruned = _attempt(name, tree, limit, "export-unpruned")
        seconds += alone["seconds"]
        if unpruned != 0:
            row, code = _attempt(name, tree, limit, "no-export")
            row["export"] = f"the process ends with code {unpruned}"
            seconds += row["seconds"]
    row["seconds"] = round(seconds, 1)
    return row


def _attempt(name: str, tree: Path, limit: float, *how: str) -> tuple[Result, int]:
    """One process, which may crash or be stopped after ``limit`` seconds, and its exit code."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        path, log = Path(folder) / "row.json", Path(folder) / "log"
        worker = Path(__file__).with_name("coverage_row.py")
        command = [sys.executable, str(worker), name, str(path), *how]
        with log.open("w") as file:
            try:
                code = subprocess.run(
                    command,
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    timeout=limit,
                    env={**os.environ, "PADDLEOCR_ROOT": str(tree)},
                ).returncode
                problem = f"the process ended with code {code}"
            except subprocess.TimeoutExpired:
                code, problem = 1, f"stopped after {limit:g} s"
        result: Result = {"name": name, "status": "failed", "stage": "starting", "kept": []}
        if path.is_file():
            result = json.loads(path.read_text(encoding="utf-8"))
        if code != 0:
            # Where all was done Paddle crashed as the process ended.
            if result["status"] == "failed":
                result.setdefault("problem", problem)
            print(f"--- {name}\n{log.read_text(errors='replace')[-3000:]}", file=sys.stderr)
    result["seconds"] = round(time.perf_counter() - begin, 1)
    return result, code


def shown(row: Result, label: str) -> Result:
    """What the table says of a row that was run on the tree ``label``."""
    notes = list(row["kept"][:_KEPT])
    if row.get("unseen"):
        notes.insert(0, row["unseen"])
    if row.get("export"):
        notes.append(f"its export fails, also that of the unpruned model: {row['export']}")
    if row.get("problem"):
        notes = [f"{row['stage']}: {row['problem']}"]
    numbers = {key: round(row[key], 4) for key in _SHARES if key in row}
    return {
        "status": row["status"],
        "groups": row.get("groups"),
        **numbers,
        "note": _plain("; ".join(notes)),
        "tree": label,
        "paddle": paddle_version(),
    }


def table(rows: dict[str, Result]) -> str:
    """All of ``docs/coverage.md``, from name → what :func:`shown` gives."""
    count = {key: sum(row["status"] == key for row in rows.values()) for key in _WORDS}
    pruned = count["pruned"] + count["partly"]
    lines = [
        "# Which architectures can be pruned",
        "",
        "Written by `benchmarks/coverage.py`: every architecture is built with random weights,"
        " traced, and pruned at 30% and at 60% of the filters of every layer that can be. Each time"
        " it is run in evaluation and in training mode, takes one step of Adam, is saved, loaded"
        " into a new model (same outputs) and exported (same outputs). *On* names the PaddleOCR and"
        " the Paddle of the row; rows of newer models are built from the configs that their"
        " PaddleOCR ships.",
        "",
        f"{len(rows)} architectures: {pruned} pruned ({pruned / len(rows):.0%}; of them"
        f" {count['partly']} in part), {count['refused']} refused with a reason, {count['no']} do"
        f" not run in their PaddleOCR even unpruned, {count['failed']} failed.",
        "",
        "*Prunable* is the share of the FLOPs and parameters that stands in channels that can be"
        " removed; *at 30%* and *at 60%* what went of the FLOPs; *kept whole* why other channels"
        " stay, the largest share first. “In part”: a head that Paddle cannot trace is kept whole.",
    ]
    for kind, title in _KINDS.items():
        names = [name for name in rows if name.partition("_")[0] == kind]
        if names:
            lines += ["", f"## {title}", ""]
            lines += [
                "| architecture | status | groups | prunable FLOPs | parameters | at 30% | at 60% "
                "| on | kept whole |",
                "|---|---|---:|---:|---:|---:|---:|---|---|",
                *(_line(name, rows[name]) for name in names),
            ]
    return "\n".join(lines) + "\n"


def _line(name: str, row: Result) -> str:
    shares = [f"{row[key]:.0%}" if key in row else "–" for key in _SHARES]
    groups = "–" if row["groups"] is None else str(row["groups"])
    on = f"{row['tree']}, {row['paddle']}"
    return " | ".join([f"| {name}", _WORDS[row["status"]], groups, *shares, on, row["note"] + " |"])


def _plain(text: str) -> str:
    """Without line ends, what a table would read as its own, and folders of this machine."""
    text = re.sub(r"(?<!\w)/(?:[\w.+-]+/)+", "", " ".join(text.split()))
    text = re.sub(r"0x[0-9a-f]+", "0x…", text)
    return text.replace("|", "\\|").replace("<", "&lt;")


def main() -> int:
    """Run the rows that are asked for; write or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, default=None, help="default: search for one")
    parser.add_argument("--label", default=None, help="what the table calls the tree")
    parser.add_argument("--rows", default="*", help="pattern of the names; several with commas")
    parser.add_argument("--out", type=Path, default=None, help="where the table goes")
    parser.add_argument(
        "--results", type=Path, default=None,
        help="a JSON file with rows of earlier runs, which go into the table, too",
    )  # fmt: skip
    parser.add_argument("--limit", type=float, default=180, help="seconds that a row may take")
    parser.add_argument("--jobs", type=int, default=1, help="rows at once")
    args = parser.parse_args()
    tree = require_tree(args.tree) if args.tree is not None else find_tree()
    label = args.label or release_of(tree).stated or tree.name
    patterns = args.rows.split(",")
    names = [n for n in names_of(tree) if any(fnmatch.fnmatchcase(n, p) for p in patterns)]
    known: dict[str, Result] = {}
    if args.results is not None and args.results.is_file():
        known = json.loads(args.results.read_text(encoding="utf-8"))
    with ThreadPoolExecutor(args.jobs) as pool:
        found = pool.map(lambda name: run_row(name, tree, args.limit), names)
        for number, row in enumerate(found, 1):
            known[row["name"]] = shown(row, label)
            known = {name: known[name] for name in (*CONFIGS, *STOCK) if name in known}
            if args.results is not None:
                write_atomically(args.results, json.dumps(known, indent=1) + "\n")
            said = row.get("problem") or row.get("export") or row.get("unseen") or ""
            shares = " ".join(f"{key} {row[key]:.0%}" for key in ("flops", "30%") if key in row)
            print(
                f"[{number}/{len(names)}] {row['name']}: {row['status']} {shares} "
                f"{row['seconds']} s {row['stage']}: {said}",
                file=sys.stderr,
                flush=True,
            )
    if args.out is not None:
        write_atomically(args.out, table(known))
    else:
        print(table(known))
    return int(any(known[name]["status"] == "failed" for name in names))


if __name__ == "__main__":
    sys.exit(main())
