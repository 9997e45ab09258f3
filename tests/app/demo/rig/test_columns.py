"""Readings of cycles and seconds as columns: values and times."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from app.demo.rig.columns import block_columns, second_columns
from app.demo.rig.measurements import CycleBlock
from app.demo.rig.replay import Replay

START_US = 1_735_689_600_000_000  # 2025-01-01T00:00Z


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
    columns = block_columns(_block({"P": 100, "F": 10, "T": 1}, [0, 7]), START_US)
    found = dict(
        zip(
            zip(columns.sensor_ids, columns.times_us.tolist(), strict=True),
            columns.values.tolist(),
            strict=True,
        )
    )
    assert len(found) == 2 * 60 * 111
    # by hand: value 150 of P is at 1.50 s of the first cycle; value 613 of F is the 13th of the
    # second cycle, 7 min after the start
    assert found["P", START_US + 1_500_000] == 150.0
    assert found["F", START_US + 7 * 60_000_000 + 1_300_000] == 613.0
    assert found["T", START_US + 59_000_000] == 59.0


@given(
    rates=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    gaps=st.lists(st.integers(1, 50), min_size=1, max_size=3),
)
def test_times_are_distinct_for_a_sensor_and_inside_their_cycle(
    rates: list[int], gaps: list[int]
) -> None:
    cycle_index = np.cumsum(gaps).tolist()
    columns = block_columns(
        _block({f"S{n}": rate for n, rate in enumerate(rates)}, cycle_index), START_US
    )
    assert len(set(zip(columns.sensor_ids, columns.times_us.tolist(), strict=True))) == len(
        columns.values
    )
    minutes = set(((columns.times_us - START_US) // 60_000_000).tolist())
    assert minutes == set(cycle_index)
    for n, rate in enumerate(rates):
        of_sensor = np.array(columns.sensor_ids) == f"S{n}"
        assert columns.values[of_sensor].tolist() == list(range(len(gaps) * 60 * rate))


def test_seconds_are_sensor_by_sensor_within_a_second() -> None:
    replay = Replay(("A", "B"), np.arange(240, dtype=np.float64).reshape(2, 60, 2))
    columns = second_columns(replay, 59, 61)
    assert columns.sensor_ids == ["A", "B", "A", "B"]
    assert columns.times_us.tolist() == [59_000_000, 59_000_000, 60_000_000, 60_000_000]
    assert columns.values.tolist() == [118.0, 119.0, 120.0, 121.0]
