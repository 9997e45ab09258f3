"""Row-level security: a tenant sees and changes its own rows only."""

import re
from datetime import UTC, datetime

import asyncpg
import pytest

from app.core.errors import ConflictError
from app.store.caller import NOBODY, SERVICE, Caller, acting_as
from app.store.diagnoses import ShadowAnswer
from app.store.migrate import read_migrations
from app.store.pool import PoolLimits
from app.store.readings import Readings
from app.store.statements import queries
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.conftest import run_sql, with_database
from tests.machines import make_machine
from tests.rows import stored_row

NORTH, SOUTH = Caller("north", "north's key"), Caller("south", "south's key")
NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000
BY_EQUIPMENT = {"sensor_readings", "sensor_grid", "equipment_sensors"}
"""Tables without a policy, which statements reach through `equipment`."""
WITHOUT_TENANT = {
    "schema_migrations",
    "audit_head",
    "releases",
    "fleet_runs",
    "rate_counts",
    "health_pending",
}
"""Tables of the installation; releases and fleet runs are the operator's."""

BEHIND_VIEWS = {"diagnosis_rows", "shadow_rows", "component_health"}
"""On TimescaleDB, which compresses no table with a policy; the application has no right to them."""


@pytest.fixture
async def two(store: Store) -> Store:
    """A store in which each of two tenants has a machine with readings and a diagnosis."""
    for caller in (NORTH, SOUTH):
        assert caller.tenant is not None
        await store.create_tenant(caller.tenant)
        with acting_as(caller):
            machine_id = f"{caller.tenant}-1"
            await store.put_equipment(make_machine(machine_id))
            await store.ingest_many([Readings(machine_id, ["PS1"], [NOW_US], [1.0])])
            await store.create_key("admin", ["admin"])
        made = diagnosis(caller.tenant, NOW, equipment_id=machine_id)
        await store.insert_diagnoses([stored_row(made)._replace(tenant=caller.tenant)])
        await store.insert_shadow_answers([ShadowAnswer(made, "0", 0.1, 0.1, caller.tenant)])
    return store


