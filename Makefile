# `make demo` and `make test` are all a newcomer needs; both set up the environment first.
PYTHON ?= python3
VENV ?= .venv
LOCK ?= main
BIN = $(VENV)/bin
OUT ?= demo-report
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# The resolver, in an environment of its own: it has to mend locks that no longer install.
UV_VERSION := 0.13.9
UV := .venv-uv-$(UV_VERSION)/bin/uv
export UV_CUSTOM_COMPILE_COMMAND := make lock
# No package is built on the way but this one, which comes as source only.
WHEELS := --only-binary :all: --no-binary transformers-stream-generator
# One thread a process: tiny models gain nothing from more. A file's tests stay together, for what they share is slow to make;
# the slowest files come first (tests/conftest.py).
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=20

.DEFAULT_GOAL := help
.PHONY: help install lock demo test test-fast test-slow test-lowest test-newest lint format types contract docs notebook clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 14

install: $(VENV)/.installed ## make the environment in .venv from locks/ (nothing to do the second time)

# torch comes in builds (CPU, CUDA) that share a version: torch.txt pins what any of them requires, without hashes. It brings
# setuptools, which builds what has no wheel. The stamp says for tests/test_environment.py which lock this was made from.
$(VENV)/.locked: locks/$(LOCK).txt locks/torch.txt
	$(PYTHON) -m venv --clear $(VENV)
	$(BIN)/python -m pip install --quiet --constraint locks/torch.txt torch
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes $(WHEELS) --no-build-isolation --use-pep517 \
		--requirement locks/$(LOCK).txt
	echo $(LOCK) > $@

$(VENV)/.installed: $(VENV)/.locked pyproject.toml
	$(BIN)/python -m pip install --quiet --constraint locks/torch.txt --no-build-isolation --editable .
	$(BIN)/python -m pip check
	touch $@

$(UV):
	$(PYTHON) -m venv --clear .venv-uv-$(UV_VERSION)
	.venv-uv-$(UV_VERSION)/bin/python -m pip install --quiet uv==$(UV_VERSION)

COMPILE = $(UV) pip compile --quiet --universal --python-version 3.10 --no-python-downloads $(ARGS)
HASHED = $(COMPILE) pyproject.toml locks/pins.txt --excludes locks/torch.in --generate-hashes $(WHEELS)
lock: $(UV) ## write locks/ anew, keeping what still holds; ARGS=--upgrade goes to the newest, ARGS='-P ruff' for one package
	$(HASHED) --extra dev --output-file locks/main.txt
	$(COMPILE) locks/torch.in --constraint locks/pins.txt --constraint locks/main.txt --output-file locks/torch.txt
	$(HASHED) --extra test --overrides locks/transformer-lens-3.in --constraint locks/torch.txt \
		--output-file locks/transformer-lens-3.txt

demo: install ## function vectors of four relations, as a report in demo-report/
	$(BIN)/lens-fv demo --out $(OUT)

# Tests marked slow are left out unless -m names them (tests/conftest.py), whatever else ARGS asks for.
test: install ## all tests but the slow ones, the default model's too
	$(PYTEST) $(ARGS)

test-fast: install ## the tests that need no model
	$(PYTEST) -m "not real" $(ARGS)

test-slow: install ## the tests that take minutes: mutated files, kills, interrupts, full disks
	$(PYTEST) -m slow $(ARGS)

# What pyproject.toml promises, and what is to come. Warnings are listed here, where `make test` stops at them.
test-lowest: VENV = .venv-lowest
test-lowest: $(UV) ## the fast tests on the lowest versions that pyproject.toml allows
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(UV) pip compile --quiet --upgrade --resolution lowest-direct --python $(BIN)/python --extra test pyproject.toml \
		--output-file $(VENV)/lowest.txt
	$(UV) pip sync --quiet --python $(BIN)/python $(VENV)/lowest.txt
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	$(PYTEST) -m "not real" -W default $(ARGS)

test-newest: VENV = .venv-newest
test-newest: ## the fast tests on the newest versions that pyproject.toml allows
	test -d $(VENV) || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --upgrade-strategy eager --editable '.[test]'
	$(PYTEST) -m "not real" -W default $(ARGS)

lint: install ## ruff, spelling (codespell), and habits of prose (docs/prose.py)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/python docs/prose.py

format: install ## ruff, writing
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: install ## pyright
	$(BIN)/python -m pyright --pythonpath $(BIN)/python

contract: install ## import-linter: which room may import which
	$(BIN)/lint-imports

docs: install ## the documentation site in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

notebook: install ## run the notebook from its paired script
	$(BIN)/jupytext --to ipynb --set-kernel python3 --output $(VENV)/first_function_vector.ipynb notebooks/first_function_vector.py
	$(BIN)/jupyter execute --inplace $(VENV)/first_function_vector.ipynb

clean: ## remove what the targets made, but the environment
	rm -rf $(OUT) site dist .pytest_cache .ruff_cache .hypothesis
