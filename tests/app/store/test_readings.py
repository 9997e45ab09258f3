import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
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
from app.store.readings import CHUNK, EARLIEST, Ingested, Readings, Replaced
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
    counted = sum(each.accepted + each.duplicates + len(each.conflicts) for each in results)
    assert counted == sum(map(len, batches))


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

    again = await store.ingest(machine.equipment_id, ["PS1"], [T0_US], [1.0])
    assert (first.accepted, first.duplicates, first.conflicts) == (1, 0, (1,))
    assert (second.accepted, second.duplicates, second.conflicts) == (0, 0, (0,))
    assert (again.accepted, again.duplicates, again.conflicts) == (0, 1, ())
    mixed = await store.ingest(machine.equipment_id, ["PS1"] * 4, [T0_US] * 4, [2.0, 1.0, 2.0, 3.0])
    assert (mixed.accepted, mixed.duplicates, mixed.conflicts) == (0, 1, (0, 2, 3))
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

    assert result == Ingested(seconds * 20, 0)
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
    assert await store.ingest_many([]) == Ingested(0, 0)


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


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(T0_S, UTC) + timedelta(seconds=seconds)


async def test_conflicts_of_several_blocks_and_chunks_have_their_positions(store: Store):
    machines = [make_machine(f"press-{index}") for index in range(2)]
    for machine in machines:
        await store.put_equipment(machine)
    times_us = T0_US + np.arange(CHUNK) * 1_000_000
    changed = np.ones(CHUNK)
    changed[[7, CHUNK - 1]] = 2.0

    def blocks(values: NDArray[np.float64]) -> list[Readings]:
        return [Readings(each.equipment_id, ["PS1"] * CHUNK, times_us, values) for each in machines]

    assert (await store.ingest_many(blocks(np.ones(CHUNK)))).accepted == 2 * CHUNK
    found = await store.ingest_many(blocks(changed))

    assert found.conflicts == (7, CHUNK - 1, CHUNK + 7, 2 * CHUNK - 1)
    assert (found.accepted, found.duplicates, found.replaced) == (0, 2 * CHUNK - 4, 0)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batches=st.lists(_BATCH, min_size=1, max_size=4))
async def test_replacing_keeps_the_last_value_and_the_grid_right(
    store: Store, batches: list[list[Reading]]
):
    machine = make_machine(f"press-{uuid4().hex}")
    await store.put_equipment(machine)

    results = [
        await store.ingest_many([columns(machine.equipment_id, batch)], replaced_by="engineer")
        for batch in batches
    ]

    newest_first = [list(reversed(batch)) for batch in reversed(batches)]
    assert_same_bits(await grid_of(store, machine, 3), reference(machine, newest_first, 3))
    for batch, result in zip(batches, results, strict=True):
        assert result.accepted + result.duplicates + result.replaced == len(batch)
        assert result.conflicts == ()
    distinct = {(sensor, time_us) for batch in batches for sensor, time_us, _ in batch}
    assert sum(result.accepted for result in results) == len(distinct)


async def test_replacement_is_recorded_for_each_machine(store: Store):
    machines = [make_machine(f"press-{index}") for index in range(2)]
    for machine in machines:
        await store.put_equipment(machine)
        await store.ingest(
            machine.equipment_id, ["PS1"] * 3, [T0_US, T0_US + 1, T0_US + 2], [1.0] * 3
        )

    result = await store.ingest_many(
        [
            columns("press-0", [("PS1", T0_US, 1.0), ("PS1", T0_US + 2, 5.0)]),
            columns("press-1", [("PS1", T0_US + 1, 6.0), ("PS1", T0_US + 2, 7.0)]),
        ],
        replaced_by="engineer",
    )

    assert result == Ingested(0, 1, replaced=3)
    for index, (start_us, count) in enumerate(((2, 1), (1, 2))):
        (change,) = await store.reading_changes(f"press-{index}", None, 10)
        assert (change.actor, change.action, change.removed, change.written) == (
            "engineer",
            "replace_values",
            count,
            count,
        )
        assert (change.start, change.end) == (at(start_us / 1e6), at(2e-6))
    assert (await grid_of(store, machines[1], 1))[0, 0] == np.float32((1 + 6 + 7) / 3)


async def test_record_of_changes_is_append_only(
    store: Store, database_dsn: str, machine: Equipment
):
    await store.put_equipment(machine)
    await store.replace_interval(Readings("press-1", [], [], []), at(0), at(1), "engineer")

    for statement in ("update reading_changes set actor = 'x'", "delete from reading_changes"):
        with pytest.raises(asyncpg.RestrictViolationError, match="never changed"):
            await run_sql(database_dsn, statement)

    assert len(await store.reading_changes("press-1", None, 10)) == 1


