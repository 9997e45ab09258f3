"""Puts the Ray settings of `cluster/ray.env` into the environment of a process.

Ray reads its settings when it is imported, so `make` installs a startup hook into the virtual
environment (`ray_settings.pth`, one line that calls `apply`). With it `make run`, commands of the
activated environment, `.venv/bin/serve` by its path and containers all have the same settings.

No setting chooses the format of Ray Serve's own log files, so the hook also makes Serve write all
of them by the project's formatter: replicas, the controller and the proxies.
"""

import importlib.abc
import importlib.machinery
import os
import sys
from collections.abc import MutableMapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from cluster.ray_token import close_token

FILE = Path(__file__).with_name("ray.env")
COLLECTOR = "OTEL_EXPORTER_OTLP_ENDPOINT"
TRACING = frozenset({"RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH", "OTEL_SERVICE_NAME"})
"""Settings that apply only where `COLLECTOR` is set: without it, requests are not traced."""

PROGRAM = "RAY_SERVE_HAPROXY_BINARY_PATH"
PYTHON = "HAPROXY_PYTHON"
"""Of the program, which runs where the virtual environment may not be activated."""


SERVE_LOGGING = "ray.serve._private.logging_utils"
"""Module of Serve that makes the formatters of its log files."""


class _LogFormat(importlib.abc.MetaPathFinder):
    """Replaces Serve's formatter of log files when the module that uses it is imported."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec with a loader that replaces the formatter."""
        if fullname != SERVE_LOGGING:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = _Replacing(spec.loader)
        return spec


class _Replacing(importlib.abc.Loader):
    def __init__(self, loader: importlib.abc.Loader) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        # imported here: only processes of Serve need it
        from app.serving.observability.ecs import EcsFormatter

        plain = vars(module)["configure_component_logger"]

        def configure(*, logging_config: Any, **arguments: Any) -> None:
            json = logging_config.model_copy(update={"encoding": "JSON"})
            plain(logging_config=json, **arguments)

        vars(module).update(JSONFormatter=EcsFormatter, configure_component_logger=configure)


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
    """Set each setting that the environment does not have yet, and the format of Serve's lines.

    It also closes Ray's token to other users.
    """
    close_token()
    if not any(isinstance(finder, _LogFormat) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LogFormat())
    for name, value in read_settings().items():
        if name not in TRACING or environment.get(COLLECTOR):
            environment.setdefault(name, value)
