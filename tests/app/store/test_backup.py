"""A backup that is restored has every row, on both editions; a damaged one is refused."""

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import pytest

from app.cli.main import main
from app.core.errors import StoreError
from app.store import backup
from app.store.backup import back_up, manifest_path, read_manifest, restore
from app.store.caller import Caller, acting_as
from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_health import ALL, healthy, insert
from tests.conftest import TIMESCALE_DSN, run_sql, with_database
from tests.machines import make_machine

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOON_US = int(NOON.timestamp()) * 1_000_000
RESTORED = "hydraulic_restored"


async def test_tool_gets_the_password_of_a_query_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    tool = tmp_path / "tool"
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/arguments\nenv > {tmp_path}/variables\n')
    tool.chmod(0o700)
    monkeypatch.setattr(backup, "find_tool", lambda *_: str(tool))
    monkeypatch.setenv("PGHOST", "other")
    monkeypatch.setenv("PGPASSWORD", "of-the-environment")
    for query, password in (
        ("user=u&password=s%26cret&sslpassword=s%26cret&sslmode=disable", "s&cret"),
        ("user=u&sslmode=disable", "of-the-environment"),
    ):
        await backup._run("pg_dump", 15, f"postgresql://host/db?{query}", "--format=custom")
        said = (tmp_path / "arguments").read_text().strip()
        assert said == "--dbname=postgresql://host/db?user=u&sslmode=disable --format=custom"
        variables = (tmp_path / "variables").read_text().splitlines()
        assert f"PGPASSWORD={password}" in variables
        assert "PGHOST=other" not in variables


@pytest.fixture
async def restored_dsn(server_dsn: str):
    await run_sql(server_dsn, f"drop database if exists {RESTORED} with (force)")
    await run_sql(server_dsn, f"create database {RESTORED}")
    yield with_database(server_dsn, RESTORED)
    await run_sql(server_dsn, f"drop database {RESTORED} with (force)")


@pytest.fixture
async def written(store: Store) -> Store:
    """A store with two tenants, readings of three months, diagnoses and a key."""
    for tenant in ("north", "south"):
        await store.create_tenant(tenant)
        machine = f"{tenant}-1"
        with acting_as(Caller(tenant, "test")):
            await store.put_equipment(make_machine(machine))
            await store.create_key("line", ["read"])
        times = [
            NOON_US + (day * 86_400 + second) * 1_000_000 for day in (0, 40, 80)
            for second in range(30)
        ]  # fmt: skip
        await store.ingest_many([Readings(machine, ["PS1"] * 90, times, [1.5] * 90)])
        made = [
            healthy(f"{machine}-{n}", NOON + timedelta(hours=n), 0.5, "watch", machine)
            for n in range(5)
        ]
        await insert(store, *made)
    return store


async def contents(store: Store) -> dict[str, object]:
    """Return what a user can read of a store."""
    found: dict[str, object] = {"fleet": await store.health_of_fleet(*ALL)}
    for machine in ("north-1", "south-1"):
        found[machine] = (
            await store.get_equipment(machine),
            await store.diagnosis_history(machine, None, None, 100),
            await store.grid_digests([(machine, NOON_US, NOON_US + 90 * 86_400_000_000)]),
            await store.health_of(machine, *ALL),
        )
    found["keys"] = await store.list_keys()
    found["audit"] = await store.verify_audit()
    return found


@pytest.mark.skipif(bool(TIMESCALE_DSN), reason="TimescaleDB has superusers alone restore")
async def test_owner_that_policies_apply_to_restores_every_row(
    written: Store, server_dsn: str, database_dsn: str, tmp_path: Path
):
    name = "hydraulic_restorer"
    file = tmp_path / "hydraulic.dump"
    made = await back_up(database_dsn, file)
    await run_sql(
        server_dsn,
        f"create role {name} login createrole",
        f"grant hydraulic_application to {name} with admin option",
        f"create database {name} owner {name}",
    )
    dsn = f"{with_database(server_dsn, name)}&options=-c%20role%3D{name}"
    try:
        assert await restore(dsn, file) == made
    finally:
        await run_sql(server_dsn, f"drop database {name} with (force)", f"drop role {name}")


async def test_everything_is_restored_and_the_restored_store_works(
    written: Store, database_dsn: str, restored_dsn: str, tmp_path: Path
):
    await written.refresh_aggregates()
    before = await contents(written)
    file = tmp_path / "hydraulic.dump"
    made = await back_up(database_dsn, file)
    assert made == read_manifest(file)
    assert made.rows["sensor_readings"] == 180
    assert file.stat().st_mode & 0o077 == 0

    assert await restore(restored_dsn, file) == made

    after = Store(restored_dsn)
    try:
        assert await contents(after) == before
        with acting_as(Caller("north")):
            assert await after.find_equipment() == ["north-1"]
            assert await after.diagnosis_history("south-1", None, None, 100) == []
        facts = await after.facts()
        assert (facts.schema, facts.edition) == (made.schema_revision, made.edition)
        await after.migrate()
        await insert(after, healthy("later", NOON, 0.25, "watch", "north-1"))
        later = Readings("north-1", ["PS1"], [NOON_US + 200 * 86_400_000_000], [1.0])
        assert (await after.ingest_many([later]))[0] == 1
        await after.refresh_aggregates()
        assert (await after.health_of("north-1", *ALL))[0].diagnoses[0] == 2
        async with after._database.session() as session:
            assert await session.fetchval("select current_user") == "hydraulic_application"
    finally:
        await after.close()


