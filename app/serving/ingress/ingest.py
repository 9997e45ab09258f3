"""Parses bodies of `POST /v1/readings`: JSON, NDJSON or CSV into columns for the store.

Every line is accepted or rejected with a reason; a bad line does not affect the others. Pure: a
function argument looks up the topologies.
"""

import asyncio
import csv
import io
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from pydantic import ValidationError
from pydantic_core import from_json

from app.core.errors import LimitExceeded, ReadingError
from app.schemas.equipment import Equipment
from app.schemas.places import shown, some_of
from app.schemas.readings import MAX_LISTED_REJECTED, Reading, RejectedLine

CSV_COLUMNS = ("equipment_id", "sensor_id", "time", "value")
EARLIEST = datetime(2000, 1, 1, tzinfo=UTC)
LATEST_AHEAD = timedelta(minutes=5)
MAX_LINES = 500_000
"""Most lines, or list items, of one body."""
MAX_EQUIPMENT = 1_000
"""Most different equipment of one body: each is looked up."""
LINES_PER_TURN = 1_000
"""Lines read before other requests get a turn on the event loop."""

_MAX_EXPLAINED_ERRORS = 50

FindEquipment = Callable[[str], Awaitable[Equipment | None]]


class Columns(NamedTuple):
    """Readings of one equipment as parallel lists; times in microseconds since 1970 UTC."""

    sensor_ids: list[str]
    times_us: list[int]
    values: list[float]


class Refusal(NamedTuple):
    """Why a line is rejected, and its field; empty for the whole line."""

    reason: str
    field: Any = ""


Lines = Iterator[tuple[int, Reading | Refusal]]
"""The numbered lines of a body that are not blank."""


@dataclass(slots=True)
class Parsed:
    """A parsed body: columns by equipment id, and the rejected lines.

    `rejected` has one item for each rejected line; beyond the first `MAX_LISTED_REJECTED` it
    repeats `UNLISTED`, since half a million reasons would fill the memory.
    """

    columns: dict[str, Columns]
    rejected: list[RejectedLine]

    def reject(self, number: int, refusal: Refusal) -> None:
        """Add a rejected line."""
        self.rejected.append(
            RejectedLine(line=number, field=refusal.field, reason=refusal.reason)
            if len(self.rejected) < MAX_LISTED_REJECTED
            else UNLISTED
        )


UNLISTED = RejectedLine(line=0, reason="not listed")


