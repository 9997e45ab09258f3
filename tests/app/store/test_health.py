"""Hourly health: the same on both editions, each tenant its own, kept right by each write."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from app.schemas.diagnosis import Diagnosis
from app.store import migrate
from app.store.caller import Caller, acting_as
from app.store.health import ComponentHours
from app.store.migrate import read_migrations
from app.store.pool import PoolLimits
from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.conftest import run_sql, with_database
from tests.machines import make_machine
from tests.rows import stored_row

HOUR = timedelta(hours=1)
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ALL = (NOON - timedelta(days=60), NOON + timedelta(days=60))
NORTH, SOUTH = Caller("north"), Caller("south")


def healthy(name: str, end: datetime, health: float, state: str, machine: str = "rig") -> Diagnosis:
    made = diagnosis(name, end, equipment_id=machine)
    component = replace(made.components[0], health=health, state=state)  # type: ignore[arg-type]
    return replace(made, components=(component, replace(component, component_id="valve")))


async def insert(store: Store, *made: Diagnosis, tenant: str | None = None) -> None:
    await store.insert_diagnoses([stored_row(each)._replace(tenant=tenant) for each in made])


async def machine_of(store: Store, *arguments: Any) -> list[ComponentHours]:
    """Return the health of a machine; TimescaleDB shows late windows after the next refresh."""
    await store.refresh_aggregates()
    return await store.health_of(*arguments)


async def fleet_of(store: Store, *arguments: Any) -> list[ComponentHours]:
    await store.refresh_aggregates()
    return await store.health_of_fleet(*arguments)


async def pending(dsn: str) -> list[str]:
    session = await asyncpg.connect(dsn)
    rows = await session.fetch("select equipment_id from health_pending order by 1")
    await session.close()
    return [row["equipment_id"] for row in rows]


@asynccontextmanager
async def transaction(dsn: str, statement: str) -> AsyncIterator[None]:
    """Keep a transaction of another replica open after a statement."""
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    async with session.transaction():
        await session.execute(statement)
        yield
    await session.close()


async def pump(store: Store, machine: str = "rig", resolution: str = "hour") -> ComponentHours:
    found = await machine_of(store, machine, *ALL, resolution)  # type: ignore[arg-type]
    return {each.component_id: each for each in found}["pump"]


async def test_hours_hold_mean_extremes_and_states_of_their_diagnoses(store: Store):
    await insert(
        store,
        healthy("a", NOON, 0.5, "watch"),
        healthy("b", NOON + timedelta(minutes=59), 0.25, "critical"),
        healthy("c", NOON + HOUR, 0.75, "healthy"),
    )
    found = await pump(store)
    assert found.times == [NOON, NOON + HOUR]
    assert found.diagnoses == [2, 1]
    assert found.health == [0.375, 0.75]
    assert (found.lowest, found.highest) == ([0.25, 0.75], [0.5, 0.75])
    assert (found.watch, found.degraded, found.critical) == ([1, 0], [0, 0], [1, 0])
    days = await pump(store, resolution="day")
    assert (days.times, days.diagnoses, days.health) == ([NOON.replace(hour=0)], [3], [0.5])
    assert [each.component_id for each in await machine_of(store, "rig", *ALL)] == ["pump", "valve"]
    assert await machine_of(store, "other", *ALL) == []
    assert await machine_of(store, "rig", NOON + 2 * HOUR, ALL[1]) == []


async def test_stored_again_inline_or_without_health_does_not_count(store: Store):
    await insert(store, healthy("a", NOON, 0.5, "watch"))
    inline = healthy("b", NOON, 0.1, "critical")
    inline = replace(inline, input=replace(inline.input, source="request"))
    silent = healthy("c", NOON, 0.1, "unknown")
    silent = replace(
        silent, components=tuple(replace(each, health=None) for each in silent.components)
    )
    await insert(store, healthy("a", NOON, 0.5, "watch"), inline, silent)
    assert (await pump(store)).diagnoses == [1]


async def test_windows_of_any_month_count_whenever_they_were_diagnosed(store: Store):
    ends = [NOON - timedelta(days=40 * age) for age in range(2)]
    await insert(store, *(healthy(f"d{end:%m}", end, 0.5, "watch") for end in ends))
    assert (await pump(store)).times == sorted(ends)


async def test_fleet_has_all_machines_of_a_tenant_and_no_other(store: Store):
    for tenant, machines in (("north", ("n1", "n2")), ("south", ("s1",))):
        await store.create_tenant(tenant)
        for machine in machines:
            made = healthy(machine, NOON, 0.5 if machine == "n1" else 1.0, "watch", machine)
            await insert(store, made, tenant=tenant)
    for caller, count, mean in ((NORTH, 2, 0.75), (SOUTH, 1, 1.0)):
        with acting_as(caller):
            fleet = await fleet_of(store, *ALL)
        assert [each.component_id for each in fleet] == ["pump", "valve"]
        assert (fleet[0].times, fleet[0].diagnoses, fleet[0].health) == ([NOON], [count], [mean])
        assert fleet[0].watch == [count]
    with acting_as(SOUTH):
        assert await machine_of(store, "n1", *ALL) == []
    (everything, _) = await fleet_of(store, *ALL)
    assert everything.diagnoses == [3]


async def test_moved_machine_takes_its_hours_along(store: Store):
    for tenant in ("north", "south"):
        await store.create_tenant(tenant)
    with acting_as(NORTH):
        await store.put_equipment(make_machine("n1"))
    await insert(store, healthy("a", NOON, 0.5, "watch", "n1"))
    await store.move_equipment("south", ["n1"])
    await store.refresh_aggregates()
    with acting_as(NORTH):
        assert await machine_of(store, "n1", *ALL) == []
        assert await fleet_of(store, *ALL) == []
    with acting_as(SOUTH):
        assert (await pump(store, "n1")).diagnoses == [1]
        assert (await fleet_of(store, *ALL))[0].diagnoses == [1]


async def test_purged_machine_leaves_no_hours(store: Store):
    await store.put_equipment(make_machine("n1"))
    await insert(store, healthy("a", NOON, 0.5, "watch", "n1"), healthy("b", NOON, 0.25, "watch"))
    await store.refresh_aggregates()
    await store.purge_equipment("n1", "test", 30.0)
    await store.refresh_aggregates()
    assert await machine_of(store, "n1", *ALL) == []
    (fleet, _) = await fleet_of(store, *ALL)
    assert (fleet.diagnoses, fleet.health) == ([1], [0.25])


async def test_writers_of_one_hour_count_every_diagnosis(store: Store):
    async def write(writer: int) -> None:
        for number in range(5):
            machines = ["a", "b"] if writer % 2 else ["b", "a"]
            made = [
                healthy(f"{writer}-{number}-{each}", NOON, 0.5, "watch", each) for each in machines
            ]
            await insert(store, *made)

    await asyncio.gather(*(write(writer) for writer in range(8)))
    assert (await pump(store, "a")).diagnoses == [40]
    assert (await fleet_of(store, *ALL))[0].diagnoses == [80]


async def test_windows_of_this_hour_are_shown_at_once(store: Store):
    now = datetime.now(UTC)
    await store.refresh_aggregates()
    await insert(store, healthy("now", now, 0.5, "watch"))
    interval = (now - HOUR, now + HOUR)
    before = await store.health_of("rig", *interval), await store.health_of_fleet(*interval)
    assert [each.diagnoses for each in before[0]] == [[1], [1]]
    await store.refresh_aggregates()
    after = await store.health_of("rig", *interval), await store.health_of_fleet(*interval)
    assert after == before


async def test_retention_drops_hours_with_their_diagnoses(store: Store):
    old = NOON - timedelta(days=59)
    await insert(store, healthy("a", old, 0.5, "watch"), healthy("b", NOON, 0.5, "watch"))
    await store.refresh_aggregates()
    await store.drop_before(NOON)
    assert (await pump(store)).times == [NOON]
    assert (await fleet_of(store, *ALL))[0].times == [NOON]


async def test_minutes_count_the_readings_of_a_machine(store: Store):
    await store.put_equipment(make_machine("press-1"))
    noon_us = int(NOON.timestamp()) * 1_000_000
    times = [noon_us, noon_us + 1_000_000, noon_us + 61_000_000]
    await store.ingest_many([Readings("press-1", ["PS1"] * 3, times, [1.0] * 3)])
    await store.refresh_aggregates()
    found = await store.reading_counts("press-1", NOON, NOON + HOUR)
    assert found == [(NOON, 2), (NOON + timedelta(minutes=1), 1)]
    await store.create_tenant("north")
    with acting_as(NORTH):
        assert await store.reading_counts("press-1", NOON, NOON + HOUR) == []


async def test_diagnoses_from_before_the_migration_are_added_up_once(
    server_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    await run_sql(server_dsn, "create database hydraulic_before_health")
    store = Store(with_database(server_dsn, "hydraulic_before_health"))
    steps = read_migrations()
    try:
        with monkeypatch.context() as patched:
            older = tuple(step for step in steps if step.version < 20)
            patched.setattr(migrate, "read_migrations", lambda: older)
            await store.migrate()
        await insert(
            store,
            *(healthy(f"d{n}", NOON + n * HOUR / 2, 0.5, "watch") for n in range(5)),
            healthy("other", NOON, 1.0, "healthy", "other"),
        )
        await store.migrate()
        assert await machine_of(store, "rig", *ALL) == []
        await insert(store, healthy("new", NOON, 0.0, "critical"))
        while await store.add_up_pending():
            pass
        assert (await pump(store)).diagnoses == [3, 2, 1]
        assert (await fleet_of(store, *ALL))[0].diagnoses == [4, 2, 1]
        assert not await store.add_up_pending()
    finally:
        await store.close()
        await run_sql(server_dsn, "drop database hydraulic_before_health with (force)")


async def test_purge_of_another_tenant_leaves_a_machine_pending(store: Store, database_dsn: str):
    await store.create_tenant("north")
    await insert(store, healthy("a", NOON, 0.5, "watch"), tenant="north")
    await insert(store, healthy("b", NOON, 0.5, "watch"), tenant="south")
    await run_sql(database_dsn, "insert into health_pending values ('rig')")
    with acting_as(Caller("stranger")):
        assert await store.purge_equipment("rig", "test", 30.0) is None
    with acting_as(SOUTH):
        assert await store.purge_equipment("rig", "test", 30.0) is not None
    assert await pending(database_dsn) == ["rig"]
    with acting_as(NORTH):
        await store.purge_equipment("rig", "test", 30.0)
    assert await pending(database_dsn) == []


async def test_machine_that_is_added_up_delays_no_writer_of_another(
    store: Store, database_dsn: str
):
    await insert(store, healthy("a", NOON, 0.5, "watch", "a"))
    async with transaction(database_dsn, "select recompute_healths('a')"):
        await insert(store, healthy("b", NOON + HOUR, 0.5, "watch", "b"))
    assert (await pump(store, "a")).diagnoses == [1]
    assert (await pump(store, "b")).diagnoses == [1]


async def test_replicas_add_up_different_machines(store: Store, database_dsn: str):
    for number, machine in enumerate("ab"):
        await insert(store, healthy(machine, NOON + number * HOUR, 0.5, "watch", machine))
    await run_sql(database_dsn, "insert into health_pending values ('a'), ('b')")
    async with transaction(database_dsn, "select add_up_pending()"):
        assert await store.add_up_pending()
        assert not await store.add_up_pending()
    assert await pending(database_dsn) == []
    assert (await fleet_of(store, *ALL))[0].diagnoses == [1, 1]


async def test_writes_moves_and_removals_of_the_same_hours_do_not_deadlock(store: Store):
    machines = ["a", "b", "c", "d"]
    for machine in machines:
        await store.put_equipment(make_machine(machine))

    async def write(writer: int) -> None:
        for number in range(4):
            await insert(
                store,
                *(
                    healthy(
                        f"{writer}-{number}-{each}-{hour}", NOON + hour * HOUR, 1, "watch", each
                    )
                    for each in (machines if writer % 2 else machines[::-1])
                    for hour in range(12)
                ),
            )

    async def move(first: int) -> None:
        for number in range(4):
            await store.move_equipment(("north", "south")[number % 2], machines[first : first + 2])

    for tenant in ("north", "south"):
        await store.create_tenant(tenant)
    await asyncio.gather(*(write(number) for number in range(4)), move(0), move(2))
    assert (await pump(store, "a")).diagnoses == [16] * 12
    assert (await fleet_of(store, *ALL))[0].diagnoses == [64] * 12
    await asyncio.gather(
        *(store.purge_equipment(each, "test", 30.0) for each in machines[:2]),
        insert(store, *(healthy(f"e-{h}", NOON + h * HOUR, 1, "watch", "e") for h in range(12))),
    )
    assert (await fleet_of(store, *ALL))[0].diagnoses == [33] * 12


async def test_move_and_purge_may_take_longer_than_a_statement(database_dsn: str):
    store = Store(database_dsn, PoolLimits(statement_timeout_s=1.0, retry_s=0.1))
    lock = "select pg_advisory_xact_lock(7207006, hashtext('n1'))"
    try:
        await store.create_tenant("south")
        await store.put_equipment(make_machine("n1"))
        await insert(store, healthy("a", NOON, 0.5, "watch", "n1"))
        await insert(store, healthy("b", NOON, 0.25, "watch", "n1"), tenant="south")
        async with transaction(database_dsn, lock):
            moving = asyncio.create_task(store.move_equipment("south", ["n1"]))
            await asyncio.sleep(2.0)
        assert await moving == ["n1"]
        with acting_as(SOUTH):
            assert len(await store.diagnosis_history("n1", None, None, 10)) == 2
            assert (await pump(store, "n1")).health == [0.375]
            assert (await fleet_of(store, *ALL))[0].diagnoses == [2]
        async with transaction(database_dsn, lock):
            purging = asyncio.create_task(store.purge_equipment("n1", "test", 30.0))
            await asyncio.sleep(2.0)
        assert (await purging) is not None
        assert await fleet_of(store, *ALL) == []
    finally:
        await store.close()


async def test_database_drops_old_data_itself_where_it_has_jobs(store: Store, database_dsn: str):
    edition = (await store.facts()).edition
    is_by_database = await store.set_retention(timedelta(days=90))
    assert is_by_database == (edition == "timescale")
    assert await store.set_retention(timedelta(days=90)) == is_by_database
    if not is_by_database:
        return
    old = NOON - timedelta(days=59)
    await insert(store, healthy("a", old, 0.5, "watch"), healthy("b", NOON, 0.5, "watch"))
    await store.set_retention(datetime.now(UTC) - NOON)
    session = await asyncpg.connect(database_dsn)
    jobs = await session.fetch(
        "select job_id, config from timescaledb_information.jobs where proc_name = 'run_retention'"
    )
    assert len(jobs) == 1
    await session.execute(f"call run_job({jobs[0]['job_id']})")
    assert (await pump(store)).times == [NOON]
    await store.set_retention(None)
    assert not await session.fetchval(
        "select count(*) from timescaledb_information.jobs where proc_name = 'run_retention'"
    )
    await session.close()


async def test_compressed_diagnoses_are_read_written_moved_and_purged(
    store: Store, database_dsn: str
):
    if (await store.facts()).edition == "plain":
        pytest.skip("plain PostgreSQL compresses no partitions")
    await store.create_tenant("south")
    await store.put_equipment(make_machine("n1"))
    made = [healthy(f"d{n}", NOON + n * HOUR, 0.5, "watch", "n1") for n in range(3)]
    await insert(store, *made)
    await run_sql(
        database_dsn,
        *(
            f"select compress_chunk(chunk) from show_chunks('{table}') chunk"
            for table in ("diagnosis_rows", "component_health")
        ),
    )
    await insert(store, made[0], healthy("late", NOON, 0.25, "watch", "n1"))
    assert await store.get_diagnosis("d1") == made[1].to_json()
    assert len(await store.diagnosis_history("n1", None, None, 10)) == 4
    assert (await pump(store, "n1")).diagnoses == [2, 1, 1]
    await store.move_equipment("south", ["n1"])
    with acting_as(SOUTH):
        assert len(await store.diagnosis_history("n1", None, None, 10)) == 4
    purged = await store.purge_equipment("n1", "test", 30.0)
    assert purged is not None
    assert (purged.complete, purged.diagnoses) == (True, 4)
