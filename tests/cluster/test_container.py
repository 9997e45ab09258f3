"""What the containers' command prepares, checks and refuses; `image/` has the whole container."""

import http.server
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cluster import container
from tests.system import PROJECT_DIR

SHIPPED = PROJECT_DIR / "serve_config.yaml"


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers as a service that is ready at one path and not at others."""

    def do_GET(self) -> None:
        status = 200 if self.path == "/ready" else 503
        self.send_response(status)
        self.end_headers()
        self.wfile.write(b"no version is ready")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answering) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_configuration_is_the_shipped_one_on_all_addresses(tmp_path: Path):
    config = tmp_path / "serve_config.yaml"
    assert container.prepare_config(SHIPPED, config)
    made, shipped = yaml.safe_load(config.read_text()), yaml.safe_load(SHIPPED.read_text())
    assert made["http_options"].pop("host") == "0.0.0.0"
    shipped["http_options"].pop("host")
    assert made == shipped
    assert "# health below which a component is in the state" in config.read_text()
    assert [path.name for path in tmp_path.iterdir()] == [config.name]


def test_configuration_that_releases_have_edited_is_kept(tmp_path: Path):
    config = tmp_path / "serve_config.yaml"
    config.write_text("edited: true\n")
    assert not container.prepare_config(SHIPPED, config)
    assert config.read_text() == "edited: true\n"


def test_token_is_made_once_for_its_user_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    monkeypatch.delenv("RAY_AUTH_TOKEN_PATH", raising=False)
    container.prepare_token(tmp_path)
    path = tmp_path / ".ray/auth_token"
    token = path.read_text()
    assert len(token) == 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    container.prepare_token(tmp_path)
    assert path.read_text() == token


def test_token_of_a_secret_is_used_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/run/secrets/ray_auth_token")
    container.prepare_token(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_too_few_open_files_are_refused_before_anything_starts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    with pytest.raises(SystemExit, match="at least 10276 open files, found 1024: raise it"):
        container.raise_open_files()
    applied = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 65536))
    monkeypatch.setattr(resource, "setrlimit", lambda _, limits: applied.append(limits))
    container.raise_open_files()
    assert applied == [(65536, 65536)]


def test_check_says_what_it_found(url: str):
    assert container.check(f"{url}/ready") == ""
    assert container.check(f"{url}/other") == (
        f"expected status 200 of {url}/other, found 503: no version is ready"
    )
    assert "refused" in container.check("http://127.0.0.1:9/")


def test_command_of_the_check_fails_with_its_reason(
    url: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setitem(container.CHECKS, "service", f"{url}/ready")
    monkeypatch.setitem(container.CHECKS, "node", f"{url}/other")
    assert container.main(["check", "service"]) == 0
    assert container.main(["check", "node"]) == 1
    assert "found 503" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        container.main(["check", "node", "--dashboard-host=0.0.0.0"])
