# One command each; CI and people call the same ones. `make` alone lists them.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
PIP := $(BIN)/pip install --disable-pip-version-check --constraint constraints.txt $(PIP_ARGS)
.DEFAULT_GOAL := help
.PHONY: help install serve test test-all check check-all policies format bench train eval image lock licences release deploy-test clean

help:  ## List the commands.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

# pip resolves torch from the constraints first, so that no later dependency can choose another build.
$(VENV)/.serve: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "hbridge needs Python 3.11 or newer")'
	@echo "Setting up $(VENV): a few minutes the first time, nothing the next."
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable .
	@touch $@

$(VENV)/.dev: $(VENV)/.serve
	$(PIP) --editable '.[dev]'
	@touch $@

install: $(VENV)/.dev  ## Create the environment with everything for development.

serve: $(VENV)/.serve  ## Serve hbridge-tiny on 127.0.0.1:8000 (HBRIDGE_HOST, HBRIDGE_PORT change it).
	$(BIN)/hbridge serve

test: $(VENV)/.dev  ## Run the fast tests.
	$(BIN)/python -m pytest -m "not slow and not gpu"

test-all: $(VENV)/.dev  ## Run all tests.
	$(BIN)/python -m pytest -m "not gpu"

check: $(VENV)/.dev  ## Lint, formatting, types and the walls between packages.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	PATH=$(abspath $(BIN)):$$PATH docker/check.sh

check-all: check policies  ## Also licences, policies of k8s/, and known vulnerabilities of what images install.
	PATH=$(abspath $(BIN)):$$PATH docker/licences.sh | diff docs/licences.md -
	PATH=$(abspath $(BIN)):$$PATH .ci/audit

# Its own environment, as it pins what others need newer.
$(VENV)/policies/bin/checkov:
	$(PYTHON) -m venv $(VENV)/policies
	$(VENV)/policies/bin/pip install --quiet --disable-pip-version-check checkov==3.3.30

policies: $(VENV)/.dev $(VENV)/policies/bin/checkov  ## Check the manifests of k8s/ against checkov's policies.
	$(BIN)/python -m tests.k8s.rendered $(VENV)/rendered
	$(VENV)/policies/bin/checkov --config-file k8s/checkov.yaml --directory $(VENV)/rendered

format: $(VENV)/.dev  ## Format and sort imports.
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: $(VENV)/.dev  ## Measure on this machine; writes benchmarks/results/.
	$(BIN)/python -m benchmarks.cpu

train: $(VENV)/.dev  ## Train hbridge-tiny from nothing, or go on where it stopped.
	$(BIN)/hbridge train --recipe tiny

eval: $(VENV)/.dev  ## Score hbridge-tiny on held-out combinations; writes benchmarks/results/.
	$(BIN)/hbridge eval

image:  ## Build the image hbridge:cpu (TARGET=cuda: hbridge:cuda); say its size and how soon it serves.
	docker/image.sh $(or $(TARGET),cpu)

deploy-test: $(VENV)/.dev  ## Deploy for real, on this machine, and use it; starts Docker if need be (Debian, root).
	PATH=$(abspath $(BIN)):$$PATH docker/deploy-test.sh

lock: $(VENV)/.dev  ## Write docker/requirements*.txt, with hashes, at the versions of constraints.txt.
	PATH=$(abspath $(BIN)):$$PATH docker/lock.sh

licences: $(VENV)/.dev  ## Write docs/licences.md.
	PATH=$(abspath $(BIN)):$$PATH docker/licences.sh > docs/licences.md

release: $(VENV)/.dev  ## Build wheel and source into dist/, check them, serve from the wheel alone.
	PATH=$(abspath $(BIN)):$$PATH PIP_ARGS="$(PIP_ARGS)" .ci/release

clean:  ## Remove the environment and caches; runs/ stays.
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
