import asyncio
from collections.abc import Sequence
from uuid import uuid4

import asyncpg
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from app.core.errors import ReadingError, UnknownEquipment
from app.features.binning import bin_series
from app.schemas.equipment import Equipment
from app.store.pool import PoolLimits
from app.store.readings import CHUNK, EARLIEST, Readings
from app.store.store import Store
from app.store.windows import decode_window
from tests.conftest import run_sql
from tests.machines import make_machine

T0_S = 1_700_000_000
T0_US = T0_S * 1_000_000
Reading = tuple[str, int, float]


async def grid_of(
    store: Store, machine: Equipment, bins: int, first: int = T0_S
) -> NDArray[np.float32]:
    return decode_window(
        (await store.read_windows([(machine.equipment_id, first, bins)]))[0], machine
    )


def columns(equipment_id: str, readings: Sequence[Reading]) -> Readings:
    return Readings(
        equipment_id,
        [reading[0] for reading in readings],
        [reading[1] for reading in readings],
        [reading[2] for reading in readings],
    )


def reference(
    machine: Equipment, batches: Sequence[Sequence[Reading]], bins: int
) -> NDArray[np.float32]:
    truth: dict[tuple[str, int], float] = {}
    for sensor_id, time_us, value in (reading for batch in batches for reading in batch):
        truth.setdefault((sensor_id, time_us), value)
    values_SN = np.full((len(machine.sensor_ids), bins), np.nan, np.float32)
    for position, sensor_id in enumerate(machine.sensor_ids):
        for index in range(bins):
            start = T0_US + index * machine.grid_us
            inside = [
                value
                for (sensor, time_us), value in sorted(truth.items(), key=lambda item: item[0][1])
                if sensor == sensor_id and start <= time_us < start + machine.grid_us
            ]
            if inside:
                total = 0.0
                for value in inside:
                    total += value
                values_SN[position, index] = np.float32(total / len(inside))
    return values_SN


def assert_same_bits(found: NDArray[np.float32], expected: NDArray[np.float32]) -> None:
    assert found.shape == expected.shape
    np.testing.assert_array_equal(found.view(np.uint32), expected.view(np.uint32))


_VALUE = (
    st.floats(width=32, allow_nan=False, allow_infinity=False)
    | st.floats(-1e-44, 1e-44)
    | st.floats(-500, 500)
)
_TIME = st.integers(0, 11).map(lambda quarter: T0_US + quarter * 250_000) | st.integers(
    T0_US, T0_US + 2_999_999
)
_BATCH = st.lists(st.tuples(st.sampled_from(("PS1", "PS2", "TS1")), _TIME, _VALUE), max_size=25)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=st.lists(_BATCH, min_size=1, max_size=4))
async def test_grid_equals_numpy_for_late_repeated_and_unordered_readings(
    store: Store, batches: list[list[Reading]]
):
    machine = make_machine(f"press-{uuid4().hex}")
    await store.put_equipment(machine)

    results = [await store.ingest(*columns(machine.equipment_id, batch)) for batch in batches]

    found = await grid_of(store, machine, 3)
    assert_same_bits(found, reference(machine, batches, 3))
    distinct = {(sensor, time_us) for batch in batches for sensor, time_us, _ in batch}
    assert sum(result.accepted for result in results) == len(distinct)
    assert sum(result.accepted + result.duplicates for result in results) == sum(map(len, batches))


