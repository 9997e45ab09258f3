"""`hydraulic doctor`: each fault is one line with what to do, within seconds."""

import asyncio
import json
import shutil
import socket
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
import yaml

from app.cli import doctor
from app.cli.doctor import LIMIT_S, Finding, Level, examine
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


def test_healthy_installation_ends_with_0_and_json(found: Findings, migrated: str):
    status, out, _ = hydraulic("doctor", "--dsn", migrated, "--json")
    assert status == 0, out
    by_check = {each["check"]: each for each in json.loads(out)}
    assert set(by_check) >= {"python", "packages", "config", "ports", "disk", "database"}
    assert by_check["schema"]["level"] == by_check["clock"]["level"] == "ok"
    assert by_check["weights"]["message"].startswith("shipped versions 1, 2 match")


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
    assert f"expected schema {newest}, found {int(newest) - 1}" in old.message
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
    shutil.copytree(PROJECT_DIR / "app" / "weights" / "1", tmp_path / "weights" / "1")
    (tmp_path / "weights" / "1" / "calibration.json").write_text("{}")
    monkeypatch.setattr(doctor, "_shipped", lambda: tmp_path / "weights")
    real = time.time
    monkeypatch.setattr(doctor.time, "time", lambda: real() - 300)
    findings = found(migrated)
    assert "found 300 s: synchronise" in findings["clock"].message
    assert "found it unknown or revoked" in findings["key"].message
    assert "calibration.json' with SHA-256" in findings["weights"].message
    for check in ("clock", "key", "weights"):
        assert findings[check].level is Level.BROKEN


@pytest.mark.parametrize(
    ("free", "level"), [(0.5e9, Level.BROKEN), (2e9, Level.WARNING), (9e9, Level.OK)]
)
def test_disk_space(found: Findings, monkeypatch: pytest.MonkeyPatch, free: float, level: Level):
    monkeypatch.setattr(
        doctor.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(0, 0, int(free))
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
