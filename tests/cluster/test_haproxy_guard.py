"""HAProxy as Serve starts it: closed to other users and other machines, and HTTPS where set."""

import os
import re
import socket
import ssl
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import psutil
import pytest
from ray.serve._private.haproxy_templates import HAPROXY_CONFIG_TEMPLATE

from cluster.haproxy_guard import close_directories, with_guards
from cluster.ray_settings import PROGRAM, PYTHON, read_settings
from tests.certificates import Certificates
from tests.system import free_port

CONFIG = """global
    maxconn 100
    stats socket {socket} mode 666 level admin expose-fd listeners
defaults
    mode http
    timeout connect 1s
    timeout client 5s
    timeout server 5s
frontend prometheus
    bind :{metrics}
    mode http
    http-request use-service prometheus-exporter if {{ path /metrics }}
frontend http_frontend
    bind 127.0.0.1:{port}
    default_backend default_backend
backend default_backend
    http-request return status 404 content-type text/plain lf-string "Path \\'%[path]\\' not found."
listen stats
  bind *:{stats}
  stats enable
  stats uri /stats
"""
"""The lines of Serve's template that count here."""

Ports = dict[str, int]
Started = Callable[..., Ports]


def listens(pid: int, port: int) -> bool:
    return any(
        each.status == psutil.CONN_LISTEN and each.laddr.port == port
        for each in psutil.Process(pid).net_connections("inet")
    )


@contextmanager
def haproxy(directory: Path, **variables: str) -> Iterator[Ports]:
    """Start HAProxy by the program of the settings, and yield its ports by name."""
    ports = {name: free_port() for name in ("port", "metrics", "stats")}
    (directory / "sockets").mkdir(mode=0o755)
    config = directory / "haproxy.cfg"
    config.write_text(CONFIG.format(socket=directory / "sockets" / "admin.sock", **ports))
    settings = read_settings()
    environment = {PYTHON: settings[PYTHON], "PATH": "/usr/bin:/bin"} | variables
    command = [settings[PROGRAM], "-db", "-f", str(config)]
    with subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        admin = directory / "sockets" / "admin.sock"
        while process.poll() is None and time.monotonic() < deadline:
            # another test's server may have taken the port
            if admin.exists() and listens(process.pid, ports["port"]):
                break
            time.sleep(0.05)
        assert process.poll() is None
        yield ports | {"pid": process.pid}
        process.terminate()


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Started]:
    with ExitStack() as stack:
        yield lambda **variables: stack.enter_context(haproxy(tmp_path, **variables))


def test_admin_socket_is_for_the_user_of_haproxy_alone(start: Started, tmp_path: Path):
    start()
    admin = tmp_path / "sockets" / "admin.sock"
    assert stat.S_IMODE(admin.stat().st_mode) == 0o600
    assert stat.S_IMODE(admin.parent.stat().st_mode) == 0o700
    with socket.socket(socket.AF_UNIX) as session:
        session.connect(str(admin))
        session.sendall(b"show info\n")
        assert b"Name: HAProxy" in session.recv(1000)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user_can_not_open_the_admin_socket(start: Started, tmp_path: Path):
    for directory in (tmp_path, *tmp_path.parents):
        if directory.owner() == "root" and str(directory).startswith("/tmp/pytest"):
            directory.chmod(0o755)
    start()
    program = "import socket,sys; socket.socket(socket.AF_UNIX).connect(sys.argv[1])"
    done = subprocess.run(
        ["/usr/bin/python3", "-c", program, str(tmp_path / "sockets" / "admin.sock")],
        user="nobody",
        capture_output=True,
        text=True,
        check=False,
    )
    assert "PermissionError" in done.stderr


def test_all_ports_listen_on_loopback(start: Started):
    ports = start()
    listening = {
        each.laddr.port: each.laddr.ip
        for each in psutil.Process(ports["pid"]).net_connections("inet")
        if each.status == psutil.CONN_LISTEN
    }
    assert listening == {
        ports["port"]: "127.0.0.1",
        ports["metrics"]: "127.0.0.1",
        ports["stats"]: "127.0.0.1",
    }
    assert "haproxy" in httpx.get(f"http://127.0.0.1:{ports['metrics']}/metrics").text


def test_pages_of_haproxy_have_the_header_against_guessed_types(start: Started):
    ports = start()
    answer = httpx.get(f"http://127.0.0.1:{ports['port']}/nothing")
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_https_is_answered_with_the_certificate_of_the_settings(
    start: Started, certificates: Certificates
):
    port = free_port()
    ports = start(
        HYDRAULIC_TLS_CERTIFICATE=str(certificates.server),
        HYDRAULIC_TLS_BIND=f"127.0.0.1:{port}",
    )
    trusting = ssl.create_default_context(cafile=str(certificates.authority))
    answer = httpx.get(f"https://localhost:{port}/nothing", verify=trusting)
    assert answer.status_code == 503
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.get(f"https://localhost:{port}/nothing")
    assert httpx.get(f"http://127.0.0.1:{ports['port']}/nothing").status_code == 503


def test_lines_that_are_replaced_are_in_serves_template():
    made = with_guards(HAPROXY_CONFIG_TEMPLATE, "/tls.pem", "0.0.0.0:8443")
    assert "mode 600 level admin" in made
    assert "mode 666" not in made
    assert made.count("http-after-response") == 1
    assert "    bind 0.0.0.0:8443 ssl crt /tls.pem ssl-min-ver TLSv1.2\n" in made
    filled = re.sub(r"\{\{ config\.(metrics|stats)_port \}\}", "1", HAPROXY_CONFIG_TEMPLATE)
    closed = with_guards(filled)
    assert re.findall(r"^ *bind .*:1$", closed, re.MULTILINE) == [
        "    bind 127.0.0.1:1",
        "  bind 127.0.0.1:1",
    ]
    assert with_guards(closed) == closed


def test_directory_of_another_user_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("cluster.haproxy_guard.os.geteuid", lambda: 12345)
    with pytest.raises(SystemExit, match="RAY_SERVE_HAPROXY_SOCKET_PATH"):
        close_directories(f"    stats socket {tmp_path}/admin.sock mode 600 level admin\n")


def test_link_to_a_directory_is_refused(tmp_path: Path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    with pytest.raises(SystemExit, match="to be a directory"):
        close_directories(f"    stats socket {tmp_path}/link/admin.sock mode 600 level admin\n")
