# Three tests at a time, on two cores too: many wait for processes that they start. Tests of one group run one after the other.
PARALLEL = -n 3 --dist loadgroup

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-quick test-slurm soak docs lint format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## install everything into .venv (quick when nothing changed)
	@launch/setup.sh

demo: setup ## train an AnyNet on real handwritten digits in two processes
	@launch/demo.sh

test: lint ## run linter, type checker and all tests
	@tests/install_chromium.sh
	.venv/bin/pytest $(PARALLEL)

# Leaves out the tests marked slow: several ranks, kills and restarts, measurements, larger networks, the README's commands,
# and all that loads data with FFCV, which takes seconds to import and to compile.
test-quick: setup ## run the quick tests, under two minutes on two cores
	.venv/bin/pytest $(PARALLEL) -m "not slow" --ignore tests/data/loaders/test_ffcv.py

test-slurm: setup ## install SLURM and test slurm/ on a cluster in namespaces (root, Debian or Ubuntu)
	@tests/slurm/run.sh

soak: setup ## fail every operation on a run's files, kill runs at random moments (hours; docs/reliability.md)
	.venv/bin/pytest tests/faults --every-operation -s
	.venv/bin/pytest tests/training/resilience/test_soak.py --kills 20 --loader torch -s

docs: setup ## build the documentation as a site, in site/ (python 3.11.5 or newer)
	@.venv/bin/python -m mkdocs build --strict

lint: setup ## run linter and type checker
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy
	.venv/bin/shellcheck --external-sources launch/*.sh slurm/*.sh slurm/*.sbatch tests/slurm/*.sh tests/*.sh

format: setup ## format the code
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

clean: ## remove caches and the environment; data and runs stay
	rm -rf .venv site .mypy_cache .ruff_cache .pytest_cache *.egg-info
