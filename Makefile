# `make help` lists what there is. Needs Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Generated cases share one name each, of which pytest-xdist would run one only.
ALONE := test_api_[ds]*.py

.DEFAULT_GOAL := help
.PHONY: help demo up test chaos faults check bench chromium wrk clean

help:  ## Say what each command does
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Everything from nothing: two trained models go live under load, and one comes back
	@$(BIN)/turnout demo

up: $(READY)  ## Start the local cloud and stay; Ctrl-C stops it, its data stay in .turnout/
	@$(BIN)/turnout up

test: $(READY) chromium  ## Run every test: unit, contract, workflow, end to end, browser
	@$(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder \
	    --ignore-glob '*/$(ALONE)'
	@$(BIN)/python -m pytest tests/contract/$(ALONE)

chaos: $(READY)  ## Random interleavings of everything that may happen; SEQUENCES=20000 SEED=123
	@$(BIN)/python -m tests.chaos --sequences $(or $(SEQUENCES),20000) $(if $(SEED),--seed $(SEED))

faults: $(READY)  ## Break every step in every way, on real processes; QUICK=1 takes a sample
	@QUICK=$(QUICK) $(BIN)/python -m tests.faults.run

check: $(READY)  ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

bench: $(READY) wrk  ## Race the container against its peers, then time a deployment; QUICK=1 is short
	@QUICK=$(QUICK) $(BIN)/python -m benchmarks

# The browser tests drive Debian's Chromium.
chromium:
	@test -x /usr/bin/chromium || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    && apt-get -qq update \
	    && apt-get -qq install --yes --no-install-recommends chromium fonts-dejavu-core >/dev/null; } \
	    || { echo "The browser tests need /usr/bin/chromium: sudo apt-get install chromium"; exit 1; }

# The load generator of the benchmarks.
wrk:
	@command -v wrk >/dev/null || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	    && apt-get -qq update && apt-get -qq install --yes --no-install-recommends wrk >/dev/null; } \
	    || { echo "The benchmarks need wrk: sudo apt-get install wrk"; exit 1; }

clean:  ## Remove the environment and all local data
	rm -rf $(VENV) .turnout build

# pip downloads some 350 MB the first time, most of it TensorFlow.
$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "Turnout needs Python 3.11 or newer; set PYTHON=..."; exit 1; }
	@echo "Installing into $(VENV) (some minutes the first time) ..."
	@test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	@touch $(READY)
