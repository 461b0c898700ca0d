# Two commands on a fresh machine: `make demo` and `make test`. They need python3.11+ and a package index, nothing else.
# On Linux the index's torch is the CUDA build, a long download; for the CPU build set pip's own variable:
#     PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make demo
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help demo demo-tumour test test-oldest lint format files
.DEFAULT_GOAL := help

help:  ## list these targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: .venv/.installed  ## train on synthetic hearts (minutes on a CPU), print the scores, write the report
	$(BIN)/scribbleseg demo

demo-tumour: .venv/.installed  ## the same on synthetic brain tumours, whose parts nobody scribbles
	$(BIN)/scribbleseg demo --organ tumour --out demo_tumour

test: lint  ## run every check, then the tests; with SCRIBBLESEG_DATA set, also those that read real images
	$(BIN)/pytest -q -n auto

test-oldest: .venv-oldest/.installed  ## run README's example with the oldest dependencies that pyproject.toml allows
	.venv-oldest/bin/pytest -q -W ignore tests/test_readme.py

lint: .venv/.installed-dev  ## style, types, import layers
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/.installed-dev  ## put the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

files: .venv/.installed-dev  ## rewrite CONTRIBUTING.md's list of files from the modules' docstrings
	$(BIN)/python tests/test_project.py

# The stamps make set-up run again only when what it depends on has changed.
.venv/.installed: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "installing scribbleseg into .venv (about a minute)"
	@$(BIN)/pip install --quiet --quiet --constraint constraints.txt --editable .
	@touch $@

.venv/.installed-dev: pyproject.toml constraints.txt | .venv/bin/pip
	@echo "installing scribbleseg and its tools into .venv (about a minute)"
	@$(BIN)/pip install --quiet --quiet --constraint constraints.txt --editable '.[dev]'
	@touch .venv/.installed $@

# torch alone is pinned as in constraints.txt: its oldest release exists as a large CUDA build only. The tests run without
# warnings as errors there: old libraries warn of what newer Pythons will not take.
OLDEST := import tomllib; \
    oldest = lambda line: line.replace(">=", "==") if not line.startswith("torch>") else "torch"; \
    project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
    print(*map(oldest, project["dependencies"] + [d for d in project["optional-dependencies"]["dev"] \
        if d.startswith(("beartype", "hypothesis", "pytest"))]), sep="\n")
.venv-oldest/.installed: pyproject.toml | .venv/bin/pip
	@echo "installing the oldest dependencies into .venv-oldest (two minutes)"
	@$(BIN)/python -m venv .venv-oldest
	@$(BIN)/python -c '$(OLDEST)' > .venv-oldest/oldest.txt
	@grep '^torch==' constraints.txt > .venv-oldest/torch.txt
	@.venv-oldest/bin/pip install --quiet --quiet -c .venv-oldest/torch.txt -r .venv-oldest/oldest.txt
	@.venv-oldest/bin/pip install --quiet --quiet --no-deps --editable .
	@touch $@

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "scribbleseg needs Python 3.11 or newer, found " \
	    + sys.version.split()[0] + "; name another: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
