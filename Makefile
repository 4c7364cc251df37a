# Every target sets itself up: it needs a Python of 3.11 or later with venv and pip, and access to a package index.
# The work is in noxfile.py; this file only brings nox and uv.

.DEFAULT_GOAL := help
.PHONY: help test chaos lint demo bench fuzz compat format clean

PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	"$$candidate" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 \
	&& { echo "$$candidate"; break; }; done)
ROUNDS ?= 1
TOOLS := .venv-tools
NOX := $(TOOLS)/bin/nox --noxfile noxfile.py

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

test: $(TOOLS)/.made ## Run the tests on every Python version found
	@$(NOX) --tags tests

chaos: $(TOOLS)/.made ## Kill, race and freeze starts, hundreds of times; ROUNDS=5 for five times as much
	@$(NOX) --session chaos -- --chaos-rounds $(ROUNDS)

lint: $(TOOLS)/.made ## Check style, layout and types
	@$(NOX) --session lint

demo: $(TOOLS)/.made ## Show a science stack imported by a cold handler while it downloads
	@$(NOX) --session demo

bench: $(TOOLS)/.made ## Measure cold starts beside a warm local import and other loaders; report in build/bench
	@$(NOX) --session bench

fuzz: $(TOOLS)/.made ## Feed everything that reads bytes from outside with hostile ones for ten minutes
	@$(NOX) --session fuzz

compat: $(TOOLS)/.made ## Run other projects' test suites from packs and installed, and compare; report in build/compat
	@$(NOX) --session compat

format: $(TOOLS)/.made ## Lay out the code and apply the safe fixes
	@$(NOX) --session format

clean: ## Remove everything that these targets made
	rm -rf $(TOOLS) .nox build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -path ./.git -prune -o -type d -name __pycache__ -prune -exec rm -rf {} +

# Made anew when the tooling's own description changes; removed first, so that a half-made one is never used.
$(TOOLS)/.made: pyproject.toml noxfile.py
	@test -n "$(PYTHON)" || { echo "lazydeps needs Python 3.11 or later with venv and pip: set PYTHON=/path/to/python3 (Debian: apt-get install python3-venv)" >&2; exit 1; }
	@rm -rf $(TOOLS)
	@echo "setting up nox and uv in $(TOOLS)"
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/python -m pip install --quiet --disable-pip-version-check 'nox>=2025.2' 'uv>=0.5'
	@touch $@
