# make demo: the whole job on a simulated proteome, offline.   make test: linting, types, tests.

PYTHON ?= python3
ATLAS ?= atlas
BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: help install demo demo-encoder app test lint types check bench clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

install: $(STAMP) ## Make .venv with everything, at the pinned versions

$(STAMP): pyproject.toml constraints.txt hatch_build.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; name one: make $(or $(MAKECMDGOALS),install) PYTHON=python3.12" >&2; exit 1; }
	@echo "Installing into .venv; this takes a few minutes the first time."
	@$(PYTHON) -m venv .venv
	@$(PIP) torch
	@$(PIP) --editable '.[dev,anndata,timm]'
	@touch $@

demo: $(STAMP) ## Make ./atlas of a simulated proteome and ask it a few questions
	@$(BIN)/subcell-atlas demo --atlas $(ATLAS)

demo-encoder: $(STAMP) ## Train the encoder of the demo anew, into ./demo-encoder; within an hour on two cores
	$(BIN)/subcell-atlas pretrain --config demo --half --out demo-encoder

app: $(STAMP) ## Open the app on ./atlas
	$(BIN)/subcell-atlas app --atlas $(ATLAS)

test: lint types check ## Linting, types and tests

lint: $(STAMP) ## Only the linting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP) ## Only the types
	$(BIN)/mypy

check: $(STAMP) ## Only the tests
	$(BIN)/pytest

bench: $(STAMP) ## Time and memory of the demo, of a first answer, of the encoder and of the map
	$(BIN)/python benchmarks/demo.py
	$(BIN)/python benchmarks/encode.py
	$(BIN)/python benchmarks/map.py

clean: ## Remove the environment; the atlas stays
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache
