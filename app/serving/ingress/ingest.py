"""Checks the readings of a body against the registered equipment, by columns.

Every line is accepted or rejected with a reason; a bad line does not affect the others. Small
bodies are read here, in turns with other requests; `IngestWorker` reads large ones in a process of
its own, so that they delay nobody and leave no memory behind.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from app.core.errors import UnknownEquipment
from app.schemas.equipment import Equipment
from app.schemas.reading_columns import ReadBody, SensorColumns, read_columns
from app.schemas.reading_csv import check_wide_sensors
from app.schemas.reading_formats import ReadingOptions
from app.schemas.reading_rows import EARLIEST, Refusal, Row, iso, refusal_of
from app.schemas.readings import MAX_LISTED_REJECTED, RejectedLine
from app.schemas.times import LATEST_AHEAD, microseconds

TURN_S = 0.002
"""Time of reading before other requests get a turn on the event loop."""

FindEquipment = Callable[[str], Awaitable[Equipment | UnknownEquipment]]


class Columns(NamedTuple):
    """Accepted readings of one equipment as parallel columns, with their lines."""

    sensor_ids: list[str]
    times_us: NDArray[np.int64]
    values: NDArray[np.float64]
    lines: NDArray[np.int32]

    @classmethod
    def empty(cls) -> "Columns":
        """Return columns without a reading."""
        return cls([], np.empty(0, np.int64), np.empty(0), np.empty(0, np.int32))


@dataclass(slots=True)
class Parsed:
    """A checked body: columns by equipment id, and the rejected lines, of which few are listed."""

    columns: dict[str, Columns] = field(default_factory=dict)
    rejected: list[RejectedLine] = field(default_factory=list)
    rejected_count: int = 0


async def read_in_turns(body: bytes, content_type: str, options: ReadingOptions) -> ReadBody:
    """Read a small body in turns with other requests; see `read_columns`."""
    reading = read_columns(body, content_type, options)
    turn_ends = time.perf_counter() + TURN_S
    while True:
        try:
            next(reading)
        except StopIteration as end:
            found: ReadBody = end.value
            return found
        if time.perf_counter() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.perf_counter() + TURN_S


async def check_body(
    body: ReadBody, find_equipment: FindEquipment, now: datetime, options: ReadingOptions
) -> Parsed:
    """Check the readings of a body.

    Args:
        body: as it was read.
        find_equipment: returns a registered topology, or why there is none.
        now: UTC; readings more than 5 minutes ahead of it are rejected.
        options: of the request.

    Raises:
        ReadingError: columns of a wide body are not the sensors of its machine.
    """
    if options.equipment_id is not None and body.wide_sensors:
        equipment = await find_equipment(options.equipment_id)
        if isinstance(equipment, Equipment):
            check_wide_sensors(body.wide_sensors, options.equipment_id, equipment.sensor_ids)
    latest_us = microseconds(now + LATEST_AHEAD)
    parsed = Parsed(rejected_count=body.rejected_count)
    rejected = list(body.rejected)
    for equipment_id, columns in body.columns.items():
        equipment = await find_equipment(equipment_id)
        is_bad_R = _is_bad(columns, equipment_id, equipment, latest_us, options)
        bad_B = np.flatnonzero(is_bad_R)
        parsed.rejected_count += len(bad_B)
        known = equipment if isinstance(equipment, UnknownEquipment) else equipment.sensor_ids
        for index in bad_B[:MAX_LISTED_REJECTED].tolist():
            row = Row(
                columns.lines_R[index],
                equipment_id,
                columns.sensor_ids[columns.sensor_R[index]],
                columns.times_us_R[index],
                columns.values_R[index],
            )
            refusal = refusal_of(row, known, latest_us, options.equipment_id)
            rejected.append((refusal or _outside(row, options)).explained())
        if len(bad_B) < len(is_bad_R):
            parsed.columns[equipment_id] = _accepted(columns, ~is_bad_R)
        await asyncio.sleep(0)
    rejected.sort(key=lambda each: each.line)
    parsed.rejected = rejected[:MAX_LISTED_REJECTED]
    return parsed


def _is_bad(
    columns: SensorColumns,
    equipment_id: str,
    equipment: Equipment | UnknownEquipment,
    latest_us: int,
    options: ReadingOptions,
) -> NDArray[np.bool_]:
    """Return which readings are rejected."""
    times_us_R = np.frombuffer(columns.times_us_R, np.int64)
    is_other = options.equipment_id is not None and equipment_id != options.equipment_id
    if is_other or isinstance(equipment, UnknownEquipment):
        return np.ones(len(times_us_R), np.bool_)
    known = frozenset(equipment.sensor_ids)
    is_unknown_S = np.array([each not in known for each in columns.sensor_ids], np.bool_)
    is_bad_R = is_unknown_S[np.frombuffer(columns.sensor_R, np.int32)]
    is_bad_R |= (times_us_R < microseconds(EARLIEST)) | (times_us_R > latest_us)
    if options.interval is not None:
        start_us, end_us = map(microseconds, options.interval)
        is_bad_R |= (times_us_R < start_us) | (times_us_R >= end_us)
    return is_bad_R


def _accepted(columns: SensorColumns, is_good_R: NDArray[np.bool_]) -> Columns:
    # the same objects for equal names, so that many rows take no memory
    names_S = np.array(columns.sensor_ids, np.object_)
    return Columns(
        names_S[np.frombuffer(columns.sensor_R, np.int32)[is_good_R]].tolist(),
        np.frombuffer(columns.times_us_R, np.int64)[is_good_R],
        np.frombuffer(columns.values_R, np.float64)[is_good_R],
        np.frombuffer(columns.lines_R, np.int32)[is_good_R],
    )


def _outside(row: Row, options: ReadingOptions) -> Refusal:
    assert options.interval is not None
    start, end = (each.isoformat() for each in options.interval)
    found = iso(row.time_us)
    reason = f"expected a time from {start} to before {end}, found {found}: leave it out"
    return Refusal(row.line, reason, "time")
