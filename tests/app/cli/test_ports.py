"""Check of the ports before a start."""

import socket
from pathlib import Path

import pytest

from app.cli.ports import main, ports_of
from tests.system import PROJECT_DIR, free_port

CONFIG = PROJECT_DIR / "serve_config.yaml"


def config_of(directory: Path, port: int) -> Path:
    path = directory / "serve_config.yaml"
    path.write_text(f"http_options:\n  port: {port}\n")
    return path


def test_ports_are_those_of_the_configuration_and_the_environment():
    assert [port.number for port in ports_of(CONFIG, {"RAY_SERVE_ENABLE_HA_PROXY": "0"})] == [8000]
    moved = {"RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_STATS_PORT": "18404"}
    assert [port.number for port in ports_of(CONFIG, moved)] == [8000, 9101, 18404, 8500]


def test_message_names_a_taken_port_and_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        assert main(config_of(tmp_path, port)) == 1
    assert capsys.readouterr().err == (
        f"error: expected port {port} to be free for HTTP, found another process listening on it: "
        "stop that process (the service may be running already), or set http_options.port in "
        "serve_config.yaml\n"
    )


def test_free_ports_give_no_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    assert main(config_of(tmp_path, free_port())) == 0
    assert capsys.readouterr().err == ""
