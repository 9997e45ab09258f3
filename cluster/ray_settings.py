"""Puts the Ray settings of `cluster/ray.env` into the environment of a process.

Ray reads its settings when it is imported, so `make` installs a startup hook into the virtual
environment (`ray_settings.pth`, one line that calls `apply`). With it `make run`, commands of the
activated environment, `.venv/bin/serve` by its path and containers all have the same settings.
"""

import os
import sys
from collections.abc import MutableMapping
from pathlib import Path

FILE = Path(__file__).with_name("ray.env")
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACING = frozenset({"RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "OTEL_SERVICE_NAME"})
"""Settings that apply only where `COLLECTOR` is set: without it, requests are not traced."""

PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
PYTHON = "HAPROXY_PYTHON"
"""Of the program, which runs where the virtual environment may not be activated."""


def read_settings() -> dict[str, str]:
    """Return the settings of the file by name."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    pairs = (line.partition("=") for line in lines if line and not line.startswith("#"))
    found = {name: value for name, _, value in pairs}
    program = FILE.parent / found.pop(PROGRAM)
    if os.access(program, os.X_OK):  # Serve would not start with another
        found |= {PROGRAM: str(program), PYTHON: sys.executable}
    return found


def apply(environment: MutableMapping[str, str] = os.environ) -> None:
    """Set each setting that the environment does not have yet."""
    for name, value in read_settings().items():
        if name not in TRACING or environment.get(COLLECTOR):
            environment.setdefault(name, value)
