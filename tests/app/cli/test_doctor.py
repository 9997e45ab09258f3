"""`hydraulic doctor`: each fault is one line with what to do, within seconds."""

import asyncio
import errno
import json
import os
import re
import shutil
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml

from app.cli import doctor, installation
from app.cli.doctor import LIMIT_S, examine
from app.cli.installation import Finding, Level
from app.store.store import Store
from tests.command_line import hydraulic
from tests.conftest import run_sql, with_database
from tests.system import PROJECT_DIR, free_port

Findings = Callable[[str | None], dict[str, Finding]]


@pytest.fixture
def port(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """The port of a configuration whose data directory is empty."""
    port = free_port()
    config = yaml.safe_load((PROJECT_DIR / "serve_config.yaml").read_text())
    config["http_options"]["port"] = port
    (tmp_path / "serve.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.setenv("HYDRAULIC_SERVE_CONFIG", str(tmp_path / "serve.yaml"))
    monkeypatch.setenv("HYDRAULIC_VAR_DIR", str(tmp_path / "var"))
    monkeypatch.setenv("HYDRAULIC_API_KEY", "x" * 32)
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "0")
    return port


@pytest.fixture
def found(port: int) -> Findings:
    """The findings by check."""
    return lambda dsn: {finding.check: finding for finding in examine(dsn)}


@pytest.fixture
def migrated(database_dsn: str) -> str:
    """A database with the schema of this version."""

    async def migrate() -> None:
        store = Store(database_dsn)
        await store.migrate()
        await store.close()

    asyncio.run(migrate())
    return database_dsn


@contextmanager
def answering(answers: Mapping[str, tuple[int, object]], port: int = 0) -> Iterator[str]:
    """Serve a status and JSON for each path meanwhile, and yield the address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[self.path]
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(body).encode())

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def change_config(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "serve.yaml"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new))


def test_healthy_installation_ends_with_0_and_json(found: Findings, migrated: str):
    status, out, _ = hydraulic("doctor", "--dsn", migrated, "--json")
    assert status == 0, out
    by_check = {each["check"]: each for each in json.loads(out)}
    assert set(by_check) >= {"python", "packages", "config", "ports", "disk", "database"}
    assert by_check["schema"]["level"] == by_check["clock"]["level"] == "ok"
    assert by_check["weights"]["message"] == "version 2: the files match their manifest"


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("postgresql://u:secret@127.0.0.1:1/x", "found no server at that host and port"),
        ("postgresql://u:secret@nowhere.invalid/x", "found no host of that name"),
        ("mysql://u:secret@127.0.0.1/x", "expected a DSN as postgresql://"),
    ],
)
def test_wrong_address_is_found_at_once_without_the_password(port: int, dsn: str, message: str):
    started = time.monotonic()
    status, out, err = hydraulic("doctor", "--dsn", dsn)
    assert time.monotonic() - started < 30  # it waited for 65 s
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("broken")]
    assert message in line
    assert "secret" not in out + err


def test_wrong_database_name_is_named(found: Findings, database_dsn: str):
    finding = found(with_database(database_dsn, "no_such_database"))["database"]
    assert finding.level is Level.BROKEN
    assert "expected the database that the DSN names, found none of that name" in finding.message


def test_server_that_does_not_answer_costs_the_limit_only(
    found: Findings, monkeypatch: pytest.MonkeyPatch
):
    assert LIMIT_S <= 5
    monkeypatch.setattr(doctor, "LIMIT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        finding = found(f"postgresql://127.0.0.1:{silent.getsockname()[1]}/x")["database"]
    assert finding.level is Level.BROKEN
    assert "expected the database to answer in time" in finding.message


def test_taken_port_is_named(found: Findings, port: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "LIMIT_S", 0.3)
    with closing(socket.create_server(("127.0.0.1", port))):
        finding = found("postgresql://127.0.0.1:1/x")["ports"]
    assert finding.level is Level.BROKEN
    assert f"expected port {port} to be free for HTTP, found another process" in finding.message


def test_old_and_later_schemas_are_found(found: Findings, migrated: str):
    newest = found(migrated)["schema"].message.removeprefix("revision ")
    asyncio.run(run_sql(migrated, f"delete from schema_migrations where version = {newest}"))
    old = found(migrated)["schema"]
    assert old.level is Level.WARNING
    assert re.search(rf"expected schema {newest}, found \d+: the next start", old.message)
    asyncio.run(
        run_sql(migrated, "insert into schema_migrations values (9000, 'x', 'plain', 'x', now())")
    )
    later = found(migrated)["schema"]
    assert (later.level, "found 9000" in later.message) == (Level.BROKEN, True)


def test_clock_key_and_changed_weights_are_found(
    found: Findings, migrated: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("HYDRAULIC_API_KEY")
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "api_key").write_text("hd_unknown")
    shutil.copytree(PROJECT_DIR / "app" / "weights" / "2", tmp_path / "weights")
    (tmp_path / "weights" / "calibration.json").write_text("{}")
    change_config(tmp_path, "app/weights/2", str(tmp_path / "weights"))
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - 300)
    findings = found(migrated)
    assert "found 300 s: synchronise" in findings["clock"].message
    assert "found it unknown or revoked" in findings["key"].message
    assert findings["weights"].message.startswith("version 2: expected")
    assert "calibration.json' with SHA-256" in findings["weights"].message
    for check in ("clock", "key", "weights"):
        assert findings[check].level is Level.BROKEN


@pytest.mark.parametrize(
    ("free", "level"), [(0.5e9, Level.BROKEN), (2e9, Level.WARNING), (9e9, Level.OK)]
)
def test_disk_space(found: Findings, monkeypatch: pytest.MonkeyPatch, free: float, level: Level):
    monkeypatch.setattr(
        installation.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(free))
    )
    assert found("postgresql://127.0.0.1:1/x")["disk"].level is level


def test_invalid_setting_is_named_without_its_value(
    found: Findings, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRAULIC_API_KEY", "short")
    finding = found(None)["settings"]
    assert "found invalid HYDRAULIC_API_KEY" in finding.message
    assert "short" not in finding.message


def test_embedded_server_is_not_started(found: Findings, tmp_path: Path):
    assert "does not run; the service starts it" in found(None)["database"].message
    assert not (tmp_path / "var").exists()


def test_unknown_settings_are_named_with_the_nearest_one(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("HYDRAULIC_GIT_REVISION", "0" * 40)
    assert "settings" not in found(None)
    monkeypatch.setenv("HYDRAULIC_POOLSIZE", "3")
    finding = found(None)["settings"]
    assert finding.level is Level.WARNING
    for part in ("in the environment, found HYDRAULIC_POOLSIZE", "mean HYDRAULIC_POOL_SIZE?"):
        assert part in finding.message
    (tmp_path / ".env").write_text("HYDRAULIC_DSM=x\n")
    monkeypatch.setattr(installation, "PROJECT_DIR", tmp_path)
    message = found(None)["settings"].message
    assert (
        "in .env, found HYDRAULIC_DSM, which has no effect: did you mean HYDRAULIC_DSN" in message
    )


@pytest.mark.parametrize(
    ("level", "statement", "message"),
    [
        (Level.OK, "select 1", "edition plain"),
        (
            Level.BROKEN,
            "update schema_migrations set edition = 'timescale'",
            "expected the extension timescaledb in this database, whose schema was made with it",
        ),
        (
            Level.WARNING,
            "drop table schema_migrations",
            "expected TimescaleDB on the server, found PostgreSQL",
        ),
    ],
)
def test_missing_timescaledb_is_explained(
    found: Findings, migrated: str, level: Level, statement: str, message: str
):
    asyncio.run(run_sql(migrated, statement))
    finding = found(migrated)["database"]
    assert (finding.level, message in finding.message) == (level, True), finding


def test_gpu_without_its_driver_is_found_where_one_is_needed(
    found: Findings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    assert "gpu" not in found(None)
    change_config(tmp_path, "num_gpus: 0", "num_gpus: 1")
    monkeypatch.setattr(installation, "cuda_fault", lambda: "no driver (libcuda.so.1)")
    finding = found(None)["gpu"]
    assert finding.level is Level.BROKEN
    for part in ("with its driver for model-1, model-2, found no driver", "or set num_gpus: 0"):
        assert part in finding.message
    monkeypatch.setattr(installation, "cuda_fault", lambda: None)
    assert found(None)["gpu"].level is Level.OK
    monkeypatch.setattr(installation.util, "find_spec", lambda _: None)
    assert "expected torch for model-1" in found(None)["gpu"].message


def test_wrong_ray_is_found_here_and_on_a_running_cluster(
    found: Findings, monkeypatch: pytest.MonkeyPatch
):
    real = installation.metadata.version
    versions = {"ray": "2.9.0"}
    monkeypatch.setattr(
        installation.metadata, "version", lambda each: versions.get(each, real(each))
    )
    finding = found(None)["packages"]
    assert finding.level is Level.BROKEN
    for part in ("expected ray>=", "(found 2.9.0): run `pip install --constraint"):
        assert part in finding.message
    with answering({"/api/version": (200, {"ray_version": "2.60.0"})}) as address:
        monkeypatch.setenv("RAY_DASHBOARD_ADDRESS", address)
        message = found(None)["cluster"].message
        assert "expected ray 2.9.0, as installed here, on the cluster at" in message
        assert "found 2.60.0: install that one here" in message
        versions["ray"] = "2.60.0"
        assert found(None)["cluster"].level is Level.OK


def test_missing_checkpoint_of_a_release_is_found(found: Findings, tmp_path: Path):
    change_config(tmp_path, "app/weights/2", "var/runs/lost")
    finding = found(None)["weights"]
    assert finding.level is Level.BROKEN
    for part in ("version 2: expected a checkpoint with checkpoint.json", "name a directory"):
        assert part in finding.message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errno.EROFS, "found a file system that is mounted read-only: mount it for writing"),
        (errno.EACCES, "found: Permission denied: change its owner, or set HYDRAULIC_VAR_DIR"),
    ],
)
def test_disk_that_can_not_be_written_is_found(
    found: Findings, monkeypatch: pytest.MonkeyPatch, error: int, message: str
):
    def refuse(**_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(installation.tempfile, "TemporaryFile", refuse)
    finding = found(None)["disk"]
    assert (finding.level, message in finding.message) == (Level.BROKEN, True), finding


def test_key_that_the_running_service_does_not_know_is_found(
    found: Findings, tmp_path: Path, port: int
):
    ready, refused = {"ready": True}, {"detail": "unknown"}
    answers = {"/health/ready": (200, ready), "/v1/traffic": (401, refused)}
    with answering(answers, port):
        finding = found(None)["key"]
        assert finding.level is Level.BROKEN
        assert "to accept the key of HYDRAULIC_API_KEY, found that it does" in finding.message
    with answering(answers | {"/v1/traffic": (200, {})}, port):
        assert "key" not in found(None)
