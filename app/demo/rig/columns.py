"""Readings of cycles and of seconds as the parallel columns that the store accepts.

Invariant: value k of a second of a sensor with rate r has the time k / r seconds after its start.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.demo.rig.measurements import CYCLE_S, CycleBlock
from app.demo.rig.replay import Replay

SECOND_US = 1_000_000
CYCLE_US = CYCLE_S * SECOND_US


class Columns(NamedTuple):
    """R readings of one equipment.

    Args:
        sensor_ids: sensor of each.
        times_us: int64[R], microseconds since 1970-01-01T00:00Z.
        values: float64[R], in the sensor's unit.
    """

    sensor_ids: list[str]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]


def block_columns(block: CycleBlock, start_us: int) -> Columns:
    """Return the readings of a block: cycle i of the original begins i minutes after the start.

    Args:
        block: consecutive cycles.
        start_us: of the original's first cycle, microseconds since 1970-01-01T00:00Z.
    """
    cycle_start_C = start_us + block.cycle_index_C * CYCLE_US
    sensor_ids: list[str] = []
    times_us, values = [], []
    for sensor_id, values_CR in block.values_CR.items():
        readings = values_CR.shape[1]
        offset_R = np.arange(readings, dtype=np.int64) * CYCLE_US // readings
        sensor_ids += [sensor_id] * values_CR.size
        times_us.append((cycle_start_C[:, None] + offset_R).reshape(-1))
        values.append(values_CR.reshape(-1))
    return Columns(sensor_ids, np.concatenate(times_us), np.concatenate(values))


def second_columns(replay: Replay, start_s: int, end_s: int) -> Columns:
    """Return the replayed readings of [start_s, end_s), seconds since 1970-01-01T00:00Z."""
    sensors = len(replay.sensor_ids)
    return Columns(
        list(replay.sensor_ids) * (end_s - start_s),
        np.repeat(np.arange(start_s, end_s, dtype=np.int64) * SECOND_US, sensors),
        replay.values_between(start_s, end_s).reshape(-1),
    )
