# The commands of the README, `make demo` and `make test`, and what else there is. All make the environment first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo baseline study test test-all test-matrix lint mutants docs clean

.venv/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

demo: .venv/.installed
	$(BIN)/sparring demo

# The trained denoiser in the package, from which `sparring demo` starts: plain diffusion on the setting digits-vp.
baseline: .venv/.installed
	$(BIN)/sparring fit diffusion --on digits-vp --trainer.steps 2000 --trainer.seed 0 --out runs/baseline
	rm -rf src/sparring/recipes/baselines/digits-vp
	mkdir -p src/sparring/recipes/baselines
	cp -r runs/baseline/pipeline src/sparring/recipes/baselines/digits-vp

study: .venv/.installed
	$(BIN)/sparring study smoke

lint: .venv/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

PYTEST := $(BIN)/python -m pytest -n auto --maxprocesses 4

test: .venv/.installed lint
	$(PYTEST) -m "not slow"

# With the tests that take longer: what CI runs.
test-all: .venv/.installed lint
	$(PYTEST)

# A part of the tests on the oldest declared versions and on other Pythons, each in an environment of its own (build/matrix).
test-matrix: .venv/.installed
	$(BIN)/python tests/matrix/run.py

# One-line changes of the source, each of which the tests listed with it must notice.
mutants: .venv/.installed
	$(BIN)/python tests/mutants/run.py

# The documentation as a site, with each broken link an error, and llms.txt.
docs: .venv/.installed
	$(BIN)/python docs/llms.py
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	$(BIN)/mkdocs build --strict --site-dir build/site

clean:
	rm -rf .venv build dist .pytest_cache .mypy_cache .ruff_cache
