"""Bodies of readings: JSON, NDJSON and CSV become rows, line by line. Pure.

Every line is read or refused alone; a bad line does not affect the others. Which equipment and
sensors exist is not checked here.
"""

import io
import json
import re
from collections.abc import Callable, Generator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal, NamedTuple

from pydantic import ValidationError

from app.core.errors import ReadingError, UnsupportedMedia
from app.schemas.places import shown
from app.schemas.reading_csv import CsvLayout, csv_lines
from app.schemas.reading_rows import (
    MAX_LINE_LENGTH,
    MAX_LINES,
    Refusal,
    Row,
    Rows,
    no_reading,
    too_long,
    too_many_lines,
)
from app.schemas.readings import Reading
from app.schemas.times import microseconds

Format = Literal["json", "ndjson", "csv"]

MEDIA_TYPES: dict[str, Format] = {
    "application/json": "json",
    "application/x-ndjson": "ndjson",
    "text/csv": "csv",
    "application/ndjson": "ndjson",
    "application/jsonl": "ndjson",
    "application/csv": "csv",
    "text/tab-separated-values": "csv",
}
UNNAMED_TYPES = ("", "application/x-www-form-urlencoded", "application/octet-stream", "text/plain")
"""Types that clients send when nobody chose one (`curl -d`): the body shows its format."""

_ONE_LINE = "The body has one line only: curl -d removes line ends, --data-binary keeps them"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class ReadingOptions:
    """How a body of readings is read.

    Args:
        equipment_id: of every reading; a CSV body needs no column for it then. None for any.
        ignore_columns: of a CSV body.
        interval: [start, end) of every reading, or None.
    """

    equipment_id: str | None = None
    ignore_columns: frozenset[str] = frozenset()
    interval: tuple[datetime, datetime] | None = None


class Body(NamedTuple):
    """The rows of a body, and the sensors that the header of a wide CSV body names."""

    rows: Rows
    wide_sensors: tuple[str, ...] = ()


def format_of(content_type: str, body: bytes) -> Format:
    """Return the format of a body, by its first characters where its type says nothing.

    Raises:
        UnsupportedMedia: the content type is none of readings.
    """
    kind = content_type.partition(";")[0].strip().lower()
    if kind in MEDIA_TYPES:
        return MEDIA_TYPES[kind]
    if kind not in UNNAMED_TYPES:
        raise UnsupportedMedia(
            "expected application/json, application/x-ndjson or text/csv, found "
            f"{shown(content_type)}: set Content-Type",
            "content-type",
        )
    start = body[:MAX_LINE_LENGTH].removeprefix(_BYTE_ORDER_MARK).lstrip()
    if start[:1] == b"[":
        return "json"
    if start[:1] != b"{":
        return "csv"
    first, _, rest = start.partition(b"\n")
    try:
        json.loads(first)
    except (ValueError, RecursionError):
        return "json"
    return "ndjson" if rest.strip() else "json"


def read_body(body: bytes, kind: Format, options: ReadingOptions) -> Body:
    """Read a body.

    Args:
        body: JSON (a reading, a list of them, or `{"readings": [...]}`), NDJSON or CSV.
        kind: its format.
        options: of the request; `interval` is not checked here.

    Raises:
        ReadingError: the body as a whole can't be read; also while the rows are read.
        LimitExceeded: it has more than `MAX_LINES` lines; likewise.
    """
    body = body.removeprefix(_BYTE_ORDER_MARK)
    # blank lines do not count as readings, and reading 32 million of them takes seconds
    if kind != "json" and max(body.count(b"\n"), body.count(b"\r")) > MAX_LINES:
        raise too_many_lines()
    if not body or body.isspace():
        raise no_reading()
    if kind == "csv":
        lines = enumerate(csv_lines(io.BytesIO(body)), start=1)
        try:
            layout = CsvLayout.of(next(lines)[1], options.equipment_id, options.ignore_columns)
        except ReadingError as error:
            if b"\n" in body or b"\r" in body:
                raise
            raise ReadingError(f"{error.message}. {_ONE_LINE}", error.field) from error
        return Body(layout.rows(lines), tuple(sensor_id for _, sensor_id in layout.sensors))
    if options.ignore_columns:
        raise ReadingError(
            f"expected the parameter ignore_columns with CSV only, found it with {kind.upper()}: "
            "leave it out",
            "ignore_columns",
        )
    return Body(_ndjson_rows(body) if kind == "ndjson" else _json_rows(body))