async def test_inline_and_stored_readings_give_bitwise_equal_bins(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    rng = np.random.default_rng(1)
    offsets_us = np.sort(rng.choice(60_000_000, 5_000, replace=False)).astype(np.int64)
    values = rng.normal(100, 30, 5_000)

    await store.ingest(machine.equipment_id, ["PS1"] * 5_000, T0_US + offsets_us, values)

    expected = bin_series(offsets_us, values, machine.grid_us, machine.bins)
    assert_same_bits((await grid_of(store, machine, machine.bins))[:1], expected[None])


async def test_first_value_of_a_sensor_and_time_is_kept(store: Store, machine: Equipment):
    await store.put_equipment(machine)

    first = await store.ingest(machine.equipment_id, ["PS1", "PS1"], [T0_US, T0_US], [1.0, 2.0])
    second = await store.ingest(machine.equipment_id, ["PS1"], [T0_US], [3.0])

    assert (first, second) == ((1, 1), (0, 1))
    assert (await grid_of(store, machine, 1))[0, 0] == 1.0


async def test_concurrent_writers_of_one_bin_lose_nothing(database_dsn: str, machine: Equipment):
    stores = [Store(database_dsn) for _ in range(4)]
    await stores[0].put_equipment(machine)
    batches = [
        [
            (sensor_id, T0_US + writer * 10_000 + turn * 100_000, float(writer))
            for sensor_id in machine.sensor_ids
        ]
        for writer in range(10)
        for turn in range(10)
    ]

    await asyncio.gather(
        *(
            stores[index % 4].ingest(*columns(machine.equipment_id, batch))
            for index, batch in enumerate(batches)
        )
    )

    assert_same_bits(await grid_of(stores[0], machine, 1), reference(machine, batches, 1))
    for store in stores:
        await store.close()


async def test_readings_of_several_equipment_in_any_order_are_written_in_one_call(store: Store):
    machines = [make_machine(f"press-{index}") for index in range(5)]
    for machine in machines:
        await store.put_equipment(machine)
    blocks = [
        columns(machine.equipment_id, [("PS1", T0_US, float(index))])
        for index, machine in enumerate(machines)
    ]

    forth, back = await asyncio.gather(store.ingest_many(blocks), store.ingest_many(blocks[::-1]))

    assert forth.accepted + back.accepted == 5
    for index, machine in enumerate(machines):
        assert (await grid_of(store, machine, 1))[0, 0] == float(index)


async def test_bulk_of_several_chunks_equals_single_ticks(store: Store):
    machine = make_machine(sensors=tuple(f"S{index}" for index in range(20)))
    await store.put_equipment(machine)
    seconds = CHUNK // 20 + 500
    values_TS = np.random.default_rng(2).normal(50, 5, (seconds, 20))
    times_us = np.repeat(T0_US + np.arange(seconds) * 1_000_000, 20)

    result = await store.ingest(
        machine.equipment_id, machine.sensor_ids * seconds, times_us, values_TS.ravel()
    )

    assert result == (seconds * 20, 0)
    assert_same_bits(
        await grid_of(store, machine, seconds), np.ascontiguousarray(values_TS.T.astype(np.float32))
    )


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e39])
async def test_value_that_the_grid_cannot_hold_is_refused(
    store: Store, machine: Equipment, value: float
):
    await store.put_equipment(machine)

    with pytest.raises(ReadingError, match="sensor 'PS2'") as caught:
        await store.ingest(machine.equipment_id, ["PS1", "PS2"], [T0_US, T0_US], [1.0, value])

    assert caught.value.field == "value"
    assert await store.data_range(machine.equipment_id) is None


@pytest.mark.parametrize("time_us", [T0_S, T0_US * 1_000, -1])
async def test_time_in_another_unit_is_refused(store: Store, machine: Equipment, time_us: int):
    await store.put_equipment(machine)

    with pytest.raises(ReadingError, match="check the unit of time"):
        await store.ingest(machine.equipment_id, ["PS1"], [time_us], [1.0])


async def test_unregistered_equipment_or_sensor_raises_and_writes_nothing(
    store: Store, machine: Equipment
):
    await store.put_equipment(machine)

    with pytest.raises(UnknownEquipment, match="press-9"):
        await store.ingest_many(
            [columns("press-1", [("PS1", T0_US, 1.0)]), columns("press-9", [("PS1", T0_US, 1.0)])]
        )
    with pytest.raises(ReadingError, match="found 'PS7'"):
        await store.ingest("press-1", ["PS1", "PS7"], [T0_US, T0_US], [1.0, 2.0])

    assert await store.data_range("press-1") is None


async def test_columns_of_different_length_are_refused(store: Store):
    with pytest.raises(ReadingError, match="as many times and values"):
        await store.ingest("press-1", ["PS1", "PS1"], [T0_US], [1.0, 2.0])


async def test_empty_call_writes_nothing(store: Store):
    assert await store.ingest_many([]) == (0, 0)


async def test_bin_that_begins_in_the_month_before_finds_its_partition(store: Store):
    machine = make_machine(grid_s=86_400 * 0.75)
    await store.put_equipment(machine)
    start_us = int(EARLIEST.timestamp()) * 1_000_000

    assert (await store.ingest("press-1", ["PS1"], [start_us], [4.0])).accepted == 1


async def scans_of_whole_tables(dsn: str) -> int:
    session = await asyncpg.connect(dsn)
    count: int = await session.fetchval(
        "select sum(seq_scan) from pg_stat_user_tables where relname like 'sensor_readings%'"
    )
    await session.close()
    return count


async def test_plan_made_for_a_small_table_uses_the_index_when_it_grows(
    database_dsn: str, machine: Equipment
):
    store = Store(database_dsn, PoolLimits(max_size=1))
    await store.put_equipment(machine)
    await store.ingest("press-1", machine.sensor_ids, [T0_US - 1_000_000] * 3, [1.0, 2.0, 3.0])
    await store.close()
    await run_sql(database_dsn, "vacuum analyze")
    before = await scans_of_whole_tables(database_dsn)

    for second in range(20):
        await store.ingest(
            "press-1", machine.sensor_ids, [T0_US + second * 1_000_000] * 3, [1.0, 2.0, 3.0]
        )

    # the statistics of a session are complete when it ends
    await store.close()
    assert await scans_of_whole_tables(database_dsn) == before
