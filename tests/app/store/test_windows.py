from dataclasses import dataclass

import asyncpg
import numpy as np
import pytest

from app.core.errors import UnknownEquipment, WindowError
from app.schemas.equipment import Equipment
from app.store.store import Store
from app.store.windows import StoredWindow, decode_window
from tests.conftest import TIMESCALE_DSN
from tests.machines import make_machine
from tests.plans import nested_plans

T0_S = 1_700_000_000
MONTH_S = 31 * 86_400


@dataclass
class Filled:
    machine: Equipment
    values_SN: np.ndarray


@pytest.fixture
async def filled(store: Store) -> Filled:
    machine = make_machine(sensors=tuple(f"S{index}" for index in range(20)))
    await store.put_equipment(machine)
    values_SN = np.random.default_rng(3).normal(100, 20, (20, 300)).astype(np.float32)
    sensor, second = np.nonzero(np.random.default_rng(4).random((20, 300)) < 0.9)
    missing = np.ones((20, 300), bool)
    missing[sensor, second] = False
    ids = [machine.sensor_ids[index] for index in sensor]
    await store.ingest(
        machine.equipment_id, ids, (T0_S + second) * 1_000_000, values_SN[sensor, second]
    )
    values_SN[missing] = np.nan
    return Filled(machine, values_SN)


async def test_window_equals_rows_read_one_by_one(store: Store, filled: Filled, database_dsn: str):
    session = await asyncpg.connect(database_dsn)
    rows = await session.fetch(
        "select sensor_id, time, value from sensor_readings natural join equipment_sensors"
    )
    await session.close()
    naive_SN = np.full((20, 70), np.nan, np.float32)
    for row in rows:
        second = int(row["time"].timestamp()) - T0_S - 100
        if 0 <= second < 70:
            naive_SN[filled.machine.sensor_ids.index(row["sensor_id"]), second] = row["value"]

    (window,) = await store.read_windows([("press-1", T0_S + 100, 70)])

    np.testing.assert_array_equal(decode_window(window, filled.machine), naive_SN)
    np.testing.assert_array_equal(naive_SN, filled.values_SN[:, 100:170])
    assert window.newest is not None
    assert window.newest.timestamp() == T0_S + 169


async def test_windows_are_returned_in_the_given_order(store: Store, filled: Filled):
    await store.put_equipment(make_machine("press-2"))
    intervals = [
        ("press-1", T0_S + 200, 10),
        ("press-2", T0_S, 10),
        ("press-9", T0_S, 10),
        ("press-1", T0_S - 5, 10),
    ]

    windows = await store.read_windows(intervals)

    assert [window[:3] for window in windows] == intervals
    assert [window.count for window in windows] == [10, 0, 0, 5]
    assert [window.grid_us for window in windows] == [1_000_000, 1_000_000, 0, 1_000_000]
    assert windows[1].newest is None
    decoded_SN = decode_window(windows[3], filled.machine)
    assert np.isnan(decoded_SN[:, :5]).all()
    np.testing.assert_array_equal(decoded_SN[:, 5:], filled.values_SN[:, :5])
    assert np.isnan(decode_window(windows[2], filled.machine)).all()


async def test_sensor_added_within_a_window_is_missing_before(store: Store):
    before = make_machine(sensors=("A", "B"))
    after = make_machine(sensors=("C", "B", "A"))
    await store.put_equipment(before)
    await store.ingest(
        "press-1", ["A", "B"] * 3, np.repeat((T0_S + np.arange(3)) * 1_000_000, 2), range(6)
    )
    await store.put_equipment(after)
    await store.ingest("press-1", ["C", "A"], [(T0_S + 3) * 1_000_000] * 2, [7.0, 8.0])
    # rewritten after the topology grew: the widths alternate
    await store.ingest("press-1", ["B"], [(T0_S + 1) * 1_000_000 + 1], [5.0])

    (window,) = await store.read_windows([("press-1", T0_S, 5)])

    nan = np.nan
    np.testing.assert_array_equal(
        decode_window(window, after),
        [[nan, nan, nan, 7, nan], [1, 4, 5, nan, nan], [0, 2, 4, 8, nan]],
    )
    np.testing.assert_array_equal(
        decode_window(window, before), [[0, 2, 4, 8, nan], [1, 4, 5, nan, nan]]
    )


