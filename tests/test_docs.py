"""README and docs/ keep up with the code, and the two languages with each other."""

from __future__ import annotations

import argparse
import ast
import importlib
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from ppocr_prune_plugin.cli import COMMANDS
from ppocr_prune_plugin.section import CRITERIA, parse_section

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
GUIDES = ["README.md", "README_ch.md"]
PAGES = [ROOT / name for name in GUIDES] + sorted(DOCS.glob("*.md"))
# Pages whose Chinese counterpart takes its tables from them when the site is built.
MEASURED = ["benchmark_accuracy.md", "benchmark_deployed.md", "compatibility.md", "coverage.md"]

# By what every command of the pages is run, or where what stands for one that a test cannot run (a
# download into an environment, hours of work). Patterns, a file, and words of it.
RUN_BY = [
    ("test_install.py", "def test_install_and_uninstall", [
        r"pip install (-e )?\.$", r"pip uninstall ppocr-prune-plugin",
    ]),
    ("pyproject.toml", "paddleslim = [", [
        r'pip install "ppocr-prune-plugin\[(onnx|openvino)\]"',
        r"pip install (--no-deps )?(paddleslim|six)",
    ]),
    ("pyproject.toml", '"setuptools"]', [r"pip install setuptools"]),
    ("requirements/ocr.txt", "numpy", [r'pip install "numpy<2']),
    ("test_paddleocr_package.py", "PADDLEOCR_PACKAGE_PYTHON", [
        r"python3 -m venv venv-paddleocr", r"venv-paddleocr/bin/pip",
        r"PADDLEOCR_PACKAGE_PYTHON=.* -m pytest tests/test_paddleocr_package.py",
    ]),
    (".ci/run", "make --no-print-directory test", [r"make (test|lint)( |$)"]),
    ("benchmarks/compatibility.py", "make test-tree", [r"make test-tree TREE="]),
    ("Makefile", "mkdocs build --strict", [r"make docs"]),
    ("test_demo.py", "def test_whole_demo_in_small", [
        r"make demo", r"python -m demo( --data| --help|$)",
    ]),
    ("test_demo.py", "def test_weights_are_fetched_by_name", [r"python -m demo --fetch-weights"]),
    ("test_doctor.py", "def test_a_config_is_pruned_and_exported", [r"ppocr-prune doctor"]),
    ("test_report.py", "def test_the_command_draws_the_same_page", [r"ppocr-prune report"]),
    ("test_sensitivity_file.py", "def test_merge_takes_layers", [r"ppocr-prune sensitivity merge"]),
    ("test_onnx.py", "def test_a_converted_model_agrees_on_two_sizes", [r"ppocr-prune onnx"]),
    ("test_onnx.py", "def test_exports_of_paddle_3_3_and_back", [r"ppocr-prune convert"]),
    ("test_engines.py", "def test_bench_times_models_in_turns", [r"ppocr-prune bench"]),
    ("test_startup.py", "def test_run_hooks_without_start_up_files", [
        r"ppocr-prune run", r"python -m paddle.distributed.launch .*ppocr-prune\) run",
    ]),
    ("test_processes.py", "def test_two_ranks_measure", [
        r"python -m paddle.distributed.launch --nproc_per_node 2 tools/train.py",
    ]),
    ("test_walk.py", "def test_five_minutes", [
        r"ppocr-prune groups -c", r"python tools/train.py .*pruned_flops.* Prune.dry_run=true",
        r"python tools/(eval|export_model).py .*untrained",
    ]),
    ("test_migration.py", "Prune.max_loss=0.02", [
        r"python tools/train.py .*Prune.(max_loss|sensitivity.file)",
    ]),
    ("test_outside_criteria.py", "def test_the_example", [
        r"PYTHONPATH=(\.|folder) python tools/train.py",
    ]),
    ("test_characters.py", "def test_a_recogniser_keeps", [
        r"python tools/train.py .*Prune.characters=latin.txt Prune.dry_run=true",
    ]),
    ("test_loading.py", "dictionary", [r"python tools/train.py -c new_alphabet.yml"]),
    ("test_tools.py", "def test_training_resumes", [r"python tools/train.py .*Global.checkpoints"]),
    ("test_tools.py", "Prune.pruned_flops", [
        r"python tools/train.py .*Prune.pruned_flops=[\d.]+$",
    ]),
    ("test_tools.py", "def test_eval_with_the_plan", [r"python tools/eval.py .*checkpoints"]),
    ("test_tools.py", "def test_export_and_inference", [
        r"python tools/infer_det.py", r"python tools/export_model.py -c det.yml -o",
    ]),
    ("test_tools.py", "def test_export_with_a_plan", [
        r"python tools/export_model.py .*--prune-plan",
    ]),
    ("test_walk.py", "--fold", [r"python tools/export_model.py .*--fold"]),
    ("test_docs.py", "def test_generated_pages", [r"python docs/generator/\w+_page.py"]),
    ("test_benchmarks.py", "accuracy.py", [r"python benchmarks/accuracy.py .*--only page"]),
    ("test_benchmarks.py", "compensation.py", [r"python benchmarks/compensation.py"]),
    # Measurements of minutes to hours, which no test repeats: that the script is there, and knows
    # the options that are shown, is looked at.
    ("test_docs.py", "def test_commands_have_the_options", [r"python benchmarks/\w+.py"]),
    # What no longer runs, in the table of what replaces it.
    ("docs/migration.md", "no longer runs", [r"python deploy/slim/prune/"]),
]  # fmt: skip


