# make demo   prune a real detector from weights to a before/after table
# make test   lint, types, and the tests on the real PaddleOCR tools
# make test-faults  kills, damaged files, full disks, hostile pickles: all of what `make test`
#             takes a sample of (an hour)
# make lint   lint and types alone
# make clean  remove the environment and everything that the above made

PYTHON ?= python3
VENV ?= .venv
WORK ?= demo_output
PYTEST_ARGS ?=

BIN := $(VENV)/bin
# The environment's parts in the order of how seldom they change.
BASE := $(VENV)/.base-installed
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip --disable-pip-version-check install

.PHONY: demo test test-faults lint clean env

demo: $(READY)
	$(BIN)/python -m demo --work $(WORK)

test: lint
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-faults: $(READY)
	FAULTS=long $(BIN)/python -m pytest tests/faults $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

env: $(READY)

$(BASE): requirements/paddle.txt requirements/ocr.txt requirements/no-deps.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || { \
	  echo "This environment, with what PaddleOCR 2.10 runs on, needs Python 3.11 or 3.12;" \
	    "name one with: make PYTHON=python3.11" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make virtual environments." \
	    "On Debian: apt-get install python3-venv" >&2; exit 1; }
	@$(PYTHON) -c 'import ctypes; ctypes.CDLL("libgomp.so.1")' 2>/dev/null || { \
	  echo "Paddle needs libgomp.so.1. On Debian: apt-get install libgomp1" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) -r requirements/paddle.txt -r requirements/ocr.txt
	$(PIP) --no-deps -r requirements/no-deps.txt
	touch $@

$(READY): $(BASE) pyproject.toml setup.py $(wildcard startup/*)
	$(PIP) -e '.[test]'
	touch $@

clean:
	rm -rf $(VENV) $(WORK) build dist .pytest_cache .mypy_cache .ruff_cache *.egg-info
