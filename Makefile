# Every target sets up its own virtual environment in $(VENV); PYTHON names the interpreter (3.10 or newer) that makes it.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= auto
BIN = $(VENV)/bin
SETUP = setup.cfg pyproject.toml constraints.txt

.PHONY: demo test check format clean

demo: $(VENV)/.ready-run  ## refines the embedded pair and prints the distance before and after
	$(BIN)/python run_refine.py --preset=demo --outdir=training-runs

test: $(VENV)/.ready-test  ## all tests that need no GPU, no network and no patience
	$(BIN)/python -m pytest -n $(WORKERS) --dist=worksteal

check: $(VENV)/.ready-dev  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.ready-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .ruff_cache .mypy_cache .pytest_cache .hypothesis
	find gan_refine torch_utils recipes tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

# The stamps make set-up happen once, and again when what is to be installed changes. Of ten thousand modules few are used:
# Python compiles those that are.
$(VENV)/.ready-run: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e .
	touch $@

$(VENV)/.ready-test: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[test]"
	touch $@

$(VENV)/.ready-dev: $(SETUP) | $(BIN)/python
	$(BIN)/python -m pip install -q --no-compile -c constraints.txt -e ".[dev,test]"
	touch $@ $(VENV)/.ready-test $(VENV)/.ready-run
