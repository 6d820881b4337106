# Everything runs in .venv, which is made from PYTHON on the first call; a second call starts at once.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip -qq --disable-pip-version-check --no-input

.PHONY: help demo test lint format docs bench torture clean

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

demo: $(VENV)/.demo  ## forecast an ensemble, kill it half way, resume it, check it (./demo-out)
	@$(BIN)/python -m taskmanager demo --out demo-out

test: lint $(VENV)/azurite  ## style, types, import contracts, all tests and doctests
	@$(BIN)/python -m pytest -q

lint: $(VENV)/.test  ## style, types and import contracts only
	@$(BIN)/ruff check --quiet .
	@$(BIN)/ruff format --quiet --check . || { echo "run: make format"; exit 1; }
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/lint-imports --no-logo --no-cache > $(VENV)/imports.txt 2>&1 || { cat $(VENV)/imports.txt; exit 1; }

format: $(VENV)/.test  ## let ruff set the style
	@$(BIN)/ruff check --quiet --fix-only . && $(BIN)/ruff format --quiet .

docs: $(VENV)/.docs  ## the documentation as HTML (docs/_build/html), warnings are errors
	@$(BIN)/sphinx-build -q -E -W --keep-going -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

# make bench ROWS=appends,commit QUICK=1 ROUNDS=3 ONLY=ours,h5py
bench: $(VENV)/.bench  ## ours beside the peers, on the same work (docs/benchmarks)
	@$(BIN)/python -m benchmarks.run $(if $(ROWS),--rows $(ROWS)) $(if $(QUICK),--size quick) \
	  $(if $(ROUNDS),--rounds $(ROUNDS)) $(if $(ONLY),--only "$(ONLY)")

torture: $(if $(wildcard tests/torture*.py),$(VENV)/.test)  ## every crash point and fault (minutes)
	@for script in tests/torture*.py; do \
	   if [ -f "$$script" ]; then echo "== $$script"; $(BIN)/python "$$script" || exit 1; \
	   else echo "make torture comes later: tests/torture*.py is not there yet"; fi; done

clean:  ## remove everything that was made here
	rm -rf $(VENV) demo-out docs/_build dist build .pytest_cache .mypy_cache .ruff_cache \
	       .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# Azure's emulator comes from npm's registry; where that can't be reached, its tests are skipped.
$(VENV)/azurite: | $(VENV)/.test
	@$(BIN)/python -m tests.azurite install || echo "no Azurite: the tests of Azure are skipped"

# One stamp a set of extras: pip runs again only when pyproject.toml changed.
$(VENV)/.%: pyproject.toml | $(BIN)/pip
	@echo "installing into $(VENV) (extra: $*)"
	@$(PIP) install --editable ".[$*]"
	@touch $@

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v < (3, 14) else \
	  f"expected Python 3.11 to 3.13, got {v[0]}.{v[1]}: make PYTHON=/path/to/python3.11 ...")'
	@$(PYTHON) -m venv $(VENV)
