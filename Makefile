# One word each; `make` lists them.
PYTHON ?= python3
UV ?= uv
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
ROW ?=

.DEFAULT_GOAL := help
.PHONY: help install run demo test check format bench faults soak lock clean sandbox

help: ## List the commands
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 18

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Metagov Engine needs Python 3.11 or newer; $(PYTHON) is `$(PYTHON) --version 2>&1`. Set PYTHON to another." >&2; exit 1; }
	@echo "Installing the locked dependencies into $(VENV) ..."
	@$(PYTHON) -m venv $(VENV) || \
		{ echo "$(PYTHON) cannot make virtual environments; on Debian install python3-venv." >&2; exit 1; }
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

install: $(VENV)/.installed ## Make the virtual environment with the locked dependencies

run: $(VENV)/.installed ## Run the whole engine; Ctrl-C stops it
	@exec $(BIN)/metagov run

demo: $(VENV)/.installed ## Show the engine's story in under a minute
	@exec $(BIN)/python -m examples.demo $(ARGS)

test: $(VENV)/.installed ## Run every test, two files at a time (ARGS="tests/unit -k name" for some)
	@$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.installed ## Format, lint, types and import directions
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

format: $(VENV)/.installed ## Format and mend what can be mended
	@$(BIN)/ruff format .
	@$(BIN)/ruff check --fix .

sandbox: $(VENV)/.installed ## Run the platforms' twins, to play a vote by hand
	@exec $(BIN)/python -m sandbox

bench: $(VENV)/.installed ## Measure beside bare Temporal (ROW=2 for one row)
	@$(BIN)/python -m bench $(ROW) $(ARGS)

faults: $(VENV)/.installed ## Kill, cut and fill what can be; nothing may be lost (ARGS=--help)
	@$(BIN)/python -m faults $(ARGS)

soak: $(VENV)/.installed ## Kill at random under load for half an hour (ARGS=--help)
	@$(BIN)/python -m faults soak $(ARGS)

lock: ## Write requirements.lock anew from pyproject.toml (needs uv)
	@command -v $(UV) >/dev/null || { echo "make lock needs uv; set UV to its path." >&2; exit 1; }
	@$(UV) pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
		--no-emit-index-url --extra dev -o requirements.lock pyproject.toml

clean: ## Remove the virtual environment; data in .metagov stays
	@rm -rf $(VENV)
