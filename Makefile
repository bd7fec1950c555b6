# Two targets are enough to begin with: `make search` and `make test`. Both set everything up.
PYTHON ?= python3.11
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: help search test cluster-test docker-test export-test check emulator clean

help:
	@echo "make search    set up, then search on the embedded default (digits, ResNet18, arm)"
	@echo "make test      set up, then run lint, types and tests"
	@echo "make cluster-test  run what needs a Ray cluster, PostgreSQL and an MLflow server"
	@echo "make docker-test   build the image and run the compose file's services in it (root, Debian)"
	@echo "make export-test   install the converters of all formats, and test them"
	@echo "make emulator  set up the ARM emulator (Linux on x86-64): estimates within a few percent"
	@echo "make clean     remove the environment and caches of tools"

$(STAMP): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { echo "Python 3.11 or newer is needed: apt-get install python3.11 python3.11-venv, or make PYTHON=python3"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check torch torchvision
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

search: $(STAMP)
	$(BIN)/python -m search --target arm --max-drop 0.03 --budget 5m
	@echo "These commands need the environment: . $(BIN)/activate"

test: check
	@scripts/debian-packages
	@$(BIN)/python -m hardware_profiles emulator install || test -z "$$CI"
	$(BIN)/python -m pytest

cluster-test: $(STAMP)
	@scripts/debian-packages postgresql
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[ray,postgres]'
	$(BIN)/python -m pytest --timeout 600 tests/cluster

docker-test: $(STAMP)
	@scripts/debian-packages buildah debootstrap iproute2 postgresql
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[postgres,containers]'
	$(BIN)/python -m pytest --timeout 1800 tests/docker

export-test: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[tflite]'
	$(BIN)/python -m pytest tests/exports

check: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

emulator: $(STAMP)
	$(BIN)/python -m hardware_profiles emulator install

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