async def test_tenant_sees_its_own_equipment_readings_diagnoses_and_keys(two: Store):
    with acting_as(NORTH):
        assert await two.find_equipment() == ["north-1"]
        assert await two.get_equipment("south-1", deleted=True) is None
        mine, other = await two.read_windows(
            [("north-1", NOW_US // 1_000_000, 1), ("south-1", NOW_US // 1_000_000, 1)]
        )
        assert (mine.count, other.count, other.slot_sensors, other.revision) == (1, 0, (), "")
        assert await two.get_diagnosis("north") is not None
        assert await two.get_diagnosis("south") is None
        assert await two.diagnosis_history("south-1", None, None, 10) == []
        assert [key.tenant for key in await two.list_keys()] == ["north"]
        assert [each.tenant for each in await two.list_tenants()] == ["north"]
        assert {each.tenant for each in await two.audit_page(100)} == {"north"}
    assert await two.find_equipment() == ["north-1", "south-1"]
    assert len(await two.list_keys()) == 2


async def test_tenant_can_not_write_to_another_ones_equipment(two: Store):
    with acting_as(NORTH):
        with pytest.raises(ConflictError, match="no other tenant uses, found 'south-1'"):
            await two.put_equipment(make_machine("south-1"))
        assert await two.delete_equipment("south-1", "x") is None
        assert await two.purge_equipment("south-1", "x", 10.0) is None
        unknown = Readings("south-1", ["PS1"], [NOW_US + 1], [2.0])
        with pytest.raises(Exception, match="south-1"):
            await two.ingest_many([unknown])
        with pytest.raises(Exception, match="south-1"):
            await two.replace_interval(
                unknown._replace(times_us=[NOW_US]), NOW, NOW.replace(hour=13), "x"
            )
    with acting_as(SOUTH):
        (window,) = await two.read_windows([("south-1", NOW_US // 1_000_000, 1)])
        assert window.count == 1
        assert await two.get_diagnosis("south") is not None


async def test_nobody_sees_nothing(two: Store):
    with acting_as(NOBODY):
        assert await two.find_equipment() == []
        assert await two.get_diagnosis("north") is None
        assert await two.list_keys() == []
        assert await two.audit_page(10) == []


async def test_moved_equipment_takes_its_history_along(two: Store):
    assert await two.move_equipment("south", ["north-1", "none"]) == ["north-1"]
    with acting_as(NORTH):
        assert await two.find_equipment() == []
        assert await two.get_diagnosis("north") is None
    with acting_as(SOUTH):
        assert await two.find_equipment() == ["north-1", "south-1"]
        assert await two.get_diagnosis("north") is not None
        entry = (await two.audit_page(1))[0]
        assert (entry.action, entry.details) == (
            "move_equipment",
            {"from": "north", "to": "south"},
        )


async def test_diagnosis_without_a_tenant_belongs_to_that_of_its_machine(two: Store):
    await two.insert_diagnoses(
        [stored_row(diagnosis(name, NOW, equipment_id=f"{name[:5]}-1")) for name in ("north b",)]
    )
    with acting_as(NORTH):
        assert await two.get_diagnosis("north b") is not None
    with acting_as(SOUTH):
        assert await two.get_diagnosis("north b") is None


async def test_application_works_as_a_role_that_owns_no_table(store: Store, database_dsn: str):
    await store.ping()
    async with store._database.session() as session:
        assert await session.fetchval("select current_user") == "hydraulic_application"
    async with store._database.patient_session() as session:
        assert await session.fetchval("select current_user") == "hydraulic_application"
    owner = await asyncpg.connect(database_dsn)
    owners = await owner.fetch(
        "select tableowner from pg_tables where schemaname = 'public' "
        "and tableowner = 'hydraulic_application'"
    )
    await owner.close()
    assert owners == []


async def test_each_table_has_a_forced_policy_or_is_named_here(database_dsn: str):
    session = await asyncpg.connect(database_dsn)
    found = {
        row["relname"]: (row["relrowsecurity"], row["relforcerowsecurity"])
        for row in await session.fetch(
            "select relname, relrowsecurity, relforcerowsecurity from pg_class "
            "where relnamespace = 'public'::regnamespace and relkind in ('r', 'p') "
            "and not relispartition"
        )
    }
    await session.close()
    without = {name for name, flags in found.items() if flags != (True, True)}
    assert without - BEHIND_VIEWS == BY_EQUIPMENT | WITHOUT_TENANT


async def test_application_has_a_right_to_views_with_a_tenant_and_not_to_what_is_behind_them(
    database_dsn: str,
):
    session = await asyncpg.connect(database_dsn)
    granted = {
        row["relname"]: row["definition"]
        for row in await session.fetch(
            "select relname, pg_get_viewdef(oid) as definition from pg_class "
            "where relnamespace = 'public'::regnamespace and relkind in ('r', 'p', 'v', 'm') "
            "and not relispartition and has_any_column_privilege("
            "'hydraulic_application', oid, 'select, insert, update')"
        )
    }
    await session.close()
    assert not BEHIND_VIEWS & granted.keys()
    views = {name for name, definition in granted.items() if definition is not None}
    # readings have no tenant of their own: their key is looked up in `equipment`
    for name in views - {"readings_per_minute"}:
        assert "sees(" in granted[name], name
    assert {"health_hourly", "fleet_health_hourly", "diagnoses"} <= granted.keys()


def test_statements_reach_series_through_equipment_or_its_key():
    """No statement reads a table without a policy by a name that a caller sent."""
    for name, statement in queries().items():
        if not re.search(
            rf"\b(from|join) ({'|'.join([*BY_EQUIPMENT, 'readings_per_minute'])})\b", statement
        ):
            continue
        by_key = "equipment_key = $1" in statement or "equipment_key = $1::integer" in statement
        assert by_key or re.search(r"\b(from|join) equipment\b", statement), name


def test_functions_that_read_series_by_name_look_the_name_up_in_equipment():
    text = "\n".join(step.text for step in read_migrations())
    for body in re.findall(
        r"create (?:or replace )?function (\w+\([^$]*?(?:text\[\]|machine text)[^$]*?\$\$.*?\$\$)",
        text,
        re.DOTALL,
    ):
        if re.search(rf"\b({'|'.join(BY_EQUIPMENT)})\b", body):
            assert re.search(r"\b(from|join) equipment\b", body), body[:40]


async def test_partition_can_not_be_read_past_its_table(two: Store, database_dsn: str):
    name = f"diagnoses_{NOW:%Y_%m}"
    session = await asyncpg.connect(database_dsn)
    is_partitioned = await session.fetchval("select to_regclass($1) is not null", name)
    await session.close()
    if not is_partitioned:
        pytest.skip("TimescaleDB has chunks instead of partitions")
    with pytest.raises(asyncpg.InsufficientPrivilegeError):
        await run_sql(database_dsn, "set role hydraulic_application", f"select from {name}")


async def test_owner_without_superuser_rights_is_subject_to_the_policies(
    two: Store, database_dsn: str
):
    """FORCE: as a login that may not create roles goes on as the owner."""
    session = await asyncpg.connect(database_dsn)
    transaction = session.transaction()
    await transaction.start()
    try:
        await session.execute("create role owner_of_tables")
        await session.execute("alter table equipment owner to owner_of_tables")
        await session.execute("set local role owner_of_tables")
        assert await session.fetchval("select count(*) from equipment") == 0
        await session.execute("set local hydraulic.tenant = 'north'")
        assert await session.fetchval("select count(*) from equipment") == 1
    finally:
        await transaction.rollback()
        await session.close()


async def test_settings_of_a_transaction_end_with_it_also_behind_pgbouncer(
    two: Store, database_dsn: str
):
    pooled = Store(database_dsn, PoolLimits(max_size=1, statement_cache_size=0))
    with acting_as(NORTH):
        assert await pooled.find_equipment() == ["north-1"]
        async with pooled._database.session() as session:
            assert await session.fetchval("select current_user") == "hydraulic_application"
    session = await pooled._database._pool.acquire()  # type: ignore[union-attr]
    assert await session.fetchval("select current_setting('hydraulic.tenant', true)") in ("", None)
    await pooled._database._pool.release(session)  # type: ignore[union-attr]
    with acting_as(SERVICE):
        assert await pooled.find_equipment() == ["north-1", "south-1"]
    await pooled.close()


@pytest.mark.parametrize("may_create_roles", [True, False])
async def test_login_without_superuser_rights_works_as_the_application_or_as_a_subject_owner(
    server_dsn: str, may_create_roles: bool
):
    """Where the login may not administer roles, FORCE subjects it to the policies as the owner."""
    name = f"hydraulic_plant_{'with' if may_create_roles else 'without'}"
    await run_sql(
        server_dsn,
        f"create role {name} login {'createrole' if may_create_roles else 'nocreaterole'}",
        *([f"grant hydraulic_application to {name} with admin option"] if may_create_roles else []),
        f"create database {name} owner {name}",
    )
    dsn = f"{with_database(server_dsn, name)}&role={name}"
    store = Store(dsn)
    try:
        await store.migrate()
        async with store._database.session() as session:
            user = await session.fetchval("select current_user")
        assert user == ("hydraulic_application" if may_create_roles else name)
        await store.create_tenant("north")
        await store.put_equipment(make_machine("press-1"))
        with acting_as(NORTH):
            await store.put_equipment(make_machine("north-1"))
            time_us = [NOW_US]
            await store.ingest_many([Readings("north-1", ["PS1"], time_us, [1.0])])
            assert await store.find_equipment() == ["north-1"]
        assert await store.find_equipment() == ["north-1", "press-1"]
        assert (await store.verify_audit()).broken is None
    finally:
        await store.close()
        await run_sql(server_dsn, f"drop database {name} with (force)", f"drop role {name}")
