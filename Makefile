# `make demo` and `make test` are all a newcomer needs; both set up the environment first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
OUT ?= demo-report
export PIP_DISABLE_PIP_VERSION_CHECK := 1
# One thread a process: tiny models gain nothing from more. A file's tests stay together, for what they share is slow to make;
# the slowest files come first (tests/conftest.py).
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder --durations=20

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint format types contract docs notebook clean

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):[^#]*## /  \1\t/' | expand -t 14

install: $(VENV)/.installed ## make the environment in .venv (nothing to do the second time)

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

demo: install ## function vectors of four relations, as a report in demo-report/
	$(BIN)/lens-fv demo --out $(OUT)

test: install ## all tests, the default model's too
	$(PYTEST) $(ARGS)

test-fast: install ## the tests that need no model
	$(PYTEST) -m "not real" $(ARGS)

lint: install ## ruff
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

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
