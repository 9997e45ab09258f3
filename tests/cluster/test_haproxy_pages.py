"""HAProxy, started as Ray Serve starts it, answers with problem documents."""

import os
import re
import signal
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
from tests.waiting import wait_until

CONFIG = """global
    maxconn 100
defaults
    mode http
    timeout connect 1s
    timeout client 500ms
    timeout server 5s
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


def written(directory: Path, port: int) -> list[str]:
    """Write a configuration, and return the command that Serve would start HAProxy by."""
    page, config = directory / "500.http", directory / "haproxy.cfg"
    page.write_text("HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n")
    config.write_text(CONFIG.format(page=page, port=port))
    return [read_settings()[PROGRAM], "-db", "-f", str(config)]


def environment() -> dict[str, str]:
    return {PYTHON: read_settings()[PYTHON], "PATH": "/usr/bin:/bin"}


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port)).close()
    except OSError:
        return False
    return True


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Port of a HAProxy that was started by the program of the settings."""
    port = free_port()
    command = written(tmp_path, port)
    with subprocess.Popen(command, env=environment(), stderr=subprocess.DEVNULL) as process:
        wait_until(lambda: process.poll() is not None or listens(port), "HAProxy", 30, 0.02)
        yield port
        process.terminate()


def test_haproxy_ends_with_its_node_but_not_with_serves_proxy(tmp_path: Path):
    port = free_port()
    # a raylet, and Serve's proxy below it
    proxy = '"$0" "$@" & wait'
    raylet = f'sh -c \'{proxy}\' "$0" "$@" & echo $! > proxy; wait; while sleep 1; do :; done'
    with subprocess.Popen(
        ["sh", "-c", raylet, *written(tmp_path, port)],
        env=environment(),
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    ) as node:
        wait_until(lambda: listens(port), "HAProxy", 30, 0.02)
        os.kill(int((tmp_path / "proxy").read_text()), signal.SIGKILL)
        time.sleep(5)  # of two looks of the watcher
        assert listens(port)
        node.kill()  # not reaped yet, a zombie
        wait_until(lambda: not listens(port), "the end of HAProxy", 30)


@pytest.mark.parametrize("path", ["/v1/models", "/nothing"])
def test_page_is_a_problem_with_a_trace_id(port: int, path: str):
    first, second = (httpx.get(f"http://127.0.0.1:{port}{path}") for _ in range(2))
    assert first.headers["content-type"] == "application/problem+json"
    problem = first.json()
    assert (first.status_code, problem["status"]) == (503, 503)
    assert re.fullmatch("[0-9a-f]{32}", problem["trace_id"])
    assert first.headers["x-trace-id"] == problem["trace_id"] != second.json()["trace_id"]
    assert first.headers["retry-after"] == "5"


def sent(port: int, text: bytes) -> bytes:
    """Send an unfinished request, and return the answer once the connection is closed."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as opened:
        opened.sendall(text)
        return b"".join(iter(lambda: opened.recv(4096), b""))


def test_unfinished_body_is_answered_with_a_problem(port: int):
    answer = sent(port, b"POST /v1/x HTTP/1.1\r\nhost: a\r\ncontent-length: 100\r\n\r\n{")
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 408")), answer
    assert b"application/problem+json" in answer


@pytest.mark.parametrize("text", [b"", b"GET /v1/models HTTP/1.1\r\nhost: a\r\n"])
def test_connection_whose_headers_do_not_arrive_is_closed(port: int, text: bytes):
    began = time.monotonic()
    sent(port, text)
    assert time.monotonic() - began < 30


def test_lines_that_are_replaced_are_in_serves_template():
    made = with_pages(HAPROXY_CONFIG_TEMPLATE)
    assert made.count("http-error status") == 5
    assert "errorfile 50" not in made
    (found,) = re.findall(r"^backend default_backend\n.*$", made, re.MULTILINE)
    assert "application/problem+json" in found
    assert with_pages(made) == made
