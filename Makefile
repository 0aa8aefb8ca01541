# make sweep        the demo: install, search, register a candidate
# make sweep-full   the same over every training row
# make test         every check
# make soak         kills at random instants and at each place that writes; an hour
# make bench        what takes how long, measured and written to benchmarks/results; an hour
# make ui           the MLflow UI on 127.0.0.1

PYTHON ?= python3
PORT ?= 5000
BIN := $(CURDIR)/.venv/bin
DATABASE := sqlite:///$(CURDIR)/mlflow.db

export PATH := $(BIN):$(PATH)

.PHONY: install sweep sweep-full test soak bench ui

install: .venv/installed

.venv/installed: requirements-core.lock requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Tunesmith needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-core.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	touch $@

sweep: .venv/installed
	mlflow run . -e sweep --env-manager local --experiment-name support

sweep-full: .venv/installed
	mlflow run . -e sweep --env-manager local --experiment-name support -P data.search_rows=null

test: .venv/installed
	ruff check .
	ruff format --check .
	mypy
	lint-imports
	python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

soak: .venv/installed
	python -m pytest -m soak

bench: .venv/installed
	python -m benchmarks.step trl
	python -m benchmarks.step roofline
	python -m benchmarks.ablation
	python -m benchmarks.fused
	python -m benchmarks.dpo_step
	python -m benchmarks.tracking
	python -m benchmarks.orchestration
	python -m benchmarks.resume
	python -m benchmarks.rollback

ui: .venv/installed
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false mlflow server --backend-store-uri $(DATABASE) \
	  --host 127.0.0.1 --port $(PORT) --allowed-hosts "127.0.0.1:$(PORT),localhost:$(PORT)"
