# levelfield: two commands for a newcomer: `make quickstart` and `make test`.
PYTHON ?= python3
BIN := .venv/bin
EXTRAS := llm,enrich,sweep,report,ray,wandb,als,recbole,trees,dev
export TOKENIZERS_PARALLELISM := false

.PHONY: help quickstart test lint typecheck bench zoo fidelity statistics format clean

help:  ## show the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

# the stamp is newer than every file that decides what is installed, so a second call installs nothing
.venv/.installed: pyproject.toml constraints.txt
	@echo "1/4 creating .venv"
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(None if (3, 11) <= v < (3, 14) else "levelfield needs Python 3.11 to 3.13, found %d.%d; name another one: make PYTHON=python3.12 quickstart" % v)'
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt --upgrade pip
	@echo "2/4 installing torch"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt torch
	@echo "3/4 installing levelfield and its extras"
	@$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@echo "4/4 installing RecBole (without its pins of 2023)"
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps recbole==1.2.1
	@touch $@

quickstart: .venv/.installed  ## one table: trivial, classical and LLM recommenders on MovieLens-100K
	@$(BIN)/levelfield run experiments/quickstart.yaml

test: .venv/.installed  ## all tests
	@$(BIN)/python -m pytest -n 2 --dist loadscope

lint: .venv/.installed  ## ruff: rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: .venv/.installed  ## ruff: mend what can be mended
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

typecheck: .venv/.installed  ## mypy
	@$(BIN)/mypy

bench: .venv/.installed  ## speed as ratios against plain torch and RecBole, written to results/bench
	@$(BIN)/python -m tests.bench

zoo: .venv/.installed  ## every model of RecBole on MovieLens-100K, an hour; written to results/recbole-zoo*
	@$(BIN)/levelfield run experiments/recbole-zoo.yaml
	@$(BIN)/python -m tests.fidelity.coverage

fidelity: .venv/.installed  ## RecBole's own trainer against ours, half an hour; written to results/recbole-fidelity
	@$(BIN)/python -m tests.fidelity
	@$(BIN)/levelfield run experiments/papers/recbole-bpr-ml-100k.yaml
	@$(BIN)/python -m tests.fidelity.readme_row

statistics: .venv/.installed  ## do intervals cover and tests err as often as they say, minutes; written to results/statistics
	@$(BIN)/python -m tests.statistics

clean:  ## remove the environment and caches, keep runs and results
	rm -rf .venv .pytest_cache .ruff_cache .mypy_cache .hypothesis *.egg-info