def text(page: Path | str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def commands(page: Path | str) -> list[str]:
    """All lines of the blocks of shell, without comments."""
    blocks = re.findall(r"^ *```sh\n(.*?)^ *```", text(page), re.S | re.M)
    lines = [re.split(r"(?:^|\s)#\s", line)[0].strip() for b in blocks for line in b.splitlines()]
    return [re.sub(r"\s+", " ", line) for line in lines if line]


def inline(page: Path | str) -> list[str]:
    """Commands within sentences and tables."""
    spans = re.findall(r"(?<!`)`([^`\n]+)`(?!`)", text(page))
    starts = ("python ", "make ", "ppocr-prune ", "pip ")
    return [re.sub(r"\s+", " ", s) for s in spans if s.startswith(starts) and "…" not in s]


def translated(page: Path) -> Path:
    return DOCS / f"{page.stem}.zh.md"


ALL = sorted({(page.name, line) for page in PAGES for line in (*commands(page), *inline(page))})


def test_commands_are_found() -> None:
    assert len(ALL) > 60
    lines = [line for _, line in ALL]
    for step in ("pip install", "train.py", "eval.py", "export_model.py", "ppocr-prune groups"):
        assert any(step in line for line in lines), step


def test_every_command_is_run_somewhere() -> None:
    left = [
        line
        for _, line in ALL
        if not any(re.match(pattern, line) for *_, patterns in RUN_BY for pattern in patterns)
        and not re.match(r"ppocr-prune (--help|\w+)$|python (-S|-m tools\.\w+|-c)$", line)
    ]
    assert not left
    for file, words, _ in RUN_BY:
        assert words in text(f"tests/{file}" if file.startswith("test_") else file), file


def test_no_entry_is_left_of_a_command_that_no_page_shows() -> None:
    lines = [line for _, line in ALL]
    patterns = [pattern for *_, patterns in RUN_BY for pattern in patterns]
    assert not [p for p in patterns if not any(re.match(p, line) for line in lines)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_have_the_options_that_the_page_shows(page: Path) -> None:
    for line in (*commands(page), *inline(page)):
        words = shlex.split(line)
        while re.fullmatch(r"\w+=\S*", words[0]):
            words.pop(0)  # the environment
        if words[0] == "ppocr-prune" and len(words) > 2 and not words[1].startswith("-"):
            _parse_own(words[1], words[2:], line)
        elif words[0] == "make":
            for word in words[1:]:
                assert "=" in word or re.search(rf"^{word}:", text("Makefile"), re.M), line
        elif words[:2] == ["pip", "install"]:
            for extra in re.findall(r"\[(\w+)\]", line):
                assert re.search(rf"^{extra} = \[", text("pyproject.toml"), re.M), line
        elif words[0] == "python" and words[1].startswith("benchmarks/"):
            source = text(words[1])
            for option in re.findall(r"--[a-z-]+", line):
                assert f'"{option}"' in source, line
        if "tools/" in line:
            options = dict(w.split("=", 1) for w in words if re.match(r"(Prune|Global)\.\w+.*=", w))
            _check_options(options, line)


def _parse_own(name: str, words: list[str], line: str) -> None:
    assert name in COMMANDS, line
    module = importlib.import_module(f"ppocr_prune_plugin.commands.{name}")
    parser = argparse.ArgumentParser(exit_on_error=False)
    module.add_arguments(parser)
    parser.parse_args(words)  # exits where it does not know them


def _check_options(options: dict[str, str], line: str) -> None:
    section: dict[str, object] = {}
    for key, value in options.items():
        names = key.split(".")
        if names[0] == "Global":
            assert names[1] in GLOBAL_KEYS, line
            continue
        inner = section
        for part in names[1:-1]:
            inner = inner.setdefault(part, {})  # type: ignore[assignment]
        inner[names[-1]] = yaml.safe_load(value)
    parse_section(section, line, prunes=False)


GLOBAL_KEYS = set(yaml.safe_load(text("configs/det/ppocrv4_mobile_det_prune.yml"))["Global"]) | {
    "export_with_pir", "model_name",
}  # fmt: skip


@pytest.mark.parametrize("guide", GUIDES)
def test_a_readme_is_short_and_its_example_true(guide: str) -> None:
    assert len(text(guide).splitlines()) <= 150
    (example,) = re.findall(r"```yaml\n(.*?)```", text(guide), re.S)
    assert parse_section(yaml.safe_load(example)["Prune"], guide).pruned_flops == 0.4


def test_sections_on_the_pages_are_valid() -> None:
    found = [
        (page, block)
        for page in PAGES
        for block in re.findall(r"```yaml\n(.*?)```", text(page), re.S)
        if "Prune:" in block
    ]
    assert len(found) >= 4
    for page, block in found:
        parse_section(yaml.safe_load(block)["Prune"], page.name, prunes=False)


def test_both_languages_show_the_same() -> None:
    """Commands, code and images, page by page; and each page is there in both."""
    pairs = [(ROOT / "README.md", ROOT / "README_ch.md")]
    for page in sorted(DOCS.glob("*.md")):
        if ".zh" not in page.name and page.name not in (*MEASURED, "changelog.md"):
            pairs.append((page, translated(page)))
    assert len(pairs) > 10
    for english, chinese in pairs:
        assert commands(english) == commands(chinese), chinese
        for kind in ("python", "toml", "yaml"):
            blocks = [
                re.sub(r" *#.*", "", "".join(re.findall(rf"```{kind}\n(.*?)```", text(p), re.S)))
                for p in (english, chinese)
            ]
            assert blocks[0] == blocks[1], (chinese, kind)
        images = [re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text(p)) for p in (english, chinese)]
        assert images[0] == images[1], chinese
        headings = [re.findall(r"^(#+) ", text(p), re.M) for p in (english, chinese)]
        assert headings[0] == headings[1], chinese


def test_numbers_are_the_same_in_both_languages() -> None:
    """Rows of tables with figures, by their figures."""

    def rows(page: Path | str) -> list[list[str]]:
        lines = re.findall(r"^\|.*\|$", text(page), re.M)
        return [re.findall(r"\d+(?:\.\d+)?", line) for line in lines]

    for english in (*map(ROOT.joinpath, ["README.md"]), *sorted(DOCS.glob("*.md"))):
        chinese = ROOT / "README_ch.md" if english.name == "README.md" else translated(english)
        if ".zh" in english.name or english.name in MEASURED:
            continue
        for mine, theirs in zip(rows(english), rows(chinese), strict=True):
            assert sorted(mine) == sorted(theirs), (chinese, mine, theirs)


@pytest.mark.parametrize("page", MEASURED)
def test_chinese_pages_have_the_measured_tables(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the site: every row, plot and heading, and all headings and heads of tables in Chinese."""
    monkeypatch.syspath_prepend(DOCS / "generator")
    tables = importlib.import_module("measured_tables")
    own = translated(DOCS / page)
    assert commands(own) == commands(DOCS / page)
    english, chinese = text(DOCS / page), tables.with_tables(text(own))
    english = english.partition("<!-- measured: begin -->")[2] or english
    for pattern in (r"^\|.*", r"^!\[.*", r"^## .*"):
        lines, theirs = (re.findall(pattern, shown, re.M) for shown in (english, chinese))
        figures = [[sorted(re.findall(r"\d[\d.]*", line)) for line in ls] for ls in (lines, theirs)]
        assert figures[0] == figures[1]
    heads = re.findall(r"^## .*|^\|.*(?=\n\|[-: |]+$)", chinese, re.M)
    assert heads and all(re.search("[\u4e00-\u9fff]", head) for head in heads), heads


def _slug(heading: str) -> str:
    """As GitHub and the site name a heading."""
    shown = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    return re.sub(r"[^\w\- ]", "", shown).strip().lower().replace(" ", "-")


def _links() -> Iterator[tuple[Path, str]]:
    for page in (*PAGES, *map(ROOT.joinpath, ["CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md"])):
        prose = re.sub(r"```.*?```", "", text(page), flags=re.S)
        prose = re.sub(r"`[^`\n]*`", "", prose)
        for target in re.findall(r"\]\(([^)]+)\)", prose):
            yield page, target


def test_links_lead_somewhere() -> None:
    """As files are read in the repository; `make docs` says the same of the site."""
    links = list(_links())
    assert len(links) > 100
    for page, target in links:
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), (page.name, target)
        if anchor:
            slugs = {_slug(h) for h in re.findall(r"^#+ (.+)$", text(file), re.M)}
            assert anchor in slugs, (page.name, target)


def test_generated_pages_are_up_to_date() -> None:
    for name in ("keys_page.py", "errors_page.py"):
        done = subprocess.run(
            [sys.executable, DOCS / "generator" / name, "--check"], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("page", ["section.md", "section.zh.md"])
def test_every_criterion_is_explained(page: str) -> None:
    (explained,) = re.findall(r"^### `criterion`\n(.*?)^###? ", text(DOCS / page), re.S | re.M)
    assert set(CRITERIA) <= set(re.findall(r"`(\w+)`", explained))


def test_pages_that_messages_name_are_there() -> None:
    named = set()
    for path in (ROOT / "ppocr_prune_plugin").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(r"docs/[\w.]+\.md", node.value))
    assert named and all((ROOT / name).is_file() for name in named)


def test_figures_say_by_what_they_were_measured() -> None:
    """On every page with a table of figures stands the command."""
    for page in PAGES:
        figures = re.findall(
            r"^\|.*\d+\.\d+ (?:ms|min|→).*\|$|^\|.*\b0\.\d{3,}.*\|$", text(page), re.M
        )
        if figures:
            assert re.search(
                r"benchmarks/\w+\.py|make (demo|test-tree)|tools/train\.py", text(page)
            ), page


def test_the_site_has_every_page() -> None:
    """In its navigation."""
    config = text("mkdocs.yml")
    named = re.findall(r": ([\w.]+\.md)$", config[config.index("nav:") :], re.M)
    assert {page.name for page in DOCS.glob("*.md") if ".zh" not in page.name} == set(named)


@pytest.mark.parametrize("page", ["target.md", "target.zh.md"])
def test_headings_of_the_report_are_those_of_the_page(page: str) -> None:
    """In their order."""
    source = text("ppocr_prune_plugin/report/html.py")
    shown = list(dict.fromkeys(re.findall(r"<h2>([A-Z][^<]+)</h2>", source)))
    headings = [name for name in shown if name != "Sensitivity"]  # where nothing was measured
    assert len(headings) >= 5
    told = re.findall(r"^- \*\*([A-Z][^*]+)\*\*", text(DOCS / page), re.M)
    assert [name for name in told if name in headings] == headings
