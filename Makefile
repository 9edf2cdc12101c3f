# What a developer types. `make demo` and `make test` work from a fresh clone.
PYTHON ?= python3
VENV   ?= .venv
LOWEST ?= .venv-lowest
BIN     = $(VENV)/bin
STAMP   = $(VENV)/.installed
# Two busy OpenMP jobs on two cores slow each other ten-fold; the tests use one thread. Without bytecode,
# every process compiles the type checks of all modules anew, in half a minute.
PYTEST  = OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest --jaxtyping-packages=latentslots,beartype.beartype
FAST    = not slow and not gpu and not network
# Tests of numbers: what another processor may round otherwise.
NUMBERS = tests/cli/test_evaluate.py tests/contracts tests/evaluation tests/metrics tests/models \
	tests/pipelines tests/test_concepts.py tests/test_saved_formats.py tests/training/test_loss_trace.py \
	tests/training/test_validation.py tests/workflows
# Scenes are drawn without a screen, by EGL and Mesa, which are not Python packages.
OPENGL  = ldconfig -p | grep -q libEGL.so.1 || { ! command -v apt-get >/dev/null; } \
	|| { apt-get update -q && apt-get install -qy libegl1 libgl1-mesa-dri; }
# The tests of the editor's page drive a browser; without it they are skipped, and say so.
CHROMIUM = command -v chromium >/dev/null || { ! command -v apt-get >/dev/null; } \
	|| { apt-get update -q && apt-get install -qy chromium; }

.PHONY: setup format check test test-coverage test-lowest test-docs test-portable test-all demo app bench clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt pip setuptools
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt --no-build-isolation -e '.[dev]'
	$(OPENGL)
	$(CHROMIUM)
	touch $(STAMP)

format: setup
	$(BIN)/ruff format
	$(BIN)/ruff check --fix

check: setup
	$(BIN)/ruff format --check
	$(BIN)/ruff check
	$(BIN)/mypy

test: setup
	$(PYTEST) -n 2 --dist loadfile -m "$(FAST)"

# The same under coverage, which takes half as long again.
test-coverage: setup
	$(PYTEST) -n 2 --dist loadfile -m "$(FAST)" --cov --cov-report=term:skip-covered

# With the lowest versions that pyproject.toml allows, in an environment of its own: torch brings CUDA.
test-lowest:
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct -e '.[dev]'
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist loadfile -m "$(FAST)" \
		--deselect tests/training/test_loss_trace.py  # of random networks, which others initialize otherwise

# The commands and the Python of README and docs.
test-docs: setup
	$(PYTEST) tests/test_docs.py

# The numbers as a processor without AVX computes them; ONEDNN_MAX_CPU_ISA=SSE41 is another.
test-portable: setup
	ATEN_CPU_CAPABILITY=default $(PYTEST) -n 2 --dist loadfile -m "$(FAST)" $(NUMBERS)

test-all: setup
	$(PYTEST) -m "not gpu and not network" --cov --cov-report=term:skip-covered

demo: setup
	$(BIN)/latentslots demo --output-dir demo

app: setup
	$(BIN)/latentslots app

bench: setup
	OMP_NUM_THREADS=1 $(BIN)/python benchmarks/metrics.py
	$(BIN)/python benchmarks/scenes.py
	$(BIN)/python benchmarks/train_step.py

clean:
	rm -rf $(VENV) demo build dist .coverage* .pytest_cache .mypy_cache .ruff_cache
