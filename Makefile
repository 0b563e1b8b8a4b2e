# Every target sets the machine up first; that takes no time once it is done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup test check bench demo starter clean
.DEFAULT_GOAL := help

PYTHON_VENV := $(or $(VENV),.venv)/bin
RUN := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(PYTHON_VENV)/python

help:  ## this list
	@sed -nE 's/^([a-z]+): .*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## system packages, virtual environment, pinned packages (seconds when done)
	@./infra/setup.sh

test: setup ## every test but the benchmarks
	$(RUN) -m pytest $(ARGS)

check: setup ## format, lint, types, fast tests, architecture, budgets
	$(PYTHON_VENV)/ruff format --check .
	$(PYTHON_VENV)/ruff check .
	$(PYTHON_VENV)/mypy
	$(RUN) -m tests.architecture.budgets
	$(RUN) -m pytest -q -m "not slow and not bench" $(ARGS)

bench: setup ## frames per core-second of each stage and of the whole
	$(RUN) -m benchmarks.run $(ARGS)

demo: setup ## dub a small synthetic catalog through S3; VIDEO=… AUDIO=… dubs your own file
	$(RUN) -m jobs.demo $(if $(VIDEO),--video "$(VIDEO)") $(if $(AUDIO),--audio "$(AUDIO)") $(ARGS)

starter: setup ## train the weights that the package ships
	$(RUN) -m jobs.starter $(ARGS)

clean: ## remove what make made; keeps the weights that the package ships
	rm -rf $(or $(VENV),.venv) .mypy_cache .pytest_cache .ruff_cache .hypothesis build demo bench *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
