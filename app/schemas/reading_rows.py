"""Rows and refused lines, which the readers of all formats of readings yield. Pure."""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from typing import NamedTuple, TypeAlias

from pydantic import TypeAdapter, ValidationError

from app.core.errors import LimitExceeded, ReadingError, UnknownError
from app.schemas.equipment import Identifier
from app.schemas.places import shown, some_of
from app.schemas.readings import ReadingField, RejectedLine
from app.schemas.times import microseconds

COLUMNS: tuple[ReadingField, ...] = ("equipment_id", "sensor_id", "time", "value")
MAX_LINES = 500_000
"""Most lines, list items or readings of one body."""
MAX_LINE_LENGTH = 262_144
"""Most characters of a line or list item: a wide header of 2,048 sensors fits."""
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
"""Readings are from then to `times.LATEST_AHEAD` after now."""

IDENTIFIER = TypeAdapter[str](Identifier)
EXPECTED_ID = (
    "expected an id of letters, digits and ._:- that begins with a letter or digit, 64 at most"
)
EXPECTED_VALUE = "expected a finite number that a float32 holds"

EXPECTED_TIME = "expected a time with its zone, such as 2026-01-31T12:00:00Z"

_EARLIEST_US = microseconds(EARLIEST)
_EXPECTED = {
    "equipment_id": EXPECTED_ID,
    "sensor_id": EXPECTED_ID,
    "time": EXPECTED_TIME,
    "value": EXPECTED_VALUE,
}
_MAX_EXPLAINED_ERRORS = 50


class Row(NamedTuple):
    """A reading and the number of its line, from 1; its time in microseconds since 1970 UTC."""

    line: int
    equipment_id: str
    sensor_id: str
    time_us: int
    value: float


class Refusal(NamedTuple):
    """Why a line, or one cell of a wide line, is no reading.

    `cause` may be pydantic's error: explaining it takes longer than finding it, and of many bad
    lines only the first are explained.
    """

    line: int
    cause: str | ValidationError
    field: ReadingField = ""

    def explained(self) -> RejectedLine:
        """Return the line with its reason."""
        reason, place = self.cause, self.field
        if isinstance(reason, ValidationError):
            reason, place = _explained(reason, place)
        # JSON may have single surrogates, which UTF-8 can't encode
        reason = reason.encode("utf-8", "backslashreplace").decode()
        return RejectedLine(line=self.line, field=place, reason=reason)


Rows: TypeAlias = Iterator[Row | Refusal | None]
"""Rows and refused lines in the order of the body; None for a line without a reading, so that who
reads many of them can pause."""


def refusal_of(
    row: Row,
    sensors: Collection[str] | UnknownError,
    latest_us: int,
    only: str | None = None,
) -> Refusal | None:
    """Return why a row can't be stored; None if it can.

    Args:
        row: of a file or body.
        sensors: of its equipment; an error if that is not registered.
        latest_us: `LATEST_AHEAD` after now, in microseconds since 1970 UTC.
        only: the equipment of all rows, None for any.
    """
    if only is not None and row.equipment_id != only:
        found = shown(row.equipment_id)
        reason = f"expected readings of '{only}' only, found {found}: leave it out"
        return Refusal(row.line, reason, "equipment_id")
    if isinstance(sensors, UnknownError):
        return Refusal(row.line, sensors.message, "equipment_id")
    if row.sensor_id not in sensors:
        found, names = shown(row.sensor_id), some_of(sorted(sensors))
        reason = f"expected a sensor of '{row.equipment_id}', found {found}: there are {names}"
        return Refusal(row.line, reason, "sensor_id")
    if not _EARLIEST_US <= row.time_us <= latest_us:
        reason = (
            f"expected a time from {EARLIEST:%Y-%m-%d} to 5 minutes from now, found "
            f"{iso(row.time_us)}: check the clock of its source"
        )
        return Refusal(row.line, reason, "time")
    return None


def iso(time_us: int) -> str:
    """Return microseconds since 1970 UTC as ISO 8601 text."""
    try:
        return (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=time_us)).isoformat()
    except OverflowError:  # a zone can move it out of the years 1 to 9999
        return "one outside the years 1 to 9999"


def too_many_lines() -> LimitExceeded:
    """Return the error of a body with too many lines or readings."""
    return LimitExceeded(
        f"expected at most {MAX_LINES} lines and readings, found more: send the body in parts",
        "body",
    )


def no_reading() -> ReadingError:
    """Return the error of a body without a reading."""
    return ReadingError(
        "expected at least one reading, found none: post {equipment_id, sensor_id, time, value}"
    )


def too_long(number: int) -> Refusal:
    """Return the refusal of a line that is too long."""
    return Refusal(number, f"expected at most {MAX_LINE_LENGTH} characters, found more")


def _explained(error: ValidationError, place: ReadingField) -> tuple[str, ReadingField]:
    if error.error_count() > _MAX_EXPLAINED_ERRORS:
        return (
            f"expected {', '.join(COLUMNS)} and nothing else, found {error.error_count()} faults "
            "in one line"
        ), ""
    first = error.errors(include_url=False, include_context=False)[0]
    name = str(first["loc"][0]) if first["loc"] else place
    known: ReadingField = next((column for column in COLUMNS if column == name), "")
    found = shown(first["input"])
    match first["type"]:
        case "missing":
            return f"expected a field '{name}', found none", known
        case "extra_forbidden":
            return f"expected no field {shown(name)}, found {found}: leave it out", ""
        case "json_invalid":
            return f"expected JSON, found {found}", ""
    if known:
        return f"{_EXPECTED[known]}, found {found}", known
    return f"expected an object of {', '.join(COLUMNS)}, found {found}", ""
