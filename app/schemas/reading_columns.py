"""A body of readings as columns by equipment, with the lines that can't be read. Pure.

Which equipment and sensors exist is not checked here, so that a body can be read where nothing
else is known, such as in another process.
"""

from array import array
from collections.abc import Generator
from dataclasses import dataclass, field

from app.core.errors import LimitExceeded
from app.schemas.reading_formats import ReadingOptions, format_of, read_body
from app.schemas.reading_rows import MAX_LINES, Refusal, no_reading, too_many_lines
from app.schemas.readings import MAX_LISTED_REJECTED, RejectedLine

MAX_EQUIPMENT = 1_000
"""Most different equipment of one body: each is looked up."""
ROWS_PER_PAUSE = 32
"""Rows between two pauses; refusing that many takes about a millisecond."""


@dataclass(slots=True)
class SensorColumns:
    """R readings of one equipment as parallel columns, with their lines.

    Args:
        sensor_ids: different ones, in the order of their first reading.
        sensor_R: index in `sensor_ids`.
        times_us_R: microseconds since 1970-01-01T00:00Z.
        values_R: finite as float32.
        lines_R: from 1, rising.
    """

    sensor_ids: list[str] = field(default_factory=list)
    sensor_R: "array[int]" = field(default_factory=lambda: array("i"))
    times_us_R: "array[int]" = field(default_factory=lambda: array("q"))
    values_R: "array[float]" = field(default_factory=lambda: array("d"))
    lines_R: "array[int]" = field(default_factory=lambda: array("i"))


@dataclass(slots=True)
class ReadBody:
    """A body that was read.

    Args:
        columns: by equipment id.
        rejected: lines that can't be read, the first `MAX_LISTED_REJECTED` of them.
        rejected_count: of all lines that can't be read.
        wide_sensors: that the header of a wide CSV body names.
    """

    columns: dict[str, SensorColumns] = field(default_factory=dict)
    rejected: list[RejectedLine] = field(default_factory=list)
    rejected_count: int = 0
    wide_sensors: tuple[str, ...] = ()


def read_columns(
    body: bytes, content_type: str, options: ReadingOptions
) -> Generator[None, None, ReadBody]:
    """Read a body; yields after every few rows, so that the reader can pause, and returns it.

    Args:
        body: see `app.schemas.reading_formats`.
        content_type: of the body.
        options: of the request; `interval` is not checked here.

    Raises:
        ReadingError: the body as a whole can't be read: not JSON, no header, empty.
        UnsupportedMedia: the content type is unknown.
        LimitExceeded: it has more than `MAX_LINES` lines or `MAX_EQUIPMENT` equipment.
    """
    source = read_body(body, format_of(content_type, body), options)
    found = ReadBody(wide_sensors=source.wide_sensors)
    sensors: dict[str, dict[str, int]] = {}
    count = 0
    for step, row in enumerate(source.rows):
        if step % ROWS_PER_PAUSE == 0:
            yield
        if row is None:
            continue
        count += 1
        if count > MAX_LINES:
            raise too_many_lines()
        if isinstance(row, Refusal):
            found.rejected_count += 1
            if found.rejected_count <= MAX_LISTED_REJECTED:
                found.rejected.append(row.explained())
            continue
        columns = found.columns.get(row.equipment_id)
        if columns is None:
            if len(found.columns) == MAX_EQUIPMENT:
                raise LimitExceeded(
                    f"expected readings of at most {MAX_EQUIPMENT} equipment, found more in line "
                    f"{row.line}: send the body in parts",
                    "equipment_id",
                )
            columns = found.columns[row.equipment_id] = SensorColumns()
            sensors[row.equipment_id] = {}
        places = sensors[row.equipment_id]
        place = places.get(row.sensor_id)
        if place is None:
            place = places[row.sensor_id] = len(places)
            columns.sensor_ids.append(row.sensor_id)
        columns.sensor_R.append(place)
        columns.times_us_R.append(row.time_us)
        columns.values_R.append(row.value)
        columns.lines_R.append(row.line)
    if count == 0:
        raise no_reading()
    return found
