# `make help` lists what there is. Needs Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Generated cases share one name each, of which pytest-xdist would run one only.
ALONE := test_api_[ds]*.py

.DEFAULT_GOAL := help
.PHONY: bundle bundle-check image-check deploy destroy lock sbom audit
.PHONY: terraform-check
.PHONY: help demo up test chaos faults check bench docs docs-check chromium wrk clean

help:  ## Say what each command does
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-15s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## Everything from nothing: two trained models go live under load, and one comes back
	@$(BIN)/turnout demo

up: $(READY)  ## Start the local cloud and stay; Ctrl-C stops it, its data stay in .turnout/
	@$(BIN)/turnout up

test: $(READY) chromium  ## Run every test: unit, contract, workflow, end to end, browser
	@$(BIN)/python -m pytest --numprocesses 3 --dist loadfile --no-loadscope-reorder \
	    --ignore-glob '*/$(ALONE)'
	@printf '%s\n' tests/contract/$(ALONE) | xargs -n 1 -P 2 $(BIN)/python -m pytest

chaos: $(READY)  ## Random interleavings of everything that may happen; SEQUENCES=20000 SEED=123
	@$(BIN)/python -m tests.chaos --sequences $(or $(SEQUENCES),20000) $(if $(SEED),--seed $(SEED))

faults: $(READY)  ## Break every step in every way, on real processes; QUICK=1 takes a sample
	@QUICK=$(QUICK) $(BIN)/python -m tests.faults.run

check: $(READY)  ## Lint, format and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/mypy --strict deploy
	@$(BIN)/hadolint serving/Dockerfile
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.cloudbuild deploy/cloudbuild.yaml
	@$(BIN)/check-jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@$(BIN)/zizmor --offline --quiet .github/workflows

terraform-check: $(READY)  ## Check terraform/ without a project: schema, plans, roles, policies
	@$(BIN)/python -m tests.terraform

bench: $(READY) wrk  ## Race the container against its peers, then time a deployment; QUICK=1 is short
	@QUICK=$(QUICK) $(BIN)/python -m benchmarks

docs: $(READY)  ## Write the reference pages from the code, and build the site into build/site
	@$(BIN)/python -m tools.docs
	@$(BIN)/zensical build --strict --clean

docs-check: $(READY) build/kfp/.ready  ## Check every page and its code; ONLINE=1 asks other sites too
	@ONLINE=$(ONLINE) KFP_PYTHON=build/kfp/bin/python $(BIN)/python -m pytest tests/docs

# KFP pins other versions than this project has, so it is in an environment of its own.
build/kfp/.ready: tools/docs/kfp.txt
	@$(PYTHON) -m venv build/kfp
	@build/kfp/bin/python -m pip install --quiet --disable-pip-version-check -r $<
	@touch $@

# YES=1 asks nothing, PLAN=1 only shows, REBUILD=1 takes today's base image, BUILD_REGION=... builds
# elsewhere, REFUSE=CRITICAL takes no image with such a known fault: docs/deploying.md.
WHERE = --project "$(PROJECT)" $(if $(REGION),--region $(REGION)) \
    $(if $(ENVIRONMENT),--environment $(ENVIRONMENT))
NAMED = @test -n "$(PROJECT)" || { echo "Say which project: make $@ PROJECT=my-project"; exit 2; }

deploy: $(READY)  ## Put Turnout onto Google Cloud, or bring it up to date: PROJECT=... REGION=...
	$(NAMED)
	@$(BIN)/python -m deploy up $(WHERE) $(if $(YES),--yes) $(if $(PLAN),--plan) \
	    $(if $(REBUILD),--rebuild) $(if $(REFUSE),--refuse '$(REFUSE)') \
	    $(if $(BUILD_REGION),--build-region $(BUILD_REGION))

destroy: $(READY)  ## Delete it from Google Cloud, with all that it knows: PROJECT=... REGION=...
	$(NAMED)
	@$(BIN)/python -m deploy down $(WHERE) $(if $(CONFIRM),--confirm "$(CONFIRM)")

bundle: $(READY)  ## Write what the functions are built from: build/bundle-HASH.zip
	@$(BIN)/python -m deploy bundle

# Some minutes each: they install from the network what the unit tests take from .venv.
bundle-check: $(READY)  ## Install the bundle's own packages, start every function from it
	@rm -rf build/bundle-check
	@$(PYTHON) -m venv build/bundle-check/venv
	@$(BIN)/python -m zipfile -e "$$($(BIN)/python -m deploy bundle)" build/bundle-check/bundle
	@build/bundle-check/venv/bin/pip install --quiet --disable-pip-version-check --require-hashes \
	    -r build/bundle-check/bundle/requirements.txt
	@build/bundle-check/venv/bin/python -I -S deploy/probe.py build/bundle-check/bundle \
	    "$$(build/bundle-check/venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"

image-check: $(READY)  ## Install and trim the image's packages, test the container with them
	@rm -rf build/image-check
	@$(PYTHON) -m venv build/image-check
	@build/image-check/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	    --only-binary=:all: -r serving/requirements.txt
	@$(PYTHON) deploy/trim.py \
	    "$$(build/image-check/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')"
	@SERVING_PYTHON=$(CURDIR)/build/image-check/bin/python $(BIN)/python -m pytest \
	    tests/e2e/test_serving_container.py tests/e2e/test_serving_prepared.py

lock: $(READY)  ## Write the lists of packages of functions, image and bills anew; needs uv
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m deploy lock

sbom: build/sbom/bin/cyclonedx-py  ## Write the bills of materials of both: build/*.cdx.json
	@for part in functions serving; do \
	    build/sbom/bin/cyclonedx-py requirements $$part/requirements.txt --output-reproducible \
	        --output-file build/$$part.cdx.json && echo build/$$part.cdx.json || exit 1; \
	done

build/sbom/bin/cyclonedx-py: deploy/sbom.txt
	@$(PYTHON) -m venv build/sbom
	@build/sbom/bin/pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
	    -r deploy/sbom.txt
	@touch $@

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

# In an environment of its own: what looks for faults is no part of what is looked at. Strict: a
# package that nobody could look up is no package without faults.
audit:  ## Look every pinned package up among the known vulnerabilities; needs PyPI itself
	@test -x build/audit/bin/pip-audit || { $(PYTHON) -m venv build/audit \
	    && build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1; }
	@for file in requirements.lock functions/requirements.txt serving/requirements.txt; do \
	    echo "$$file"; build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off \
	        --requirement $$file || exit 1; done

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
