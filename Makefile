# Two commands do all the set-up: `make run` installs the service into .venv, without torch, and
# `make test` all extras; each what is missing, once. Ray's settings are in cluster/ray.env.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE_STAMP := $(VENV)/.installed_base
STAMP := $(VENV)/.installed
export PYTHONUNBUFFERED := 1

.PHONY: run test schemathesis check bench train clean

run: $(BASE_STAMP)
	@$(BIN)/python -m app.cli.ports serve_config.yaml
	@echo "Starting on http://127.0.0.1:8000 (Ctrl-C stops all). It says Ready when it answers."
	@# A shell starts background jobs with SIGINT ignored; serve needs it to stop what it started.
	@$(BIN)/python -m app.cli.ready serve_config.yaml & \
	exec $(BIN)/python -c 'import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); \
		os.execv("$(BIN)/serve", ["$(BIN)/serve", "run", "serve_config.yaml"])'

test: check
	$(BIN)/python -m pytest --numprocesses 3 --cov --cov-report=term

schemathesis: $(STAMP)
	SCHEMATHESIS_EXAMPLES=200 $(BIN)/python -m pytest -s tests/app/serving/http/test_schemathesis.py

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m tests.bench

train: $(STAMP)
	$(BIN)/hydraulic train universal

$(BASE_STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expected Python 3.11 or newer, found " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable .
	@# Every Python of this environment applies the Ray settings of cluster/ray.env at its start.
	@echo 'import cluster.ray_settings; cluster.ray_settings.apply()' \
		> "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ray_settings.pth"
	@touch $(BASE_STAMP)

$(STAMP): $(BASE_STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[gpu,train,dev]'
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
