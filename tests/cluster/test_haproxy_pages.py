"""HAProxy, started as Ray Serve starts it, answers with problem documents."""

import re
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from cluster.haproxy_pages import with_pages
from cluster.ray_settings import PROGRAM, PYTHON, read_settings

CONFIG = """global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
    timeout http-request 300ms
    errorfile 502 {page}
    errorfile 503 {page}
    errorfile 504 {page}
frontend http_frontend
    bind 127.0.0.1:{port}
    use_backend application if {{ path_beg /v1 }}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
backend application
    server replica 127.0.0.1:1
"""
"""The lines of Serve's template that count here; the backend has no server that answers."""


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as opened:
        return int(opened.getsockname()[1])


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Port of a HAProxy that was started by the program of the settings."""
    port, settings = free_port(), read_settings()
    page, config = tmp_path / "500.http", tmp_path / "haproxy.cfg"
    page.write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    config.write_text(CONFIG.format(page=page, port=port))
    environment = {PYTHON: settings[PYTHON], "PATH": "/usr/bin:/bin"}
    command = [settings[PROGRAM], "-db", "-f", str(config)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 30
        while process.poll() is None and time.monotonic() < deadline:
            try:
                socket.create_connection(("127.0.0.1", port)).close()
            except OSError:
                time.sleep(0.02)
            else:
                break
        yield port
        process.terminate()


@pytest.mark.parametrize(("path", "status"), [("/v1/models", 503), ("/nothing", 404)])
def test_page_is_a_problem_with_a_trace_id(port: int, path: str, status: int):
    first, second = (httpx.get(f"http://127.0.0.1:{port}{path}") for _ in range(2))
    assert first.headers["content-type"] == "application/problem+json"
    problem = first.json()
    assert (first.status_code, problem["status"]) == (status, status)
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    assert first.headers["x-trace-id"] == problem["trace_id"] != second.json()["trace_id"]
    assert first.headers.get("retry-after") == ("5" if status == 503 else None)


def test_lines_that_are_replaced_are_in_serves_template():
    made = with_pages(HAPROXY_CONFIG_TEMPLATE)
    assert made.count("http-error status") == 3
    assert "errorfile 50" not in made
    (found,) = re.findall(r"^backend default_backend\n.*$", made, re.MULTILINE)
    assert "application/problem+json" in found
    assert with_pages(made) == made
