# The whole command surface. Each target makes the virtual environment it needs.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable

.PHONY: demo test check docs audit bench clean
.DELETE_ON_ERROR:

demo: $(VENV)/.train  ## train the lecture's first classifier and read twenty digits with it
	NUMERAL_HOME="$${NUMERAL_HOME:-$(CURDIR)/.numeral}" $(BIN)/numeral demo

test: $(VENV)/.dev  ## every test
	$(BIN)/pytest

check: $(VENV)/.dev  ## format, lint, types, import contracts, dead dependencies, Dockerfile and compose files
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/deptry .
	$(BIN)/hadolint Dockerfile
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/workers.yml
	$(BIN)/python .ci/audit.py

docs: $(VENV)/.dev  ## the documentation as a site, in build/site
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict --config-file .mkdocs.yml

audit: $(VENV)/.dev  ## known vulnerabilities of what is pinned, and that they could be looked up
	$(BIN)/python .ci/audit.py --strict

bench: $(VENV)/.bench  ## the claims of speed, each as a ratio taken in one run
	$(BIN)/python -m bench

clean:
	rm -rf $(VENV) .numeral

$(BIN)/uv:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt uv

$(VENV)/.train: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "Installing numeral with PyTorch into $(VENV) (a few gigabytes where PyTorch comes with CUDA) ..."
	$(INSTALL) '.[train]'
	@touch $@

$(VENV)/.dev: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "Installing numeral with PyTorch and the development tools into $(VENV) ..."
	$(INSTALL) '.[train,otel,dev,docs]'
	@touch $@

# the tests' tools too: some benchmarks share their services and faults
$(VENV)/.bench: pyproject.toml constraints.txt | $(BIN)/uv
	@echo "Installing numeral with PyTorch and those it is measured against into $(VENV) ..."
	$(INSTALL) '.[train,dev,bench]'
	@touch $@
