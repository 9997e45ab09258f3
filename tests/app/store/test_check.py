"""The suite of `hydraulic store check` passes on both editions, and writes nothing."""

import asyncio
from collections import Counter

import asyncpg
import pytest

from app.cli.main import main
from app.store.check import passed
from app.store.check_server import Check
from app.store.store import Store
from tests.app.store.test_diagnoses import NOW, diagnosis
from tests.conftest import run_sql, with_database
from tests.machines import make_machine
from tests.rows import stored_row


async def counts(dsn: str) -> Counter[str]:
    """Return the numbers of rows of all tables and of objects of the database."""
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    names = await session.fetch(
        "select relname from pg_class where relnamespace = 'public'::regnamespace "
        "and relkind in ('r', 'p')"
    )
    found = Counter(
        {row[0]: await session.fetchval(f'select count(*) from "{row[0]}"') for row in names}
    )
    found["schemas"] = await session.fetchval("select count(*) from pg_namespace")
    found["functions"] = await session.fetchval("select count(*) from pg_proc")
    await session.close()
    return found


def by_name(checks: list[Check]) -> dict[str, Check]:
    return {each.name: each for each in checks}


async def test_suite_passes_and_leaves_the_database_as_it_was(store: Store, database_dsn: str):
    await store.put_equipment(make_machine())
    await store.insert_diagnoses([stored_row(diagnosis("d", NOW))])
    before = await counts(database_dsn)
    checks = await store.check()
    assert [each for each in checks if each.level == "failed"] == []
    assert passed(checks)
    found = by_name(checks)
    facts = await store.facts()
    assert found["schema"].message == f"revision {facts.schema}, edition {facts.edition}"
    part = "chunk" if facts.edition == "timescale" else "partition"
    plans = {name: each.message for name, each in found.items() if name.startswith("plan: ")}
    assert set(plans.values()) == {f"reads one {part} of three"}
    assert len(plans) == 4
    assert found["tenants"].message == "another tenant sees nothing"
    assert "works as hydraulic_application" in found["migrations"].message
    assert await counts(database_dsn) == before


async def test_suite_waits_for_no_lock_of_the_service(store: Store, database_dsn: str):
    session = await asyncpg.connect(database_dsn)
    async with session.transaction():
        for key in ("7207001, 0", "7207002, 1", "7207006, hashtext('check')"):
            await session.execute(f"select pg_advisory_xact_lock({key})")
        assert passed(await asyncio.wait_for(store.check(), 120.0))
    await session.close()


async def test_suite_checks_the_edition_of_the_schema(store: Store, database_dsn: str):
    await run_sql(database_dsn, "update schema_migrations set edition = 'plain'")
    found = by_name(await store.check())
    assert found["schema"].message.endswith("edition plain")
    assert found["plan: readings of an hour"].message == "reads one partition of three"


async def test_database_without_a_schema_is_checked_and_stays_without(server_dsn: str):
    await run_sql(server_dsn, "create database hydraulic_unchecked")
    dsn = with_database(server_dsn, "hydraulic_unchecked")
    store = Store(dsn)
    try:
        checks = await store.check()
        assert passed(checks)
        assert "none yet" in by_name(checks)["schema"].message
        assert await counts(dsn) == await counts(dsn)
        assert not (await store.facts()).schema
    finally:
        await store.close()
        await run_sql(server_dsn, "drop database hydraulic_unchecked with (force)")


async def test_policies_of_the_edition_are_listed(store: Store):
    policies = by_name(await store.check())["policies"]
    assert policies.level == "ok"
    if (await store.facts()).edition == "timescale":
        for name in ("sensor_readings", "diagnosis_rows", "shadow_rows", "component_health"):
            assert f"policy_compression {name}" in policies.message
        assert policies.message.count("policy_refresh_continuous_aggregate") == 3
    else:
        assert "retention_days" in policies.message


async def test_schema_of_a_later_version_fails(store: Store, database_dsn: str):
    await run_sql(database_dsn, "insert into schema_migrations values (999, 'later', 'plain', 'x')")
    checks = await store.check()
    assert not passed(checks)
    assert "found 999: run that version" in by_name(checks)["schema"].message


async def test_login_without_the_right_to_create_fails_with_what_to_do(
    store: Store, database_dsn: str
):
    await run_sql(
        database_dsn, "create role hydraulic_guest", "grant select on all tables in schema public "
        "to hydraulic_guest"
    )  # fmt: skip
    guest = Store(f"{database_dsn}&role=hydraulic_guest")
    try:
        checks = await guest.check()
        assert not passed(checks)
        assert "grant create on the database" in by_name(checks)["rights"].message
    finally:
        await guest.close()
        await run_sql(database_dsn, "drop owned by hydraulic_guest", "drop role hydraulic_guest")


def test_command_prints_a_line_for_each_check_and_ends_with_the_status(
    server_dsn: str, capsys: pytest.CaptureFixture[str]
):
    assert main(["store", "check", "--dsn", server_dsn]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("ok     server")
    assert {line.split()[0] for line in lines} <= {"ok", "short"}
