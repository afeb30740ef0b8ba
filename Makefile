# Two commands do everything: `make demo` and `make test`. Both make the environment first (.venv, from requirements.lock).
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
AIRFLOW_VENV := .venv-airflow
UV_VERSION := 0.13.9
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
DEMO_USERS ?= 5000
DEMO_DAYS ?= 7
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test check env airflow-env dist lock clean bench
.DEFAULT_GOAL := help

help:
	@echo "make demo         environment, then simulate, tokenize, SQL and a report (demo/)"
	@echo "make test         everything that has to hold: make check, Airflow, all tests"
	@echo "make check        ruff, mypy, import contracts"
	@echo "make airflow-env  Airflow 3.3 in an environment of its own ($(AIRFLOW_VENV))"
	@echo "make dist         what spark-submit needs, in dist/"
	@echo "make bench        the figures of docs/benchmarks.md"

env: $(VENV)/.installed

$(UV):
	@command -v $(PYTHON) >/dev/null || { echo "make: $(PYTHON) not found; install Python 3.11, or give PYTHON=/path/to/python3.11"; exit 30; }
	$(PYTHON) -m venv .uv
	.uv/bin/pip install --quiet uv==$(UV_VERSION)

$(VENV)/.installed: requirements.lock setup.cfg | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(VENV)
	$(UV) pip install --quiet --python $(BIN)/python -r requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --editable .
	touch $@

airflow-env: $(AIRFLOW_VENV)/.installed

$(AIRFLOW_VENV)/.installed: requirements-airflow.lock | $(UV)
	$(UV) venv --quiet --clear --python $(PYTHON) $(AIRFLOW_VENV)
	$(UV) pip install --quiet --python $(AIRFLOW_VENV)/bin/python -r requirements-airflow.lock
	touch $@

demo: env
	$(BIN)/u2qt demo --users $(DEMO_USERS) --days $(DEMO_DAYS) --out demo

check: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test: check airflow-env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses 2 --no-loadscope-reorder --durations 40 --durations-min 5

dist: env
	$(BIN)/python -m jobs.make_dist dist

lock: | $(UV)
	$(UV) pip compile --quiet --python-version 3.11 --no-annotate --no-header --extra dev setup.cfg | grep -vE '^(nvidia-|cuda-|triton)' > requirements.lock

bench: env
	$(BIN)/python -m benchmarks.run_all

clean:
	rm -rf $(VENV) $(AIRFLOW_VENV) .uv demo dist build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
