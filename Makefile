# Every target sets up what it needs: `make train` and `make test` work on a fresh machine.
# Settings: FULL=1 (of eval), PYTHON (an interpreter 3.11 to 3.13), ARGS (further options of the command), RLTUNE_TRACES (a folder of
# real traces), TORCH_INDEX (address of PyTorch's index of CPU builds, where the usual index has only CUDA builds).

PYTHON ?= python3
VENV ?= .venv
TORCH_INDEX ?=
ARGS ?=
FULL ?=

BIN := $(VENV)/bin
READY := $(VENV)/.ready
PIP := $(BIN)/python -m pip install --disable-pip-version-check -qq
TORCH := $(shell sed -n '/^torch==/p' constraints.txt)

.DEFAULT_GOAL := help
.PHONY: help setup train live eval test check docs bench release

help: ## show this list
	@sed -nE 's/^([a-z]+):.*## (.*)/\1|\2/p' Makefile | awk -F'|' '{printf "make %-7s %s\n", $$1, $$2}'

setup: $(READY) ## create .venv with everything inside (all other targets do this first; once)

# Unlike GPUs, unknown run times, suspension, MIG slices: where scheduling is hard.
MIXED = cluster=mixed nodes=100 throughput=classes options.ways=slices options.way_rule=market options.resume_s=60 \
  allocator=fgd baseline=gittins runtimes=unknown backfill=skip oversized=drop score=jct protocol=month

train: $(READY) ## train on Helios' jobs on unlike GPUs; tables on held-back jobs (options: ARGS="score=wait seed=1")
	$(BIN)/python -m rltune.train +trace=helios $(MIXED) epochs=15 windows_per_epoch=16 $(ARGS)

live: $(READY) ## the live service in two minutes: a trace replayed on simulated A100s with MIG, real processes (ARGS="speed=600")
	OMP_NUM_THREADS=1 $(BIN)/python -m rltune.live $(ARGS)

eval: $(READY) ## shipped models and all rules on five traces, as a page: runs/report/index.html (minutes; FULL=1: all of them, long)
	OMP_NUM_THREADS=1 $(BIN)/python -m rltune.report $(if $(filter-out 0,$(FULL)),--full) $(ARGS)

test: $(READY) ## run the tests (options of pytest: ARGS="-k milp"; more cases: ARGS="-m 'thorough and not slow'", ARGS="-m slow")
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadgroup $(ARGS)

check: $(READY) ## lint, format, types, the direction of imports, and advisories for dependencies
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit

docs: $(READY) ## build the documentation site into site/; broken links and anchors are errors (look at it: python -m http.server -d site)
	OMP_NUM_THREADS=1 NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet $(ARGS)

release: $(READY) ## build wheel and sdist into dist/, and try every command of the wheel in an empty environment
	PYTHON=$(PYTHON) BUILD=$(BIN)/python TORCH_INDEX=$(TORCH_INDEX) .ci/release

bench: $(READY) ## measure the speed figures into experiments/bench.json
	OMP_NUM_THREADS=1 $(BIN)/python -m rltune.bench $(ARGS)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null || \
	  { echo "error: $(PYTHON) is $$($(PYTHON) --version 2>&1 | head -1); Python 3.11 to 3.13 is needed: make PYTHON=python3.11 ..." >&2; exit 2; }
	@test -x $(BIN)/pip || { echo "setup 1/4: a virtual environment in $(VENV)"; $(PYTHON) -m venv $(VENV); } || \
	  { echo "error: $(PYTHON) -m venv failed; install the venv module (Debian, Ubuntu: apt install python3-venv)" >&2; exit 2; }
	@echo "setup 2/4: PyTorch for CPUs ($(TORCH))"
	@$(PIP) --no-deps --retries 1 $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) -c constraints.txt '$(TORCH)'
	@echo "setup 3/4: rltune and its dependencies (constraints.txt; a minute or two)"
	@$(PIP) -c constraints.txt -e '.[dev]'
	@echo "setup 4/4: compiling kernels (a few minutes; later edits recompile what they change)"
	@OMP_NUM_THREADS=1 $(BIN)/python -m rltune.warm || echo "setup goes on: they compile at their first use" >&2
	@touch $@
	@echo "setup done"