async def test_interval_is_replaced_and_the_bins_at_its_ends_keep_what_is_outside(
    store: Store, machine: Equipment
):
    await store.put_equipment(machine)
    other = make_machine("press-2")
    await store.put_equipment(other)
    before = [("PS1", T0_US + quarter * 250_000, float(quarter)) for quarter in range(16)]
    for each in (machine, other):
        await store.ingest(*columns(each.equipment_id, before))
    new = [("PS1", T0_US + 750_000, 100.0), ("PS2", T0_US + 2_000_000, 7.0)]

    result = await store.replace_interval(columns("press-1", new), at(0.5), at(3.25), "engineer")

    assert result == Replaced(11, 2)
    left = [each for each in before if not T0_US + 500_000 <= each[1] < T0_US + 3_250_000]
    assert_same_bits(await grid_of(store, machine, 4), reference(machine, [left, new], 4))
    assert_same_bits(await grid_of(store, other, 4), reference(other, [before], 4))
    (change,) = await store.reading_changes("press-1", None, 10)
    assert (change.action, change.start, change.end, change.removed, change.written) == (
        "replace_interval",
        at(0.5),
        at(3.25),
        11,
        2,
    )


async def test_deleted_interval_leaves_no_bin(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    await store.ingest("press-1", ["PS1"] * 5, T0_US + np.arange(5) * 1_000_000, np.arange(5.0))

    result = await store.replace_interval(Readings("press-1", [], [], []), at(1), at(4), "engineer")

    assert result == Replaced(3, 0)
    (window,) = await store.read_windows([("press-1", T0_S, 5)])
    assert window.count == 2
    (change,) = await store.reading_changes("press-1", None, 10)
    assert change.action == "delete_interval"


async def test_refused_replacement_changes_nothing(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    await store.ingest("press-1", ["PS1"], [T0_US], [1.0])

    for block in (
        columns("press-1", [("PS1", T0_US, 2.0), ("PS1", T0_US, 3.0)]),
        columns("press-1", [("PS1", T0_US, 2.0), ("PS7", T0_US, 3.0)]),
        columns("press-1", [("PS1", T0_US, np.nan)]),
        columns("press-9", [("PS1", T0_US, 2.0)]),
    ):
        with pytest.raises((ReadingError, UnknownEquipment)):
            await store.replace_interval(block, at(0), at(1), "engineer")

    assert (await grid_of(store, machine, 1))[0, 0] == 1.0
    assert await store.reading_changes("press-1", None, 10) == []


async def test_replacement_waits_for_other_writers_and_loses_nothing_of_them(
    store: Store, machine: Equipment
):
    await store.put_equipment(machine)
    outside = [
        store.ingest("press-1", ["PS1"], [T0_US + 2_000_000 + index], [float(index)])
        for index in range(20)
    ]
    inside = [
        store.replace_interval(columns("press-1", [("PS1", T0_US, 5.0)]), at(0), at(1), "engineer")
        for _ in range(2)
    ]

    await asyncio.gather(*outside, *inside)

    found = await grid_of(store, machine, 3)
    assert (found[0, 0], found[0, 2]) == (5.0, 9.5)


async def test_interval_without_a_partition_is_replaced(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    block = columns("press-1", [("PS1", T0_US, 2.0)])
    assert await store.replace_interval(block, at(0), at(1), "engineer") == Replaced(0, 1)
    assert (await grid_of(store, machine, 1))[0, 0] == 2.0


async def test_changes_are_read_page_by_page(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    for actor in ("a", "b", "c"):
        await store.replace_interval(Readings("press-1", [], [], []), at(0), at(1), actor)

    first = await store.reading_changes("press-1", None, 2)
    rest = await store.reading_changes("press-1", first[-1].change_id, 2)

    assert [change.actor for change in (*first, *rest)] == ["c", "b", "a"]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(batch=_BATCH, width_us=st.integers(1, 2_500_000))
async def test_bins_of_a_chart_equal_numpy(store: Store, batch: list[Reading], width_us: int):
    machine = make_machine(f"press-{uuid4().hex}")
    await store.put_equipment(machine)
    await store.ingest(*columns(machine.equipment_id, batch))

    rows = await store.bin_readings(
        machine.equipment_id,
        ["PS1", "TS1"],
        (at(0.25), at(2.25)),
        timedelta(microseconds=width_us),
        of_grid=False,
    )

    truth: dict[tuple[str, int], list[float]] = {}
    first: dict[tuple[str, int], float] = {}
    for sensor_id, time_us, value in batch:
        first.setdefault((sensor_id, time_us), value)
    for (sensor_id, time_us), value in first.items():
        offset = time_us - T0_US - 250_000
        if sensor_id != "PS2" and 0 <= offset < 2_000_000:
            truth.setdefault((sensor_id, offset // width_us), []).append(value)
    found = {
        (row.sensor_id, (row.start - at(0.25)) // timedelta(microseconds=width_us)): row
        for row in rows
    }
    assert found.keys() == truth.keys()
    for place, values in truth.items():
        row = found[place]
        assert (row.least, row.largest, row.readings) == (min(values), max(values), len(values))
        assert row.mean == pytest.approx(
            np.mean(values), rel=1e-9, abs=1e-9 * max(map(abs, values))
        )


async def test_bins_of_the_grid_have_the_statistics_of_its_means(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    quarters = np.arange(16)
    await store.ingest("press-1", ["PS1"] * 16, T0_US + quarters * 250_000, quarters)
    await store.ingest("press-1", ["PS2"], [T0_US], [1.0])

    rows = await store.bin_readings(
        "press-1", ["PS1"], (at(0), at(4)), timedelta(seconds=2), of_grid=True
    )

    assert sorted(rows) == [
        ("PS1", at(0), 3.5, 1.5, 5.5, 2),
        ("PS1", at(2), 11.5, 9.5, 13.5, 2),
    ]
