# make demo | test | check | bench | models : each installs what it needs into .venv first.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test check format bench models clean

.venv/demo: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable .
	touch $@

.venv/dev: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch .venv/demo $@

demo: .venv/demo
	$(BIN)/dirprune demo --out runs/demo --overwrite

test: .venv/dev
	$(BIN)/python -m pytest

check: .venv/dev
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

format: .venv/dev
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: .venv/dev
	$(BIN)/python benchmarks/step.py

models: .venv/dev
	$(BIN)/python benchmarks/models.py --csv results/models/torchvision.csv

clean:
	rm -rf .venv runs
