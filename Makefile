# Everything a fresh clone needs: `make demo`, `make test` and `make lint` each set up what they use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test test-slow lint bench clean

$(VENV)/ready: pyproject.toml constraints.txt CMakeLists.txt $(wildcard native/*.[ch] native/xla/*.h)
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "itograd needs Python 3.11 or newer"'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/pip install --quiet --constraint constraints.txt --editable .
	touch $@

$(VENV)/ready-test: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --group test
	$(BIN)/pip install --quiet --constraint constraints.txt torch || echo "PyTorch cannot be installed here: its tests are skipped"
	touch $@

$(VENV)/ready-lint: $(VENV)/ready
	$(BIN)/pip install --quiet --constraint constraints.txt --group lint
	touch $@

demo: $(VENV)/ready
	$(BIN)/itograd check --output itograd-check

test: $(VENV)/ready-test
	XLA_FLAGS="$$XLA_FLAGS --xla_cpu_parallel_codegen_split_count=1" $(BIN)/pytest -n auto --dist loadfile -m "not slow"

test-slow: $(VENV)/ready-test
	$(BIN)/pytest -s -m slow

lint: $(VENV)/ready-lint
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(VENV)/ready-test
	$(BIN)/pip install --quiet --constraint constraints.txt --group bench || echo "torchsde cannot be installed here: its column is left out"
	$(BIN)/python -m benchmarks --write docs/performance.md $(BENCH)

clean:
	rm -rf $(VENV) itograd-check itograd-asynchrony
