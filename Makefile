# Everything runs in .venv, which `install` makes and every other target asks for. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
BENCH_STAMP := $(VENV)/.bench-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help install demo db test test-fast test-faults coverage lint format twins types check \
	bench bench-search bench-lifecycle revision diagram constraints clean

help: ## List these targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

install: $(STAMP) ## Make .venv with the package, its extras and its tools

# An existing .venv is brought up to date; it is made anew only if its interpreter or its pip does not run.
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PIP) --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP) install --quiet -c constraints.txt -e '.[cli,embedded,asyncio,test,dev]'
	@touch $@

$(BENCH_STAMP): $(STAMP)
	@echo "Installing what the benchmarks compare with ..."
	@$(PIP) install --quiet -c constraints.txt -e '.[bench]'
	@touch $@

demo: install ## See it work on a real PostgreSQL, with 500 tracks
	@$(BIN)/audiocatalog demo

db: install ## Serve a migrated database that .postgres keeps
	@$(BIN)/python -m tests.support.kept_server

test: install ## Run the tests, on a real PostgreSQL
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

# Each worker reads all tests before it runs some, which is half of the work: few workers end sooner.
test-fast: install ## Run the tests that need no server, in seconds
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -q -n 2 --dist worksteal \
		-m 'not server and not slow and not faults' $(ARGS)

test-faults: install ## Kill, freeze and fill real servers, for minutes
	@$(BIN)/python -m pytest -m faults $(ARGS)

coverage: install ## Run the tests and show the lines and branches they miss
	@$(BIN)/coverage erase
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/coverage run -m pytest -q -n auto --dist worksteal $(ARGS); \
		passed=$$?; $(BIN)/coverage combine --quiet && $(BIN)/coverage report && exit $$passed

lint: install ## Check style, imports, and that migrations are safe
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/alembic upgrade head --sql > $(VENV)/upgrade.sql 2> $(VENV)/upgrade.log || { cat $(VENV)/upgrade.log; exit 1; }
	@$(BIN)/squawk --config .squawk.toml $(VENV)/upgrade.sql

format: install ## Mend what lint can mend by itself
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

twins: install ## Make the asynchronous twins of synchronous modules
	@$(BIN)/python -m tests.support.twins

types: install ## Check the types
	@$(BIN)/mypy

check: lint types test ## Run lint, types and test: do this before a commit

bench: $(BENCH_STAMP) ## Measure calls beside others, or beside BASELINE=COMMIT
	@$(BIN)/python -m benchmarks.$(if $(BASELINE),comparison --baseline $(BASELINE),performance) $(ARGS)

bench-search: $(BENCH_STAMP) ## Measure searches beside plain SQL, FTS5 and tantivy
	@$(BIN)/python -m benchmarks.search $(ARGS)

bench-lifecycle: $(BENCH_STAMP) ## Measure moves, claims, races and killed workers
	@$(BIN)/python -m benchmarks.lifecycle $(ARGS)

revision: install ## Begin a revision of the schema: NAME="add the mood"
	@test -n "$$NAME" || { echo 'Say what the revision does: make revision NAME="add the mood"'; exit 1; }
	@number=$$($(BIN)/alembic heads | awk '{ printf "%04d", $$1 + 1 }') \
		&& $(BIN)/alembic revision --rev-id "$$number" -m "$$NAME"
	@awk '/^#/ { here = /^### A revision$$/ } here' CONTRIBUTING.md

diagram: install ## Draw the statuses into the documents, from the code
	@$(BIN)/python docs/diagram.py

constraints: install ## Update constraints.txt: the versions that are tested
	@$(PIP) install --quiet uv
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		pyproject.toml >> constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove what was made here, except .postgres
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .coverage .coverage.* *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
