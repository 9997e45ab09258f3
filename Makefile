# Two commands do all the set-up: `make run` installs the service into .venv, without torch, and
# `make test` all extras; each what is missing, once. Ray's settings are in cluster/ray.env.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
BASE_STAMP := $(VENV)/.installed_base
STAMP := $(VENV)/.installed
export PYTHONUNBUFFERED := 1

.PHONY: run test schemathesis fuzz chaos soak check bench train sbom audit lockcheck clean

run: $(BASE_STAMP)
	@$(BIN)/python -c 'from cluster.ray_token import close_token; close_token(make=True)'
	@$(BIN)/python -m app.cli.ports serve_config.yaml
	@echo "Starting on http://127.0.0.1:8000 (Ctrl-C stops all). It says Ready when it answers."
	@# A shell starts background jobs with SIGINT ignored; serve needs it to stop what it started.
	@$(BIN)/python -m app.cli.ready serve_config.yaml & \
	exec $(BIN)/python -c 'import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); \
		os.execv("$(BIN)/serve", ["$(BIN)/serve", "run", "serve_config.yaml"])'

# a thread each: the workers and the processes of their tests share the processors
test: export OMP_NUM_THREADS := 1
test: export OPENBLAS_NUM_THREADS := 1
test: check
	$(BIN)/python -m pytest --numprocesses 3 --cov --cov-report=term

schemathesis: $(STAMP)
	SCHEMATHESIS_EXAMPLES=400 $(BIN)/python -m pytest -s tests/app/serving/http/test_schemathesis.py

# 10,000 documents for each parser; what it finds belongs into tests/corpus
fuzz: $(STAMP)
	$(BIN)/python -m pytest --hypothesis-profile fuzz tests/fuzz

# every fault under load, about an hour; some need root (a full disk, a lossy network)
chaos: $(STAMP)
	$(BIN)/python -m tests.chaos
	$(BIN)/python -m tests.docs.generate

# an hour under load with a fault every two minutes
soak: $(STAMP)
	$(BIN)/python -m tests.chaos.soak
	$(BIN)/python -m tests.docs.generate

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

sbom: $(STAMP)
	$(BIN)/python -m tests.supply_chain sbom

audit: $(STAMP)
	$(BIN)/python -m tests.supply_chain audit

# resolves the pinned versions for CPython 3.11 to 3.13 on x86-64 and arm64, wheels only
lockcheck: $(STAMP)
	$(BIN)/python -m tests.lock_check

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
