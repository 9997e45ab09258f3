import asyncio
import re
from datetime import UTC, datetime

import asyncpg
import pytest

from app.core.errors import StoreUnavailable
from app.schemas.equipment import Equipment
from app.store.partitions import months_of_days
from app.store.pool import PoolLimits
from app.store.store import Store
from tests.conftest import TIMESCALE_DSN, run_sql
from tests.plans import nested_plans

pytestmark = pytest.mark.skipif(bool(TIMESCALE_DSN), reason="partitions of the plain edition")


def us(year: int, month: int, day: int = 15) -> int:
    return int(datetime(year, month, day, tzinfo=UTC).timestamp()) * 1_000_000


async def partitions(dsn: str) -> list[str]:
    session = await asyncpg.connect(dsn)
    names = await session.fetch(
        "select inhrelid::regclass::text from pg_inherits "
        "where inhparent = 'sensor_readings'::regclass order by 1"
    )
    await session.close()
    return [row[0].removeprefix("sensor_readings_") for row in names]


def test_months_are_counted_from_1970():
    assert months_of_days(
        [datetime(1970, 1, 31, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC)]
    ) == {0, 56 * 12 + 11}


async def test_only_months_with_readings_get_a_partition(
    store: Store, machine: Equipment, database_dsn: str
):
    await store.put_equipment(machine)

    await store.ingest(
        "press-1", ["PS1"] * 3, [us(1999, 12), us(2026, 2), us(2026, 2, 16)], [1, 2, 3]
    )

    assert await partitions(database_dsn) == ["1999_12", "2026_02"]


async def test_history_of_decades_is_written_within_a_short_statement_timeout(
    machine: Equipment, database_dsn: str
):
    store = Store(database_dsn, PoolLimits(statement_timeout_s=1.5))
    await store.put_equipment(machine)
    times_us = [us(2000 + month // 12, 1 + month % 12) for month in range(312)]

    result = await store.ingest("press-1", ["PS1"] * 312, times_us, [1.0] * 312)

    assert result.accepted == 312
    assert len(await partitions(database_dsn)) == 312
    await store.close()


async def test_replicas_that_need_a_month_together_share_its_partition(
    machine: Equipment, database_dsn: str
):
    stores = [Store(database_dsn) for _ in range(4)]
    await stores[0].put_equipment(machine)

    results = await asyncio.gather(
        *(
            store.ingest("press-1", ["PS1"], [us(2025, 5, day)], [1.0])
            for day, store in enumerate(stores, 2)
        )
    )

    assert [result.accepted for result in results] == [1, 1, 1, 1]
    assert await partitions(database_dsn) == ["2025_05"]
    for store in stores:
        await store.close()


async def test_old_months_are_dropped_and_created_again_when_written(
    store: Store, machine: Equipment, database_dsn: str
):
    await store.put_equipment(machine)
    await store.ingest("press-1", ["PS1"] * 3, [us(2025, 1), us(2025, 2), us(2025, 3)], [1, 2, 3])

    dropped = await store.drop_before(datetime(2025, 3, 20, tzinfo=UTC))

    assert dropped == 8
    assert await partitions(database_dsn) == ["2025_03"]
    assert (await store.ingest("press-1", ["PS1"], [us(2025, 1)], [1])).accepted == 1
    assert await partitions(database_dsn) == ["2025_01", "2025_03"]


async def test_long_read_delays_retention_but_no_other_statement(
    store: Store, machine: Equipment, database_dsn: str
):
    patient = Store(database_dsn, PoolLimits(retry_s=5.0))
    await store.put_equipment(machine)
    await store.ingest("press-1", ["PS1"] * 2, [us(2025, 1), us(2025, 3)], [1, 2])
    long_read = await asyncpg.connect(database_dsn)
    reading = long_read.transaction()
    await reading.start()
    await long_read.fetch("select from sensor_readings")

    dropping = asyncio.create_task(patient.drop_before(datetime(2025, 3, 1, tzinfo=UTC)))
    second = 0
    while not dropping.done():
        await store.read_windows([("press-1", us(2025, 3) // 1_000_000, 60)])
        await store.ingest(
            "press-1", ["PS1"], [us(2025, 3) + (second := second + 1) * 1_000_000], [1.0]
        )

    with pytest.raises(StoreUnavailable, match="55P03"):
        await dropping
    assert second > 1
    assert await partitions(database_dsn) == ["2025_01", "2025_03"]
    await reading.rollback()
    await long_read.close()
    # the partitions of the other tables may be dropped already
    assert await patient.drop_before(datetime(2025, 3, 1, tzinfo=UTC)) in (1, 2, 3, 4)
    assert await partitions(database_dsn) == ["2025_03"]
    await patient.close()


async def test_ingest_reads_only_the_partition_of_its_month(
    store: Store, machine: Equipment, database_dsn: str
):
    await store.put_equipment(machine)
    await store.ingest(
        "press-1", ["PS1"] * 4, [us(2025, month) for month in range(1, 5)], [1.0] * 4
    )
    session = await asyncpg.connect(database_dsn)

    text = await nested_plans(
        session,
        "write_readings",
        *((["press-1"], ["PS2"], [1], [us(2025, 2, day)], [1.0], None) for day in (1, 2, 3)),
    )

    await session.close()
    scanned = [line for line in text.splitlines() if "Scan" in line and "sensor_readings" in line]
    assert scanned, text
    assert all("sensor_readings_2025_02" in line for line in scanned), text
    assert "Subplans Removed: 3" in text


@pytest.mark.parametrize("actor", [None, "engineer"])
async def test_conflicts_are_sought_and_replaced_in_the_partition_of_their_month(
    store: Store, machine: Equipment, database_dsn: str, actor: str | None
):
    await store.put_equipment(machine)
    await store.ingest(
        "press-1", ["PS1"] * 4, [us(2025, month) for month in range(1, 5)], [1.0] * 4
    )
    session = await asyncpg.connect(database_dsn)

    text = await nested_plans(
        session,
        "write_readings",
        *((["press-1"], ["PS1"], [1], [us(2025, 2)], [value], actor) for value in (2.0, 3.0, 4.0)),
    )

    await session.close()
    scanned = re.findall(r"Scan .*on (sensor_readings_\d{4}_\d\d)", text)
    assert set(scanned) == {"sensor_readings_2025_02"}, text
    assert "Seq Scan on sensor_readings" not in text


async def test_array_with_a_null_is_refused_by_the_database(
    store: Store, machine: Equipment, database_dsn: str
):
    await store.put_equipment(machine)
    await store.ingest("press-1", ["PS1"], [us(2025, 1)], [1])

    with pytest.raises(asyncpg.CheckViolationError):
        await run_sql(database_dsn, "update sensor_grid set vals = array[1, null]::real[]")
