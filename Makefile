# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := .demo

.PHONY: help demo test check docs format bench clean

help: ## Show this help.
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(VENV)/.base: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing btr-assistant into $(VENV)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable .
	@touch $@

$(VENV)/.dev: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing btr-assistant with its development and export extras into $(VENV) (a few minutes)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev,export]'
	@touch $@ $(VENV)/.base

demo: $(VENV)/.base ## Index the sample notes, ask a question, say how to open the chat.
	BTR_ASSISTANT_HOME=$(DEMO) $(BIN)/btr-assistant index examples/notes
	BTR_ASSISTANT_HOME=$(DEMO) $(BIN)/btr-assistant ask "When was the boiler serviced?"
	@echo
	@echo "Open the chat over the sample notes:  BTR_ASSISTANT_HOME=$(DEMO) $(BIN)/btr-assistant"
	@echo "Index your own notes, then chat:      $(BIN)/btr-assistant index ~/notes && $(BIN)/btr-assistant"

test: $(VENV)/.dev ## Run every test, on four cores at most.
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

check: $(VENV)/.dev ## Format, lint, types, layers, tests: what CI runs.
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache
	$(MAKE) test

docs: $(VENV)/.dev ## Make the manual page, the pictures and the transcript of docs/ anew.
	$(BIN)/btr-assistant help --man > docs/btr-assistant.1
	$(BIN)/python -m tests.pictures

format: $(VENV)/.dev ## Format and fix what can be fixed.
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure speed over a folder of notes: make bench NOTES=~/notes
	$(BIN)/python -m benchmarks.speed $(NOTES)

clean: ## Remove the environment, caches and demo data.
	rm -rf $(VENV) $(DEMO) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
