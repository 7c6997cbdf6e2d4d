# Two commands on a fresh machine: `make demo` runs the main job, `make test` passes the tests.
# Each sets up .venv first, from pyproject.toml alone; a second call reuses it.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/ready

# One thread for each rank: two ranks share the cores of a small machine. Compiled DeepSpeed ops stay with the environment.
export OMP_NUM_THREADS ?= 1
export TORCH_EXTENSIONS_DIR ?= $(CURDIR)/$(VENV)/torch_extensions

.PHONY: install demo test lint format types unit clean

install: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"Python {sys.version.split()[0]} is too old: make PYTHON=python3.11 (or newer)")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $(READY)

# Every command here goes on where an earlier one was stopped.
demo: install
	$(BIN)/python -m data_prep simulate euler_multi_quadrants_periodicBC --out runs/demo/source --trajectories 64 --resolution 64
	$(BIN)/python -m data_prep simulate shear_flow --out runs/demo/source --trajectories 32 --resolution 64
	$(BIN)/python -m data_prep convert runs/demo/source/euler_multi_quadrants_periodicBC runs/demo/data/euler --format zarr
	$(BIN)/python -m data_prep convert runs/demo/source/shear_flow runs/demo/data/shear_flow --format webdataset
	$(BIN)/python -m trainer study configs/study/demo.yaml

test: lint types unit

lint: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: install
	$(BIN)/mypy

# A rank takes a GPU of its own where it sees one, and tests start more ranks than a small machine has: they see none.
# Two files at a time, on every machine: many tests wait for processes, and some start four ranks. Tests of a file share fixtures.
# In the order of their names, by which the short ones of tests/unit come last and fill what the long ones leave.
unit: install
	$(BIN)/pytest tests/gpu
	CUDA_VISIBLE_DEVICES= $(BIN)/pytest --ignore=tests/gpu --numprocesses 2 --dist loadfile --no-loadscope-reorder

format: install
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis
