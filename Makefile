# Two commands do all the set-up: `make run` and `make test`. Each installs what is missing into .venv, once.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
export PYTHONUNBUFFERED := 1
# A token guards the local cluster, and commands such as serve deploy send it; HAProxy in front of the replicas, calls between them
# by gRPC; a replica that is stopped may go once HAProxy knows, which takes a second; replicas answer people, so they do not run as nice
# as batch workers (15); Ray's own metrics, beside those of /metrics, cost a fifth of the throughput, so they are asked for, not given;
# callers of the hot route are watched by app/serving/fastpath/disconnect_monitor.py, since Serve takes two tasks of the event loop for each, and Serve's count
# of requests from HAProxy's log is off, since a process parses a line for each. glibc takes blocks below 32 MB from its
# arenas and gives back of an arena's top what is beyond 256 MB, in the processes started from here: it gave the network's intermediate
# results back after each pass, and took 20 to 38 page faults for each window.
ENVIRONMENT_DEFAULTS := RAY_AUTH_MODE=token RAY_USAGE_STATS_ENABLED=0 RAY_SERVE_ENABLE_HA_PROXY=1 RAY_SERVE_THROUGHPUT_OPTIMIZED=1 \
	RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S=2 RAY_worker_niceness=0 RAY_enable_metrics_collection=0 RAY_event_stats=0 \
	RAY_SERVE_METRICS_EXPORT_INTERVAL_MS=2000 RAY_SERVE_CONTROL_LOOP_INTERVAL_S=0.25 \
	RAY_SERVE_HAPROXY_METRICS_ENABLED=0 RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH=app.serving.fastpath.disconnect_monitor:middlewares \
	MALLOC_TRIM_THRESHOLD_=268435456 MALLOC_MMAP_THRESHOLD_=33554432
# And where a collector is named.
TRACING_DEFAULTS := RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH=app.serving.observability.tracing:processors OTEL_SERVICE_NAME=hydraulic-diagnostics

.PHONY: run test check bench train clean

run: $(STAMP)
	@$(BIN)/python -m app.cli.ports serve_config.yaml
	@echo "Starting on http://127.0.0.1:8000 (Ctrl-C stops all). When it says ready, in another terminal:"
	@echo "  curl -s http://127.0.0.1:8000/v1/diagnoses -H \"Authorization: Bearer \$$(cat var/api_key)\" -d '{\"equipment_id\": \"hydraulic-rig\", \"explain\": true}'"
	@# a script that starts this in the background hands down an ignored Ctrl-C; serve must hear it to stop what it started
	@exec $(BIN)/python -c 'import os, signal; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv("$(BIN)/serve", ["$(BIN)/serve", "run", "serve_config.yaml"])'

test: check
	$(BIN)/python -m pytest --cov --cov-report=term

check: $(STAMP)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(STAMP)
	$(BIN)/python -m tests.bench

train: $(STAMP)
	$(BIN)/python -m app.demo import-rig
	$(BIN)/python -m train --equipment hydraulic-rig

$(STAMP): pyproject.toml constraints.txt Makefile
	$(PYTHON) -c 'import sys; sys.exit(0 if sys.version_info >= (3, 11) else "expected Python 3.11 or newer, found " + sys.version.split()[0] + ": run make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[train,dev]'
	@# What Ray reads from the environment before it starts, as defaults of this environment's own commands; see README, "How it runs".
	@echo 'import os; [os.environ.setdefault(*pair.split("=")) for pair in "$(ENVIRONMENT_DEFAULTS)".split()]; os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") and [os.environ.setdefault(*pair.split("=")) for pair in "$(TRACING_DEFAULTS)".split()]' \
		> "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/ray_environment.pth"
	@touch $(STAMP)

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
