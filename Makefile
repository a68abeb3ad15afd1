# Two commands are enough: `make demo` shows the service at work, `make test` runs everything.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
CONSTRAINTS := constraints.txt
MODEL ?= scenes-tiny
ONCE ?=
TEST_WORKERS ?= 2
TRAIN_PROCESSES ?= 2

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types imports train-demo bench clean

help:
	@echo "make demo          start the service, add sample pictures, search them (ONCE=1 stops afterwards)"
	@echo "make test          run every test"
	@echo "make check         what CI runs: ruff, mypy --strict, import-linter, every test"
	@echo "make train-demo    train the bundled model again, in its place (25 minutes on two cores with bf16)"
	@echo "make bench         measure this machine: throughput, latency, restart"
	@echo "make clean         remove the environment and the demo's data"

# `MODEL=` names another model: a checkpoint folder, local-dir:PATH, ViT-B-32:openai …
demo: $(VENV)/.made-demo
	@$(BIN)/structxlip demo --model "$(MODEL)" $(if $(ONCE),--once)

# Processes side by side, with one thread each, or torch's threads fight for the cores; a few files to each at a time, so
# that all of them are busy to the end.
test: $(VENV)/.made-dev
	find tests -name 'test_*.py' | sort | OMP_NUM_THREADS=1 xargs -n 6 -P $(TEST_WORKERS) $(BIN)/python -m pytest

check: lint types imports test

format: $(VENV)/.made-dev
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

lint: $(VENV)/.made-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.made-dev
	$(BIN)/mypy

imports: $(VENV)/.made-dev
	$(BIN)/lint-imports

# A process with one thread for each core: threads of one process wait for each other at every operation.
train-demo: $(VENV)/.made-dev
	$(BIN)/torchrun --standalone --nproc-per-node $(TRAIN_PROCESSES) -m training.train \
		training/configs/scenes_tiny.yaml saving.export_to=structxlip/checkpoints/scenes-tiny

bench: $(VENV)/.made-dev
	$(BIN)/python -m benchmarks.run

$(VENV)/.made-venv:
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.made-demo: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made-venv
	@echo "installing into $(VENV): PyTorch alone is several GB, this takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[cpu]"
	@touch $@

$(VENV)/.made-dev: pyproject.toml $(CONSTRAINTS) | $(VENV)/.made-venv
	@echo "installing into $(VENV): PyTorch alone is several GB, this takes some minutes the first time"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c $(CONSTRAINTS) -e ".[dev,train]"
	@touch $@

clean:
	rm -rf $(VENV) .demo
