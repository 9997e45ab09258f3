"""Which cycle and which values are replayed at a time."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import ReadingError
from app.demo.rig.measurements import SENSOR_IDS, open_directory, read_blocks
from app.demo.rig.replay import Replay

WriteRig = Callable[..., Path]


def _counting(cycles: int) -> Replay:
    # value = 1000 * cycle + second, so that a value identifies its place
    values_CK = 1000.0 * np.arange(cycles)[:, None] + np.arange(60)
    return Replay(("A", "B"), np.stack([values_CK, -values_CK], axis=2))


@given(start_s=st.integers(0, 4 * 10**9), seconds=st.integers(0, 200), cycles=st.integers(1, 7))
def test_every_second_has_the_value_of_its_cycle_for_any_interval(
    start_s: int, seconds: int, cycles: int
) -> None:
    values_NS = _counting(cycles).values_between(start_s, start_s + seconds)
    assert values_NS.shape == (seconds, 2)
    expected = [
        1000.0 * (second // 60 % cycles) + second % 60
        for second in range(start_s, start_s + seconds)
    ]
    assert values_NS[:, 0].tolist() == expected
    assert values_NS[:, 1].tolist() == [-value for value in expected]


def test_load_keeps_every_value_in_the_given_order_of_sensors(write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=3))
    order = tuple(reversed(SENSOR_IDS))
    replay = Replay.load(files, order)
    (block,) = read_blocks(files, cycles_per_block=3)
    assert replay.values_CKS.shape == (3, 60, 17)
    for position, sensor_id in enumerate(order):
        assert np.array_equal(replay.values_CKS[:, :, position], block.values_CR[sensor_id])


def test_faster_data_than_a_second_are_not_replayed(write_rig: WriteRig) -> None:
    files = open_directory(write_rig(cycles=1, rates_hz={"FS1": 10}))
    with pytest.raises(
        ReadingError, match=r"expected 60 columns to replay, found FS1\.txt with 600"
    ):
        Replay.load(files, SENSOR_IDS)
