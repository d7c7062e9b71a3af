# Every target makes what it needs; the first use creates .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: install demo test test-full lint protos bench clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Trapline needs Python 3.11 or newer; name one with PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python -c constraints.txt -e '.[dev]'
	touch $(STAMP)

demo: install
	$(BIN)/python docs/demo.py

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not full and computes' -n 2 --dist worksteal
	$(BIN)/python -m pytest -m 'not full and not computes'

test-full: install
	$(BIN)/python -m pytest

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python protos/generate.py --lint

protos: install
	$(BIN)/python protos/generate.py
	$(BIN)/python docs/configuration.py
	$(BIN)/python docs/errors.py
	$(BIN)/python docs/metrics.py

bench: install
	$(BIN)/python benchmarks/preprocess.py

clean:
	rm -rf $(VENV) demo dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
