# make repro      environment, embedded default, the whole pipeline, and a table of what it measured
# make test       environment and the fast tests
# make test-slow  the tests on real models; KDQAT_DATA_DIR names a folder of task data
# make test-sanitize  the engine's tests under the address and undefined-behaviour sanitizers
# make test-arm   the engine's ARM kernels under qemu; it takes g++-aarch64-linux-gnu and qemu-user
# make wheels     dist/: kdqat, and kdqat-runtime, which serves packed models without torch
# make site       build/site/: the documentation as pages, with a reference from the docstrings
# make lint       formatting, lint and types, as CI runs them
PYTHON ?= python3
BIN := .venv/bin
# Stages call `kdqat`, so the environment's commands must be on the path.
export PATH := $(abspath $(BIN)):$(PATH)

.PHONY: repro test test-slow test-sanitize test-arm wheels site lint

repro: .venv/ready
	dvc repro
	@kdqat report

test: .venv/ready
	pytest -m "not slow" -n auto --dist loadfile

test-slow: .venv/ready
	pytest -m slow

test-sanitize: .venv/ready
	tests/native/sanitize.sh

test-arm:
	tests/native/cross.sh

wheels: .venv/ready
	python -m pip wheel --no-deps --wheel-dir dist . packaging/runtime

site: .venv/ready
	NO_MKDOCS_2_WARNING=1 mkdocs build --strict --quiet

lint: .venv/ready
	pre-commit run --all-files

.venv/ready: pyproject.toml setup.py constraints.txt $(wildcard kdqat_cli/native/src/*)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "kdqat needs Python 3.11 or newer, but $(PYTHON) is older; try: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