async def parse_readings(
    body: bytes, content_type: str, find_equipment: FindEquipment, now: datetime
) -> Parsed:
    """Parse a readings body.

    Args:
        body: of the request.
        content_type: `application/json` (a reading, a list of them, or `{"readings": [...]}`),
            `application/x-ndjson` or `text/csv` with a header of equipment_id, sensor_id, time,
            value.
        find_equipment: returns a registered topology or None.
        now: UTC; readings more than 5 minutes ahead of it are rejected.

    Raises:
        ReadingError: the body as a whole can't be read: unknown type, not JSON, no header, empty.
        LimitExceeded: it has more than `MAX_LINES` lines or `MAX_EQUIPMENT` equipment.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in ("application/x-ndjson", "application/ndjson", "application/jsonl"):
        lines = _ndjson_lines(body)
    elif kind == "text/csv":
        lines = _csv_lines(body)
    elif kind in ("application/json", ""):
        lines = _json_lines(body)
    else:
        raise ReadingError(
            "expected application/json, application/x-ndjson or text/csv, found "
            f"{shown(content_type)}: set Content-Type",
            "content-type",
        )
    parsed = Parsed({}, [])
    known: dict[str, frozenset[str] | None] = {}
    count = 0
    for number, outcome in lines:
        count += 1
        if number > MAX_LINES:
            raise _too_many_lines()
        if count % LINES_PER_TURN == 0:
            await asyncio.sleep(0)
        if isinstance(outcome, Refusal):
            parsed.reject(number, outcome)
            continue
        if outcome.equipment_id not in known:
            if len(known) == MAX_EQUIPMENT:
                raise LimitExceeded(
                    f"expected readings of at most {MAX_EQUIPMENT} equipment, found more in line "
                    f"{number}: send the body in parts",
                    "equipment_id",
                )
            equipment = await find_equipment(outcome.equipment_id)
            known[outcome.equipment_id] = (
                None if equipment is None else frozenset(equipment.sensor_ids)
            )
        refusal = _refusal(outcome, known[outcome.equipment_id], now)
        if refusal is not None:
            parsed.reject(number, refusal)
            continue
        columns = parsed.columns.setdefault(outcome.equipment_id, Columns([], [], []))
        columns.sensor_ids.append(outcome.sensor_id)
        columns.times_us.append(microseconds(outcome.time))
        columns.values.append(outcome.value)
    if count == 0:
        raise ReadingError(
            "expected at least one reading, found none: post {equipment_id, sensor_id, time, value}"
        )
    return parsed


def _too_many_lines() -> LimitExceeded:
    return LimitExceeded(
        f"expected at most {MAX_LINES} lines, found more: send the body in parts", "body"
    )


def microseconds(time: datetime) -> int:
    """Return whole microseconds since 1970-01-01T00:00Z of an aware time, exactly."""
    return (time - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def _refusal(reading: Reading, sensors: frozenset[str] | None, now: datetime) -> Refusal | None:
    if sensors is None:
        return Refusal(
            f"expected a registered equipment, found {shown(reading.equipment_id)}: register its "
            "topology first",
            "equipment_id",
        )
    if reading.sensor_id not in sensors:
        return Refusal(
            f"expected a sensor of '{reading.equipment_id}', found {shown(reading.sensor_id)}: "
            f"there are {some_of(sorted(sensors))}",
            "sensor_id",
        )
    if not EARLIEST <= reading.time <= now + LATEST_AHEAD:
        return Refusal(
            f"expected a time from {EARLIEST:%Y-%m-%d} to 5 minutes from now, found "
            f"{reading.time.isoformat()}: check the clock of its source",
            "time",
        )
    return None


def _read(raw: Any, validate: Callable[[Any], Reading]) -> Reading | Refusal:
    try:
        return validate(raw)
    except ValidationError as error:
        return _refusal_of(error)


def _refusal_of(error: ValidationError) -> Refusal:
    if error.error_count() > _MAX_EXPLAINED_ERRORS:
        return Refusal(
            f"expected {', '.join(CSV_COLUMNS)} and nothing else, found {error.error_count()} "
            "faults in one line"
        )
    first = error.errors(include_url=False, include_context=False)[0]
    place = str(first["loc"][0]) if first["loc"] else ""
    hint = {
        "timezone_aware": "expected a time with its zone, such as 2026-01-31T12:00:00Z",
        "missing": f"expected a field '{place}'",
        "extra_forbidden": f"expected no field {shown(place)}",
        "string_pattern_mismatch": "expected an id of letters, digits and ._:- that begins with a "
        "letter or digit, 64 at most",
    }.get(str(first["type"]), str(first["msg"]))
    return Refusal(f"{hint}, found {shown(first['input'])}", place if place in CSV_COLUMNS else "")


def _json_lines(body: bytes) -> Lines:
    try:
        document = from_json(body)
    except ValueError as error:
        raise ReadingError(f"expected JSON, found text that does not parse: {error}") from error
    if isinstance(document, dict) and set(document) == {"readings"}:
        document = document["readings"]
    items = document if isinstance(document, list) else [document]
    if len(items) > MAX_LINES:
        raise _too_many_lines()
    return (
        (number, _read(item, Reading.model_validate)) for number, item in enumerate(items, start=1)
    )


def _ndjson_lines(body: bytes) -> Lines:
    if body.count(b"\n") > MAX_LINES:
        raise _too_many_lines()
    lines = ((number, line.strip()) for number, line in enumerate(body.split(b"\n"), start=1))
    return ((number, _read(line, Reading.model_validate_json)) for number, line in lines if line)


def _csv_lines(body: bytes) -> Lines:
    try:
        text = body.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ReadingError(
            f"expected CSV in UTF-8, found a byte that is not at position {error.start}"
        ) from error
    # blank lines do not count towards the limit, and reading 32 million of them takes seconds
    if max(text.count("\n"), text.count("\r")) > MAX_LINES:
        raise _too_many_lines()
    lines = enumerate(io.StringIO(text, newline=None), start=1)
    _, first = next(lines, (1, ""))
    try:
        header = _cells(first)
    except csv.Error as error:
        raise ReadingError(
            f"expected a CSV header of {', '.join(CSV_COLUMNS)}, found {shown(first)}: {error}"
        ) from error
    names = [name.strip() for name in header]
    if sorted(names) != sorted(CSV_COLUMNS):
        raise ReadingError(
            f"expected a CSV header of {', '.join(CSV_COLUMNS)}, found "
            f"{shown(','.join(header))}: add it as the first line"
        )
    return _csv_rows(names, lines)


def _cells(line: str) -> list[str]:
    # each line alone: a stray quote would otherwise swallow the good lines after it
    return next(csv.reader([line], strict=True), [])


def _csv_rows(names: list[str], lines: Iterable[tuple[int, str]]) -> Lines:
    for number, line in lines:
        try:
            row = _cells(line)
        except csv.Error as error:
            yield number, Refusal(f"expected a CSV line, found one that does not parse: {error}")
            continue
        if row and len(row) != len(names):
            yield number, Refusal(f"expected {len(names)} columns, found {len(row)}")
        elif row:
            values = dict(zip(names, map(str.strip, row), strict=True))
            yield number, _read(values, Reading.model_validate_strings)
