"""Checks parsed readings against the registered equipment and collects them for the store.

Every line is accepted or rejected with a reason; a bad line does not affect the others. Parsing
takes turns with other requests on the event loop.
"""

import asyncio
import time
from array import array
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from app.core.errors import LimitExceeded, UnknownEquipment
from app.schemas.equipment import Equipment
from app.schemas.reading_csv import check_wide_sensors
from app.schemas.reading_formats import Body, ReadingOptions, format_of, read_body
from app.schemas.reading_rows import (
    MAX_LINES,
    Refusal,
    Row,
    iso,
    no_reading,
    refusal_of,
    too_many_lines,
)
from app.schemas.readings import MAX_LISTED_REJECTED, RejectedLine
from app.schemas.times import LATEST_AHEAD, microseconds

MAX_EQUIPMENT = 1_000
"""Most different equipment of one body: each is looked up."""
TURN_S = 0.002
"""Time of parsing before other requests get a turn on the event loop."""
ROWS_PER_LOOK = 32
"""Rows between two looks at the clock; refusing that many takes about a millisecond."""

_ANY = ReadingOptions()

FindEquipment = Callable[[str], Awaitable[Equipment | UnknownEquipment]]


class Columns(NamedTuple):
    """Readings of one equipment as parallel columns, with their lines."""

    sensor_ids: list[str]
    times_us: "array[int]"
    values: "array[float]"
    lines: "array[int]"

    @classmethod
    def empty(cls) -> "Columns":
        """Return columns without a reading."""
        return cls([], array("q"), array("d"), array("q"))


@dataclass(slots=True)
class Parsed:
    """A parsed body: columns by equipment id, and the rejected lines, of which few are listed."""

    columns: dict[str, Columns] = field(default_factory=dict)
    rejected: list[RejectedLine] = field(default_factory=list)
    rejected_count: int = 0

    def reject(self, refusal: Refusal) -> None:
        """Count a rejected line; explain the first `MAX_LISTED_REJECTED`."""
        self.rejected_count += 1
        if self.rejected_count <= MAX_LISTED_REJECTED:
            self.rejected.append(refusal.explained())


async def parse_readings(
    body: bytes,
    content_type: str,
    find_equipment: FindEquipment,
    now: datetime,
    options: ReadingOptions = _ANY,
) -> Parsed:
    """Parse a readings body; see `app.schemas.reading_formats`.

    Args:
        body: of the request.
        content_type: of the body.
        find_equipment: returns a registered topology, or why there is none.
        now: UTC; readings more than 5 minutes ahead of it are rejected.
        options: of the request.

    Raises:
        ReadingError: the body as a whole can't be read: not JSON, no header, empty.
        UnsupportedMedia: the content type is unknown.
        LimitExceeded: it has more than `MAX_LINES` lines or `MAX_EQUIPMENT` equipment.
    """
    kind = format_of(content_type, body)
    source = read_body(body, kind, options)
    if options.equipment_id is not None:
        await _check_columns(source, options.equipment_id, find_equipment)
    checker = _Checker(find_equipment, now, options)
    parsed = Parsed()
    count = 0
    turn_ends = time.perf_counter() + TURN_S
    for step, row in enumerate(source.rows):
        if step % ROWS_PER_LOOK == 0 and time.perf_counter() > turn_ends:
            await asyncio.sleep(0)
            turn_ends = time.perf_counter() + TURN_S
        if row is None:
            continue
        count += 1
        if count > MAX_LINES:
            raise too_many_lines()
        if isinstance(row, Refusal):
            parsed.reject(row)
            continue
        if row.equipment_id not in checker.sensors:
            await checker.look_up(row)
        refusal = checker.refusal_of(row)
        if refusal is not None:
            parsed.reject(refusal)
            continue
        columns = parsed.columns.get(row.equipment_id)
        if columns is None:
            columns = parsed.columns[row.equipment_id] = Columns.empty()
        # the name of the topology, so that equal names of many rows take no memory
        columns.sensor_ids.append(checker.sensors[row.equipment_id][row.sensor_id])
        columns.times_us.append(row.time_us)
        columns.values.append(row.value)
        columns.lines.append(row.line)
    if count == 0:
        raise no_reading()
    return parsed


async def _check_columns(source: Body, equipment_id: str, find: FindEquipment) -> None:
    """Refuse a wide body whose columns are not the sensors of its machine.

    Raises:
        ReadingError: names the columns.
    """
    equipment = await find(equipment_id) if source.wide_sensors else None
    if isinstance(equipment, Equipment):
        check_wide_sensors(source.wide_sensors, equipment_id, equipment.sensor_ids)


class _Checker:
    """Checks rows: known equipment and sensor, possible time, and what the options say."""

    def __init__(self, find: FindEquipment, now: datetime, options: ReadingOptions) -> None:
        self._find = find
        self._latest_us = microseconds(now + LATEST_AHEAD)
        self._only = options.equipment_id
        self._interval = options.interval
        if options.interval:
            self._start_us, self._end_us = map(microseconds, options.interval)
        self.sensors: dict[str, dict[str, str]] = {}
        """Of each equipment that was looked up, its sensors; none of an unknown one."""
        self._unknown: dict[str, UnknownEquipment] = {}

    async def look_up(self, row: Row) -> None:
        """Look up the equipment of a row.

        Raises:
            LimitExceeded: it is one too many.
        """
        if len(self.sensors) == MAX_EQUIPMENT:
            raise LimitExceeded(
                f"expected readings of at most {MAX_EQUIPMENT} equipment, found more in line "
                f"{row.line}: send the body in parts",
                "equipment_id",
            )
        equipment = await self._find(row.equipment_id)
        ids: Sequence[str] = ()
        if isinstance(equipment, UnknownEquipment):
            self._unknown[row.equipment_id] = equipment
        else:
            ids = equipment.sensor_ids
        self.sensors[row.equipment_id] = {sensor_id: sensor_id for sensor_id in ids}

    def refusal_of(self, row: Row) -> Refusal | None:
        """Return why a row is rejected, or None."""
        sensors = self.sensors[row.equipment_id] or self._unknown[row.equipment_id]
        refusal = refusal_of(row, sensors, self._latest_us, self._only)
        if refusal is not None or self._interval is None:
            return refusal
        if not self._start_us <= row.time_us < self._end_us:
            start, end = (each.isoformat() for each in self._interval)
            found = iso(row.time_us)
            reason = f"expected a time from {start} to before {end}, found {found}: leave it out"
            return Refusal(row.line, reason, "time")
        return None