async def test_backup_is_of_one_moment_while_writers_go_on(
    written: Store, database_dsn: str, restored_dsn: str, tmp_path: Path
):
    stop = asyncio.Event()

    async def write() -> int:
        number = 0
        while not stop.is_set():
            number += 1
            await insert(written, healthy(f"w{number}", NOON, 0.5, "watch", "north-1"))
        return number

    writer = asyncio.create_task(write())
    file = tmp_path / "hydraulic.dump"
    made = await back_up(database_dsn, file)
    stop.set()
    assert await writer > 0
    await restore(restored_dsn, file)
    after = Store(restored_dsn)
    await after.refresh_aggregates()
    # in the snapshot hourly health has the diagnoses that are in it
    machine = await after.health_of("north-1", *ALL)
    of_machine = len(await after.diagnosis_history("north-1", None, None, 100_000))
    assert sum(machine[0].diagnoses) == of_machine
    await after.close()
    tables = {"diagnoses", "diagnosis_rows"} & made.rows.keys()
    assert made.rows[tables.pop()] == of_machine + 5


async def test_cut_off_file_and_missing_manifest_are_refused(
    written: Store, database_dsn: str, restored_dsn: str, tmp_path: Path
):
    file = tmp_path / "hydraulic.dump"
    await back_up(database_dsn, file)
    whole = file.read_bytes()
    file.write_bytes(whole[:-100])
    with pytest.raises(StoreError, match="cut off or changed"):
        await restore(restored_dsn, file)
    file.write_bytes(whole)
    manifest_path(file).rename(tmp_path / "elsewhere.json")
    with pytest.raises(StoreError, match=r"with its manifest hydraulic\.dump\.json"):
        await restore(restored_dsn, file)


async def test_database_with_a_schema_and_existing_file_are_not_overwritten(
    written: Store, database_dsn: str, tmp_path: Path
):
    file = tmp_path / "hydraulic.dump"
    await back_up(database_dsn, file)
    with pytest.raises(StoreError, match="expected an empty database"):
        await restore(database_dsn, file)
    with pytest.raises(StoreError, match="expected the name of a new file"):
        await back_up(database_dsn, file)


async def test_database_with_other_clients_is_refused(
    written: Store,
    database_dsn: str,
    restored_dsn: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    file = tmp_path / "hydraulic.dump"
    await back_up(database_dsn, file)
    monkeypatch.setattr(backup, "_LEAVING_S", 1)
    other = await asyncpg.connect(restored_dsn)
    with pytest.raises(StoreError, match="no other client of the database, found 1: stop the"):
        await restore(restored_dsn, file)
    await other.close()
    await restore(restored_dsn, file)


async def test_missing_rows_are_found(
    written: Store, database_dsn: str, restored_dsn: str, tmp_path: Path
):
    file = tmp_path / "hydraulic.dump"
    made = await back_up(database_dsn, file)
    text = json.loads(made.model_dump_json())
    text["rows"]["sensor_readings"] += 1
    manifest_path(file).write_text(json.dumps(text))
    with pytest.raises(StoreError, match="found sensor_readings 180 of 181"):
        await restore(restored_dsn, file)


async def test_login_that_policies_apply_to_is_refused(
    written: Store, database_dsn: str, tmp_path: Path
):
    with pytest.raises(StoreError, match="bypassrls"):
        await back_up(f"{database_dsn}&role=hydraulic_application", tmp_path / "x.dump")
    assert list(tmp_path.iterdir()) == []


def test_commands_back_up_and_restore(
    server_dsn: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    source, target = (with_database(server_dsn, f"hydraulic_cli_{name}") for name in ("a", "b"))
    for name in ("a", "b"):
        asyncio.run(run_sql(server_dsn, f"create database hydraulic_cli_{name}"))
    try:
        assert main(["tenants", "create", "plant-north", "--dsn", source]) == 0
        file = str(tmp_path / "x.dump")
        assert main(["store", "backup", "--out", file, "--dsn", source]) == 0
        assert "rows of" in capsys.readouterr().out
        assert main(["store", "restore", file, "--dsn", target]) == 0
        assert "the audit log is intact" in capsys.readouterr().out
        assert main(["tenants", "list", "--dsn", target]) == 0
        assert "plant-north" in capsys.readouterr().out
    finally:
        for name in ("a", "b"):
            drop = f"drop database hydraulic_cli_{name} with (force)"
            asyncio.run(run_sql(server_dsn, drop))