async def test_removed_sensor_keeps_its_slot(store: Store):
    await store.put_equipment(make_machine(sensors=("A", "B")))
    await store.ingest("press-1", ["A", "B"], [T0_S * 1_000_000] * 2, [1.0, 2.0])
    await store.put_equipment(make_machine(sensors=("B",)))
    await store.ingest("press-1", ["B"], [(T0_S + 1) * 1_000_000], [3.0])
    again = make_machine(sensors=("B", "A"))
    await store.put_equipment(again)

    (window,) = await store.read_windows([("press-1", T0_S, 2)])

    assert window.slot_sensors == ("A", "B")
    np.testing.assert_array_equal(decode_window(window, again), [[2.0, 3.0], [1.0, np.nan]])


def test_window_of_another_grid_is_refused():
    window = StoredWindow("press-1", 0, 1, 10_000_000, ("PS1",), b"\0" * 8, b"", None)

    with pytest.raises(WindowError, match="expected bins of 1000000 us"):
        decode_window(window, make_machine())


async def test_range_of_readings_is_from_the_first_bin_to_the_last(store: Store, filled: Filled):
    await store.ingest("press-1", ["S0"], [(T0_S + 1000) * 1_000_000], [5.0])
    assert await store.data_range("press-1") == (T0_S, T0_S + 1001)
    with pytest.raises(UnknownEquipment):
        await store.data_range("press-9")


@pytest.mark.skipif(bool(TIMESCALE_DSN), reason="partitions of the plain edition")
async def test_read_opens_only_the_partitions_of_its_months(
    store: Store, filled: Filled, database_dsn: str
):
    for month in range(1, 6):
        await store.ingest("press-1", ["S0"], [(T0_S + month * MONTH_S) * 1_000_000], [1.0])
    session = await asyncpg.connect(database_dsn)
    text = await nested_plans(session, "read_windows", *2 * [("*", ["press-1"], [T0_S], [60])])
    await session.close()
    scanned = {line.strip() for line in text.splitlines() if "Scan" in line}

    assert any("sensor_grid_2023_11" in line for line in scanned)
    assert any("sensor_readings_2023_11" in line for line in scanned)
    assert not [line for line in scanned if "2023_12" in line or "2024_" in line], text
    # pruned at the start of the statement, not scanned and found empty
    assert text.count("Subplans Removed: 5") == 2, text
    assert "Seq Scan on sensor" not in text


async def test_window_over_a_border_of_months_is_whole(store: Store):
    await store.put_equipment(make_machine(sensors=("A",)))
    await store.put_equipment(make_machine("press-2", sensors=("A",)))
    border_s = 1_701_388_800
    times_us = (border_s - 2 + np.arange(4)) * 1_000_000
    await store.ingest("press-1", ["A"] * 4, times_us, [1, 2, 3, 4])

    across, unknown, after = await store.read_windows(
        [("press-1", border_s - 3, 6), ("press-9", 0, 5), ("press-1", border_s, 1)]
    )

    machine = make_machine(sensors=("A",))
    np.testing.assert_array_equal(decode_window(across, machine), [[np.nan, 1, 2, 3, 4, np.nan]])
    assert across.newest is not None
    assert across.newest.timestamp() == border_s + 1
    assert (unknown.slot_sensors, unknown.count) == ((), 0)
    np.testing.assert_array_equal(decode_window(after, machine), [[3]])


async def test_filled_windows_are_those_with_a_reading(store: Store):
    await store.put_equipment(make_machine(sensors=("A",)))
    await store.ingest(
        "press-1", ["A", "A"], [T0_S * 1_000_000, (T0_S + 9) * 1_000_000], [1.0, 2.0]
    )

    intervals = [
        ("press-1", T0_S, 5),
        ("press-1", T0_S + 1, 8),
        ("press-9", T0_S, 5),
        ("press-1", T0_S + 5, 5),
    ]
    assert await store.filled_windows(intervals) == [True, False, False, True]
    assert await store.filled_windows([]) == []


async def test_grid_digest_changes_with_the_bins(store: Store):
    await store.put_equipment(make_machine(sensors=("A", "B")))
    await store.ingest(
        "press-1", ["A", "A"], [T0_S * 1_000_000, (T0_S + 9) * 1_000_000], [1.0, 2.0]
    )
    intervals = [
        ("press-1", (T0_S - 5) * 1_000_000, (T0_S + 5) * 1_000_000),
        ("press-1", 0, 5),
        ("press-9", 0, 5),
    ]
    first, *empty = await store.grid_digests(intervals)
    assert empty == ["0:0", "0:0"]
    assert await store.grid_digests(intervals[:1]) == [first]
    await store.ingest("press-1", ["A"], [(T0_S + 60) * 1_000_000], [1.0])
    assert await store.grid_digests(intervals[:1]) == [first]

    await store.ingest("press-1", ["A"], [T0_S * 1_000_000 + 1], [1.5])

    assert await store.grid_digests(intervals[:1]) != [first]
