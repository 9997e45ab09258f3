"""The importer with a real database: repeated and interrupted imports store the files' values."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ReadingError, StoreError, TopologyError
from app.demo.machine import DEFAULT_START, Progress
from app.demo.rig.equipment import rig_equipment
from app.demo.rig.importer import block_readings, import_rig
from app.demo.rig.measurements import CYCLE_S, CycleBlock, RigFiles, open_directory, read_blocks
from app.store.labels import ConditionLabel
from app.store.store import Store
from app.store.windows import decode_window

WriteRig = Callable[..., Path]

START_S = 1_735_689_600  # DEFAULT_START
FAST = {"PS1": 100, "FS1": 10}


def _silent(_: Progress) -> None:
    pass


async def _bins(
    store: Store, equipment_id: str, first_s: int, end_s: int
) -> dict[str, list[float]]:
    equipment = rig_equipment(equipment_id)
    (window,) = await store.read_windows([(equipment_id, first_s, end_s - first_s)])
    return dict(zip(equipment.sensor_ids, decode_window(window, equipment).tolist(), strict=True))


async def test_every_bin_is_the_mean_of_the_files_second(store: Store, write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=2, rates_hz=FAST))  # cycles 1 and 3 of the original
    done = await import_rig(store, rig_equipment("rig-a"), files, DEFAULT_START, _silent)
    assert done == Progress(2, 2, 2 * 60 * (15 + 110), 2 * 60 * (15 + 110))
    (block,) = read_blocks(files, cycles_per_block=2)
    stored = await _bins(store, "rig-a", START_S, START_S + 4 * CYCLE_S)
    for sensor_id, values_CR in block.values_CR.items():
        rate = FAST.get(sensor_id, 1)
        # the store's rule: sum in order of time over count, in double precision, then float32
        means_CK = np.add.accumulate(values_CR.reshape(2, 60, rate), axis=2)[:, :, -1] / rate
        expected = np.full(4 * CYCLE_S, np.nan, dtype=np.float32)
        expected[60:120], expected[180:240] = means_CK.astype(np.float32)
        assert np.array_equal(
            np.array(stored[sensor_id], dtype=np.float32), expected, equal_nan=True
        ), sensor_id


async def test_labels_are_the_profiles_rows_with_their_cycle_and_stability(
    store: Store, write_rig: WriteRig
) -> None:
    files = open_directory(write_rig(cycles=2))
    await import_rig(store, rig_equipment("rig-b"), files, DEFAULT_START, _silent)
    labels = await store.read_labels("rig-b")
    first_us, second_us = ((START_S + minute * 60) * 1_000_000 for minute in (1, 3))
    expected = [
        ConditionLabel(component_id, start_us, start_us + 60_000_000, grade, stable, cycle)
        for start_us, cycle, stable, cooler, pump in (
            (first_us, 1, True, "3", "0"),
            (second_us, 3, False, "20", "1"),
        )
        for component_id, grade in (
            ("accumulator", "130"),
            ("cooler", cooler),
            ("pump", pump),
            ("valve", "100"),
        )
    ]
    assert labels == expected


async def test_second_import_adds_nothing(store: Store, write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=2))
    first = await import_rig(store, rig_equipment("rig-c"), files, DEFAULT_START, _silent)
    labels = await store.read_labels("rig-c")
    again = await import_rig(store, rig_equipment("rig-c"), files, DEFAULT_START, _silent)
    assert first.accepted == first.readings == again.readings == 2 * 60 * 17
    assert again.accepted == 0
    assert await store.read_labels("rig-c") == labels


async def test_interrupted_import_is_completed_by_the_next(
    store: Store, write_rig: WriteRig
) -> None:
    files = open_directory(write_rig(cycles=60))  # 61,200 readings: two blocks
    reported: list[Progress] = []

    def interrupt(progress: Progress) -> None:
        reported.append(progress)
        raise asyncio.CancelledError

    with pytest.raises(asyncio.CancelledError):
        await import_rig(store, rig_equipment("rig-d"), files, DEFAULT_START, interrupt)
    (partial,) = reported
    assert 0 < partial.done < 60
    done = await import_rig(store, rig_equipment("rig-d"), files, DEFAULT_START, reported.append)
    assert done == Progress(60, 60, 61_200, 61_200 - partial.accepted)
    assert [progress.done for progress in reported[1:]] == [partial.done, 60]
    assert len(await store.read_labels("rig-d")) == 4 * 60
    stored = await _bins(store, "rig-d", START_S, START_S + 120 * CYCLE_S)
    assert all(np.isfinite(values).sum() == 60 * CYCLE_S for values in stored.values())


async def test_error_late_in_a_file_keeps_the_blocks_before_it(
    store: Store, write_rig: WriteRig
) -> None:
    directory = write_rig(cycles=60)
    rows = (directory / "SE.txt").read_text().splitlines()
    (directory / "SE.txt").write_text("\n".join([*rows[:-1], rows[-1].replace("\t", "\tx", 1)]))
    with pytest.raises(ReadingError, match=r"SE\.txt line 60: expected a finite number"):
        await import_rig(
            store, rig_equipment("rig-e"), open_directory(directory), DEFAULT_START, _silent
        )
    (directory / "SE.txt").write_text("\n".join(rows))
    done = await import_rig(
        store, rig_equipment("rig-e"), open_directory(directory), DEFAULT_START, _silent
    )
    assert 0 < done.accepted < done.readings


@pytest.mark.parametrize(
    ("start", "message"),
    [
        (
            datetime(2025, 1, 1),  # noqa: DTZ001
            "expected a start with a time zone, found 2025-01-01T00:00:00",
        ),
        (DEFAULT_START + timedelta(seconds=1), "expected a start on a whole minute"),
        (DEFAULT_START + timedelta(microseconds=1), "expected a start on a whole minute"),
    ],
)
async def test_start_off_the_minute_is_refused_and_nothing_is_written(
    store: Store, write_rig: WriteRig, start: datetime, message: str
) -> None:
    with pytest.raises(ReadingError, match=message):
        await import_rig(
            store, rig_equipment("rig-f"), open_directory(write_rig(cycles=1)), start, _silent
        )
    assert await store.get_equipment("rig-f") is None


async def test_start_in_another_zone_is_the_same_instant(store: Store, write_rig: WriteRig) -> None:
    start = datetime(2025, 1, 1, 5, 45, tzinfo=timezone(timedelta(hours=5, minutes=45)))
    await import_rig(
        store, rig_equipment("rig-g"), open_directory(write_rig(cycles=1)), start, _silent
    )
    found = await store.data_range("rig-g")
    assert found is not None
    assert found.end == datetime(2025, 1, 1, 0, 2, tzinfo=UTC).timestamp()


async def test_grade_that_the_topology_lacks_is_reported(store: Store, write_rig: WriteRig) -> None:
    directory = write_rig(cycles=2)
    (directory / "profile.txt").write_text("3\t100\t0\t130\t1\n3\t100\t0\t131\t1\n")
    with pytest.raises(ReadingError) as caught:
        await import_rig(
            store, rig_equipment("rig-h"), open_directory(directory), DEFAULT_START, _silent
        )
    assert caught.value.message == (
        "profile.txt line 2: expected a grade of 'accumulator' (100, 115, 130, 90), found 131: "
        "correct the row or add the grade to the topology"
    )


async def test_equipment_that_does_not_fit_the_layout_is_refused(store: Store) -> None:
    other = rig_equipment("rig-i").model_copy(update={"cycle_s": 30.0})
    with pytest.raises(
        TopologyError, match="expected 60, the length of the rig's cycles, found 30"
    ):
        await import_rig(store, other, RigFiles("nothing", {}), DEFAULT_START, _silent)


async def test_error_of_the_store_is_raised(write_rig: WriteRig) -> None:
    away = Store("postgresql://nobody@127.0.0.1:1/none")
    with pytest.raises(StoreError):
        await import_rig(
            away, rig_equipment(), open_directory(write_rig(cycles=1)), DEFAULT_START, _silent
        )
    await away.close()


def _block(rates_hz: dict[str, int], cycle_index: list[int]) -> CycleBlock:
    cycles = len(cycle_index)
    return CycleBlock(
        cycle_index_C=np.array(cycle_index),
        values_CR={
            sensor_id: np.arange(cycles * 60 * rate, dtype=np.float64).reshape(cycles, -1)
            for sensor_id, rate in rates_hz.items()
        },
        grades_CG=np.zeros((cycles, 4), dtype=np.int64),
        stable_C=np.ones(cycles, dtype=np.bool_),
    )


def test_value_k_of_a_second_lies_k_rths_into_it() -> None:
    readings = block_readings(
        "rig", _block({"P": 100, "F": 10, "T": 1}, [0, 7]), START_S * 1_000_000
    )
    found = dict(
        zip(
            zip(readings.sensor_ids, readings.times_us.tolist(), strict=True),
            readings.values.tolist(),
            strict=True,
        )
    )
    assert len(found) == 2 * 60 * 111
    # by hand: value 150 of P is at 1.50 s of the first cycle; value 613 of F is the 13th of the
    # second cycle, 7 min after the start
    assert found["P", START_S * 1_000_000 + 1_500_000] == 150.0
    assert found["F", START_S * 1_000_000 + 7 * 60_000_000 + 1_300_000] == 613.0
    assert found["T", START_S * 1_000_000 + 59_000_000] == 59.0


@given(
    rates=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    gaps=st.lists(st.integers(1, 50), min_size=1, max_size=3),
)
def test_times_are_distinct_for_a_sensor_and_inside_their_cycle(
    rates: list[int], gaps: list[int]
) -> None:
    cycle_index = np.cumsum(gaps).tolist()
    readings = block_readings(
        "rig",
        _block({f"S{n}": rate for n, rate in enumerate(rates)}, cycle_index),
        START_S * 1_000_000,
    )
    assert len(set(zip(readings.sensor_ids, readings.times_us.tolist(), strict=True))) == len(
        readings.values
    )
    minutes = set(((readings.times_us - START_S * 1_000_000) // 60_000_000).tolist())
    assert minutes == set(cycle_index)
    for n, rate in enumerate(rates):
        of_sensor = np.array(readings.sensor_ids) == f"S{n}"
        assert readings.values[of_sensor].tolist() == list(range(len(gaps) * 60 * rate))
