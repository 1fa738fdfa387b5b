# Two commands after cloning: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA_DIR ?= data

.DEFAULT_GOAL := help
.PHONY: help setup run test check bench-provision bench-neighbours format clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install the project with the tested versions

# Everything is installed under the constraints: an open range of torch draws gigabytes of CUDA libraries.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

run: setup ## Start the whole fleet on this computer, draw a first picture, serve until Ctrl-C
	@exec $(BIN)/imagefleet up --first-picture --port $(PORT) --data-dir $(DATA_DIR)

test: setup ## Install what the tests need (PostgreSQL, Chromium), and run all tests
	@deploy/test-needs
	$(BIN)/python -m pytest

check: setup ## ruff, mypy --strict, import contracts, and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory test

bench-provision: setup ## Time to a verified file against curl, wget, aria2c and requests, on a local nginx
	$(BIN)/python -m tests.bench.provision

bench-neighbours: setup ## Eight machines that boot together: copies the origin gives, time to the last one ready
	$(BIN)/python -m tests.bench.neighbours

format: setup ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
