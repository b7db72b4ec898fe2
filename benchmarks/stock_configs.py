"""Run ``ppocr-prune groups`` on every config that a PaddleOCR tree ships, and say what it says.

Each config is a process of its own, stopped after ``--limit`` seconds of CPU time (a busy machine
makes others longer), with the tree as working directory (dictionaries are named relative to it).
*ok*: the groups were printed. *refused*: one sentence says what is missing or why this is not for
pruning. Everything else has failed, and the exit code says so. ``--results`` keeps every row at
once; a second run goes on after the last one.

    python benchmarks/stock_configs.py --tree PaddleOCR --results rows.json --out stock.md
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tqdm import tqdm
from versions import paddle_version

from ppocr_prune_plugin.errors import EXIT_CODE
from ppocr_prune_plugin.files import write_atomically
from ppocr_prune_plugin.hooks.adapters.tree import require_tree
from ppocr_prune_plugin.hooks.release import release_of

Row = dict[str, str | float]

_REFUSAL = "ppocr-prune: error: "
_JOBS = 2


def configs_of(tree: Path) -> list[str]:
    """Paths of the tree's YAML files, relative to it."""
    found = [*tree.glob("configs/**/*.yml"), *tree.glob("configs/**/*.yaml")]
    return sorted(path.relative_to(tree).as_posix() for path in found)


def run(tree: Path, config: str, limit: float) -> Row:
    """What the command makes of one config: ``status``, ``said``, and seconds of CPU time."""
    command = [sys.executable, "-m", "ppocr_prune_plugin.cli", "groups", "-c", config]
    command += ["--tree", str(tree), "-o", "Global.use_gpu=false"]
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = subprocess.Popen(
            command, cwd=tree, stdout=out, stderr=err,
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit))),
        )  # fmt: skip
        _, ended, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(ended)
        out.seek(0), err.seek(0)
        status, said = _judged(process.returncode, out.read(), err.read())
    seconds = used.ru_utime + used.ru_stime
    if process.returncode < 0 and seconds >= limit - 1:
        said = f"stopped after {limit:g} s"
    return {"status": status, "said": said, "seconds": round(seconds, 1)}


def _judged(code: int, out: str, err: str) -> tuple[str, str]:
    """What the exit code, stdout and stderr of the command come to."""
    lines = [line.strip() for line in err.splitlines() if line.strip()]
    totals = re.findall(r"^Total: (.*) \(multiply-accumulates\)", out, re.M)
    if code == 0 and totals:
        return "ok", "; ".join(totals)
    if code == EXIT_CODE and lines and lines[-1].startswith(_REFUSAL):
        return "refused", lines[-1].removeprefix(_REFUSAL)
    last = lines[-1] if lines else "nothing on stderr"
    return "failed", f"exit code {code}: {last}"


def page(tree: Path, rows: dict[str, Row]) -> str:
    """The table as Markdown."""
    count = Counter(str(row["status"]) for row in rows.values())
    slowest = max(float(row["seconds"]) for row in rows.values())
    lines = [
        "# `ppocr-prune groups` on the stock configs",
        "",
        f"PaddleOCR {release_of(tree)}, Paddle {paddle_version()}:"
        f" {len(rows)} configs, {count['ok']} ok, {count['refused']} refused,"
        f" {count['failed']} failed; the slowest took {slowest:.0f} s of CPU time.",
        "",
        "| config | status | CPU s | |",
        "|---|---|---:|---|",
    ]
    for name, row in rows.items():
        said = str(row["said"]).replace(f"{tree}/", "").removeprefix(f"{name}: ")
        said = said.replace("|", "\\|").replace("<", "&lt;")
        status = str(row["status"])
        status = f"**{status}**" if status == "failed" else status
        lines.append(f"| {name.removeprefix('configs/')} | {status} | {row['seconds']} | {said} |")
    return "\n".join(lines) + "\n"


def _is_asked(name: str, patterns: list[str]) -> bool:
    path = name.removeprefix("configs/")
    wanted = [pattern for pattern in patterns if not pattern.startswith("!")] or ["*"]
    left_out = [pattern[1:] for pattern in patterns if pattern.startswith("!")]
    return any(fnmatch.fnmatchcase(path, pattern) for pattern in wanted) and not any(
        fnmatch.fnmatchcase(path, pattern) for pattern in left_out
    )


def _earlier(path: Path | None, tree: Path) -> dict[str, Row]:
    """Rows of an earlier run on the same tree."""
    if path is None or not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content["tree"] != str(tree):
        raise SystemExit(f"--results {path}: holds rows of {content['tree']}, not of {tree}.")
    return dict(content["rows"])


def main() -> int:
    """Run what has no row yet, print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tree", type=Path, required=True, help="a PaddleOCR source tree")
    parser.add_argument(
        "--configs", default="*", help="patterns of paths, with commas; a ! before one leaves out"
    )
    parser.add_argument("--results", type=Path, default=None, help="a JSON file that keeps rows")
    parser.add_argument("--again", action="store_true", help="also run what has a row already")
    parser.add_argument("--out", type=Path, default=None, help="a Markdown file for the table")
    parser.add_argument(
        "--limit", type=float, default=60, help="CPU seconds that a config may take"
    )
    parser.add_argument("--jobs", type=int, default=1, choices=range(1, _JOBS + 1))
    args = parser.parse_args()
    tree = require_tree(args.tree)
    names = [name for name in configs_of(tree) if _is_asked(name, args.configs.split(","))]
    if not names:
        raise SystemExit(f"{tree}: no config under configs/ fits {args.configs}.")
    rows = _earlier(args.results, tree)
    missing = [name for name in names if args.again or name not in rows]
    with (
        ThreadPoolExecutor(args.jobs) as pool,
        tqdm(total=len(missing), unit="config", disable=None) as bar,
    ):
        for name, row in zip(
            missing, pool.map(lambda name: run(tree, name, args.limit), missing), strict=True
        ):
            rows[name] = row
            if args.results is not None:
                content = {"tree": str(tree), "rows": rows}
                write_atomically(args.results, json.dumps(content, indent=1))
            bar.update()
            bar.write(f"{row['status']:<8}{row['seconds']:>6} s  {name}: {row['said']}", sys.stderr)
    asked = {name: rows[name] for name in names}
    text = page(tree, asked)
    if args.out is not None:
        write_atomically(args.out, text)
    print(text, end="")
    return int(any(row["status"] == "failed" for row in asked.values()))


if __name__ == "__main__":
    os.environ.setdefault("GLOG_minloglevel", "3")  # Paddle's own lines are not what is asked for
    sys.exit(main())