def _read(number: int, raw: Any, validate: Callable[[Any], Reading]) -> Row | Refusal:
    try:
        reading = validate(raw)
    except ValidationError as error:
        return Refusal(number, error)
    return Row(
        number,
        reading.equipment_id,
        reading.sensor_id,
        microseconds(reading.time),
        reading.value,
    )


def _ndjson_rows(body: bytes) -> Rows:
    for number, line in enumerate(io.BytesIO(body), start=1):
        stripped = line.strip()
        if len(stripped) > MAX_LINE_LENGTH:
            yield too_long(number)
        else:
            yield _read(number, stripped, Reading.model_validate_json) if stripped else None


def _parse_int(digits: str) -> int | float:
    # Python refuses to read an integer of thousands of digits
    return int(digits) if len(digits) < 20 else float(digits)


_SPACE = r"[ \t\n\r]*"
_LIST_BEGINS = re.compile(rf'{_SPACE}(\{{{_SPACE}"readings"{_SPACE}:{_SPACE})?\[')
_SKIP = re.compile(_SPACE)
_ITEM_ENDS = re.compile(rf"{_SPACE}([,\]])")
_LIST_ENDS = re.compile(rf"{_SPACE}\]")
_DECODER = json.JSONDecoder(parse_int=_parse_int)


def _json_rows(body: bytes) -> Rows:
    """Read the items of a list one after the other: the whole document would fill the memory."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise _json_error("", 0, f"a byte that is not UTF-8 at position {error.start}") from error
    begin = _LIST_BEGINS.match(text)
    if begin is None:
        start = _end_of(_SKIP, text, 0)
        item, end = _json_item(text[: start + MAX_LINE_LENGTH], start)
        _check_end(text, end, "text after the reading")
        yield _read(1, item, Reading.model_validate)
        return
    end = yield from _json_list(text, begin.end())
    if begin[1]:
        end = _end_of(_SKIP, text, end)
        if text[end : end + 1] != "}":
            raise _json_error(text, end, "no end of the object that has the list")
        end += 1
    _check_end(text, end, "text after the list")


def _json_list(text: str, position: int) -> Generator[Row | Refusal, None, int]:
    """Read the items of a list that begins before `position`; return where it ends."""
    if (end := _LIST_ENDS.match(text, position)) is not None:
        return end.end()
    number = 0
    while True:
        # parts of the text, so that no item takes long
        part = text[position : position + MAX_LINE_LENGTH]
        is_last = position + len(part) == len(text)
        done = 0
        while True:
            start = _end_of(_SKIP, part, done)
            try:
                item, end_of_item = _json_item(part, start)
                separator = _ITEM_ENDS.match(part, end_of_item)
            except ReadingError:
                separator = None
            if separator is None:
                break
            number += 1
            if number > MAX_LINES:
                raise too_many_lines()
            yield _read(number, item, Reading.model_validate)
            done = separator.end()
            if separator[1] == "]":
                return position + done
        if done == 0 or is_last:
            raise _json_error(text, position + start, f"no JSON in item {number + 1}")
        position += done


def _json_item(text: str, start: int) -> tuple[object, int]:
    try:
        return _DECODER.raw_decode(text, start)
    except (ValueError, RecursionError) as error:
        place = error.pos if isinstance(error, json.JSONDecodeError) else start
        raise _json_error(text, place, "text that does not parse") from error


def _json_error(text: str, position: int, found: str) -> ReadingError:
    line = text.count("\n", 0, position) + 1
    column = position - text.rfind("\n", 0, position)
    return ReadingError(
        f"expected JSON (a reading, a list of readings of at most {MAX_LINE_LENGTH} characters "
        f"each, or an object with them as `readings`), found {found}, line {line} column {column}: "
        "correct it, or send one object a line (with curl --data-binary)"
    )


def _check_end(text: str, end: int, found: str) -> None:
    end = _end_of(_SKIP, text, end)
    if end < len(text):
        raise _json_error(text, end, found)


def _end_of(pattern: re.Pattern[str], text: str, start: int) -> int:
    found = pattern.match(text, start)
    return start if found is None else found.end()
