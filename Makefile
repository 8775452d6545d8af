# Everything a user runs; each verb is also a verb of the CLI (`llm-pipeline --help`) once the environment exists.
PYTHON ?= python3
SOURCE ?=
VENV := .venv
RUN := $(VENV)/bin/llm-pipeline

.PHONY: demo test ui mlflow lint bench stop clean lock install help
.DEFAULT_GOAL := help

help:           ## show the verbs
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## */  make \1\t/' | expand -t 16

install: $(VENV)/.installed

$(VENV)/.installed: infra/requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "Python 3.11 or newer is needed, found " + sys.version.split()[0] + "; set PYTHON=")'
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -r infra/requirements.lock
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps -e .
	@touch $@

demo: install   ## the whole life cycle, offline; SOURCE=path/or/uri adds your own documents
	$(RUN) demo $(if $(SOURCE),--source "$(SOURCE)")

test: install   ## the test suite
	$(RUN) test

ui: install     ## the Dagster UI on http://127.0.0.1:3000
	$(RUN) ui

mlflow: install ## the MLflow UI on http://127.0.0.1:5000
	$(RUN) mlflow

lint: install   ## ruff and mypy
	$(RUN) lint

bench: install  ## the benchmarks behind the README's tables
	$(RUN) bench

stop: install   ## end the endpoint that the demo left running
	$(RUN) endpoint down

clean:          ## remove the environment, the home folder and caches (ends the endpoint first)
	@if [ -x $(RUN) ]; then $(RUN) endpoint down; fi
	rm -rf $(VENV) .llm_pipeline *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

lock:           ## compile the lock file anew from pyproject.toml (needs uv)
	infra/lock.sh
