# make demo   prune a real detector from weights to a before/after table
# make test   lint, types, and the tests on the real PaddleOCR tools
# make test-faults  kills, damaged files, full disks, hostile pickles: all of what `make test`
#             takes a sample of (an hour)
# make lint   lint and types alone
# make test-tree TREE=DIR   the tools of another PaddleOCR tree, in an environment for old ones, too
#             (2.6: with TREES=.venv-trees-2.6 TREE_PINS=requirements/trees-2.6.txt)
# make dist-check   build the wheel and the source distribution, and install both in clean
#             environments of every Python that is supported and on this machine
# make docs   the documentation, into site/; a broken link fails (DOCS_ENV: its environment)
# make docs-serve   the same in a browser, rebuilt as pages are written
# make clean  remove the environment and everything that the above made
#
# PYTHON=python3.12 names the Python of a new environment, PADDLE=3.3.1 another Paddle, which has an
# environment of its own.

DEFAULT_PADDLE := $(shell sed -n 's/^paddlepaddle==//p' requirements/paddle.txt)
PADDLE ?= $(DEFAULT_PADDLE)
OTHER := $(if $(filter-out $(DEFAULT_PADDLE),$(PADDLE)),-$(PADDLE))
VENV ?= .venv$(OTHER)
WORK ?= demo_output$(OTHER)
BIN := $(VENV)/bin
PYTHON ?= $(or $(wildcard $(BIN)/python),python3)
PYTEST_ARGS ?=
SIDE_BY_SIDE := -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
TREES ?= .venv-trees$(OTHER)
TREE_ARGS ?=
TREE_PINS ?=
DIST_ARGS ?=
DOCS_ENV ?= .venv-docs

# The environment's parts in the order of how seldom they change.
BASE := $(VENV)/.base-installed
SOURCES := $(VENV)/.sources-fetched
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check

# PaddleOCR's augmentations look for a newer release of theirs in the net whenever they start.
export NO_ALBUMENTATIONS_UPDATE := 1

.PHONY: demo test test-faults test-tree lint docs docs-serve dist-check clean env check

demo: $(READY)
	$(BIN)/python -m demo --work $(WORK)

# Processes side by side would wait for each other's threads.
test: export OPENBLAS_NUM_THREADS := 1
test: export OMP_NUM_THREADS := 1
test: lint $(SOURCES)
	$(BIN)/python -m pytest $(SIDE_BY_SIDE) $(PYTEST_ARGS)

test-tree:
	$(if $(TREE),,$(error name a PaddleOCR tree: make test-tree TREE=DIR))
	$(MAKE) --no-print-directory $(TREES)/.trees-installed VENV=$(TREES)
	$(TREES)/bin/python benchmarks/compatibility.py --tree $(TREE) $(TREE_ARGS)

$(VENV)/.trees-installed: requirements/trees.txt requirements/trees-no-deps.txt $(READY)
	$(PIP) install -r requirements/trees.txt
	$(PIP) install --no-deps -r requirements/trees-no-deps.txt $(addprefix -r ,$(TREE_PINS))
	touch $@

test-faults: $(READY)
	FAULTS=long $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

dist-check:
	$(PYTHON) benchmarks/dist_check.py $(DIST_ARGS)

docs: $(DOCS_ENV)/.installed
	$(DOCS_ENV)/bin/mkdocs build --strict --clean

docs-serve: $(DOCS_ENV)/.installed
	$(DOCS_ENV)/bin/mkdocs serve

$(DOCS_ENV)/.installed: requirements/docs.txt
	test -x $(DOCS_ENV)/bin/python || $(PYTHON) -m venv $(DOCS_ENV)
	$(DOCS_ENV)/bin/python -m pip --disable-pip-version-check install -r requirements/docs.txt
	touch $@

env: $(READY) $(SOURCES)

check:
	@$(PYTHON) requirements/check.py $(VENV)

$(BASE): requirements/paddle.txt requirements/ocr.txt requirements/no-deps.txt | check
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) install paddlepaddle==$(PADDLE) -r requirements/ocr.txt
	$(PIP) install --no-deps --ignore-requires-python -r requirements/no-deps.txt
	touch $@

$(SOURCES): requirements/sources.txt | $(BASE)
	$(PIP) download --no-deps -d $(VENV)/sources -r requirements/sources.txt
	touch $@

$(READY): $(BASE) pyproject.toml setup.py $(wildcard startup/*)
	$(PIP) install -e '.[test]'
	touch $@

clean:
	rm -rf .venv .venv-* demo_output demo_output-* $(VENV) $(WORK) $(DOCS_ENV) site
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
