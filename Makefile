# Every target sets up what it needs. CI calls `check`, `sim` and `test` and nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
SEED ?= 1
ROUNDS ?= 20
SEEDS ?= 200
FROM ?= 1

.PHONY: setup check test sim models demo chaos bench protos clean

setup: $(VENV)/.installed

$(VENV)/.installed: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("SOFS needs Python 3.11 or newer") if sys.version_info < (3, 11) else None'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the locked dependencies into $(VENV) (once, about a minute)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements.lock
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python scripts/gen_protos.py --check
	$(BIN)/python scripts/tidy.py

# Real processes on a shared machine: what failed is run once more, alone; failing twice fails.
test: setup
	@$(BIN)/python scripts/run_tests.py

# Whole clusters in virtual time; seeds that fail are kept and run by the tests for ever.
sim: setup
	$(BIN)/python -m sofs sim --seeds $(SEEDS) --from $(FROM) --save tests/sim/regressions.txt

# Every state of the fencing protocols, and what breaks without each rule: docs/MODELS.md.
models: setup
	$(BIN)/python -m tests.models --write

chaos: setup
	$(BIN)/python -m pytest -q -s tests/chaos --chaos-seed $(SEED) --chaos-rounds $(ROUNDS)

demo: setup
	@$(BIN)/python -m sofs demo

bench: setup
	@$(BIN)/python -m sofs bench

protos: setup
	$(BIN)/python scripts/gen_protos.py

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache build *.egg-info
