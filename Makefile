# Two commands after cloning: `make run` and `make test`. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PORT ?= 8000
DATA_DIR ?= data

# What Python makes of a source is kept, whatever the caller's environment says: each of the many processes that are started
# would compile everything anew.
export PYTHONDONTWRITEBYTECODE :=

# Test files are shared among so many processes: more than cores, since many tests mostly wait. Which file goes where:
# tests/support/sharing.py.
TEST_PROCESSES ?= 4
SPREAD := --numprocesses $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 15

.DEFAULT_GOAL := help
.PHONY: help setup run test check types screenshots chaos fuzz bench-dispatch bench-provision bench-neighbours bench-affinity bench-overhead bench-knowing bench-pictures bench-fleet bench-page prove-images format clean

help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(VENV)/.installed ## Make .venv and install the project with the tested versions

# Everything is installed under the constraints: an open range of torch draws gigabytes of CUDA libraries. pip would compile all
# there is, for two minutes; what a machine imports is a sixth of it.
$(VENV)/.installed: setup.cfg pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or newer is needed; say which: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-compile --constraint constraints.txt --editable '.[dev]'
	@TRANSFORMERS_VERBOSITY=error $(BIN)/python -c 'from diffusers import StableDiffusionXLPipeline'
	@touch $@

run: setup ## Start the whole fleet on this computer, draw a first picture, serve until Ctrl-C
	@exec $(BIN)/imagefleet up --first-picture --port $(PORT) --data-dir $(DATA_DIR)

test: setup ## Install what the tests need (PostgreSQL, Chromium), and run all tests
	@deploy/test-needs
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(SPREAD)

check: setup ## ruff, mypy --strict, import contracts, and all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	@$(MAKE) --no-print-directory --jobs 2 types test

types: setup
	$(BIN)/mypy

# CHAOS_SECONDS (180) and CHAOS_SEED (any) are read from the environment: make chaos CHAOS_SECONDS=600 CHAOS_SEED=7
export CHAOS_SECONDS CHAOS_SEED

screenshots: setup ## Photograph every view, light, dark, on a phone and on a wide screen, into tests/web/screenshots
	@deploy/test-needs
	$(BIN)/python -m pytest -m "" tests/web/test_screenshots.py

chaos: setup ## Kill, pause and restart parts of a fleet under load at random; prove that no job was lost or done twice
	@deploy/test-needs
	@exec $(BIN)/python -m tests.chaos

# FUZZ_EXAMPLES says how many cases: of each test, or of each route.
fuzz: setup ## Put bodies, headers and pictures that nobody would write to every door, others each time
	@deploy/test-needs
	FUZZ=long $(BIN)/python -m pytest tests/api/test_fuzz.py tests/services/test_schemathesis.py

bench-dispatch: setup ## What dispatching costs, against Celery alone: rates, latencies, long backlogs, many queues
	@deploy/test-needs
	$(BIN)/python -m tests.bench.dispatch

bench-fleet: setup ## What a thousand machines and a hundred thousand queued jobs cost the server
	@deploy/test-needs
	$(BIN)/python -m tests.bench.fleet

bench-page: setup ## Bytes and time of a first and a second look at the page, with Chromium before a running fleet
	@deploy/test-needs
	$(BIN)/python -m tests.bench.page

bench-provision: setup ## Time to a verified file against curl, wget, aria2c, requests, huggingface_hub, on a local nginx
	$(BIN)/python -m tests.bench.provision

bench-neighbours: setup ## Eight machines that boot together: copies the origin gives, time to the last one ready
	$(BIN)/python -m tests.bench.neighbours

bench-affinity: setup ## Pipeline swaps per 100 jobs on a mixed backlog, turn by turn and with affinity
	$(BIN)/python -m tests.bench.affinity

bench-knowing: setup ## What a stream of events and a promise cost, and how well promises are kept
	$(BIN)/python -m tests.bench.knowing

bench-overhead: setup ## What watching costs a picture, near the live store and 50 ms away from it
	$(BIN)/python -m tests.bench.overhead

# On a GPU: make bench-pictures DEVICE=cuda
DEVICE ?= cpu

bench-pictures: setup ## What a picture costs on its whole way, against a bare diffusers loop and LitServe; DEVICE=cuda
	@deploy/test-needs
	$(BIN)/python -m tests.bench.pictures --device $(DEVICE)

prove-images: setup ## As root: build the images on a fresh Debian, bring compose.yaml up, draw a picture, stop it
	$(BIN)/python -m tests.deploy.prove

format: setup ## Put the code into its form
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## Remove the environment and caches; data stays
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist *.egg-info
