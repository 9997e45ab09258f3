"""`cluster/ray.env`: the settings, who wins over them, and the startup hook that applies them."""

import os
import subprocess
import sys
from pathlib import Path

from ray._common.utils import import_attr
from ray.serve._private import constants

from app.serving.http import serve_errors
from app.serving.observability import tracing
from cluster.ray_settings import COLLECTOR, TRACING, apply, read_settings
from tests.ecs.schema import parse


def test_settings_are_applied_unless_the_caller_has_set_them():
    environment = {"RAY_worker_niceness": "3"}
    apply(environment)
    assert environment["RAY_SERVE_ENABLE_HA_PROXY"] == "1"
    assert environment["RAY_worker_niceness"] == "3"


def test_tracing_is_set_only_where_a_collector_is_named():
    without: dict[str, str] = {}
    apply(without)
    assert without.keys() == read_settings().keys() - TRACING
    traced = {COLLECTOR: "http://127.0.0.1:4318"}
    apply(traced)
    assert traced.keys() == read_settings().keys() | {COLLECTOR}


def test_names_are_read_by_serve_and_paths_can_be_imported():
    settings = read_settings()
    of_serve = [name for name in settings if name.startswith("RAY_SERVE_")]
    source = Path(constants.__file__).read_text(encoding="utf-8")
    assert [name for name in of_serve if f'"{name}"' not in source] == []
    assert os.access(settings["RAY_SERVE_HAPROXY_BINARY_PATH"], os.X_OK)
    middlewares = settings["RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH"]
    assert import_attr(middlewares) is serve_errors.middlewares
    processors = settings["RAY_SERVE_TRACING_EXPORTER_IMPORT_PATH"]
    assert import_attr(processors) is tracing.processors


def test_every_python_of_the_environment_has_the_settings():
    environment = {name: value for name, value in os.environ.items() if name not in read_settings()}
    show = "import os; print(os.environ['RAY_SERVE_ENABLE_HA_PROXY'], os.environ['RAY_AUTH_MODE'])"
    done = subprocess.run(
        [sys.executable, "-c", show], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["1", "token"]


def test_files_of_serve_have_the_projects_format(tmp_path: Path):
    """In a process of its own: the format is chosen when Serve's logging is imported."""
    program = f"""
import cluster.ray_settings
cluster.ray_settings.apply()
import logging
from ray.serve._private import controller, logging_utils, proxy, replica
from ray.serve.schema import LoggingConfig
for module in (controller, proxy, replica):
    assert module.configure_component_logger is logging_utils.configure_component_logger
logging_utils.configure_component_logger(
    component_name="controller",
    component_id="7",
    logging_config=LoggingConfig(logs_dir={str(tmp_path)!r}),
    max_bytes=1000000,
    backup_count=1,
)
logging.getLogger("ray.serve").warning("started")
logging.shutdown()
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)
    (file,) = tmp_path.glob("*.log")
    line = parse(file.read_text())
    assert (line["message"], line["hydraulic.component_name"]) == ("started", "controller")
