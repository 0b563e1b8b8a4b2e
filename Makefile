# Every target sets the machine up first; that takes no time once it is done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.PHONY: help setup test check bench demo starter synthesize train-smoke parity fuzz faults soak rehearsal image-check clean
.DEFAULT_GOAL := help

VENV ?= .venv
export VENV
# Not activated, but found: deepspeed runs ninja by name.
export PATH := $(abspath $(VENV))/bin:$(PATH)
export OMP_NUM_THREADS ?= 1

help:  ## this list
	@sed -nE 's/^([a-z-]+): .*## (.*)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 18

setup: ## system packages, virtual environment, pinned packages (seconds when done)
	@./infra/setup.sh

test: setup ## every test but the benchmarks
	python -m pytest $(ARGS)

check: setup ## format, lint, types, fast tests, architecture, budgets
	ruff format --check .
	ruff check .
	mypy
	python -m tests.architecture.budgets
	python -m pytest -q -m "not slow and not bench" $(ARGS)

bench: setup ## frames per core-second of each stage and of the whole
	python -m benchmarks.run $(ARGS)

demo: setup ## dub a small synthetic catalog through S3; VIDEO=… AUDIO=… dubs your own file
	python -m jobs.demo $(if $(VIDEO),--video "$(VIDEO)") $(if $(AUDIO),--audio "$(AUDIO)") $(ARGS)

starter: setup ## train a small network on people who do not exist (two cores, hours)
	python -m jobs.starter $(ARGS)

synthesize: setup ## talking people who do not exist, to train on: OUT=… HOURS=N SEED=N
	python -m jobs.synthesize "$(or $(OUT),build/people)" --hours $(or $(HOURS),0.1) --seed $(or $(SEED),0) $(ARGS)

train-smoke: setup ## prepare, train through every phase, be killed and go on: in minutes
	python -m jobs.train_smoke $(ARGS)

fuzz: setup ## dub damaged and hostile media by the thousand: FILES=N SEED=N
	python -m tests.faults.fuzz --files $(or $(FILES),2000) --seed $(or $(SEED),0) $(ARGS)

soak: setup ## a two-hour title and two thousand short ones: memory flat, no slowing: MINUTES=N TITLES=N
	python -m tests.faults.soak --minutes $(or $(MINUTES),120) --titles $(or $(TITLES),2000) $(ARGS)

faults: setup ## dub a small catalog while something goes wrong, again and again: RUNS=N SEED=N
	python -m tests.faults.harness --runs $(or $(RUNS),100) --seed $(or $(SEED),0) $(ARGS)

rehearsal: setup ## a night on a cluster: three nodes, S3, Prometheus, a drained node, a killed one, the bill
	python -m tests.e2e.rehearsal

image-check: setup ## the container image's layers, built in a root of their own and tried; root, debootstrap, minutes
	python -m tests.infra.image $(ARGS)

parity: setup ## the released code's own numbers, member by member; GOLDEN=DIR SEED_OFFSET=N
	python -m tests.parity.run $(if $(GOLDEN),--golden "$(GOLDEN)") $(if $(SEED_OFFSET),--seed-offset $(SEED_OFFSET)) $(ARGS)

clean: ## remove what make made; keeps the weights that the package ships
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis build demo bench *.egg-info
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
