# `make demo` and `make test` work from a fresh clone; both install what they need into $(VENV), once.
PYTHON ?= python3
VENV ?= .venv
ARGS ?=
NOTEBOOK := notebooks/first_function_vector
NOTEBOOK_OUT ?= $(NOTEBOOK).ipynb

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint types docs notebook clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make $(VENV), with lens_fv and everything its development needs

# The stamp is written last: an interrupted install is taken up again by the next call.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -c constraints.txt -e '.[dev]'
	@touch $@

demo: install ## study four relations on the default model, into demo-report/
	$(BIN)/lens-fv demo --out demo-report

test: install ## run all tests, those on the default models included (ARGS='-m "not real"' leaves them out)
	$(BIN)/python -m pytest $(ARGS)

lint: install ## check style, format and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

types: install ## check types
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: install ## build the documentation into site/
	$(BIN)/mkdocs build --strict

notebook: install ## make the notebook from its .py and execute it
	$(BIN)/jupytext --to ipynb --output $(NOTEBOOK_OUT) $(NOTEBOOK).py
	$(BIN)/jupyter execute --inplace $(NOTEBOOK_OUT)

clean: ## remove everything that make made, the environment too
	rm -rf $(VENV) demo-report site dist .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find lens_fv tests -name __pycache__ -type d -prune -exec rm -rf {} +
