"""Bodies of readings as people write them: formats, delimiters, decimals, encodings, bad lines."""

import json
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import LimitExceeded, ReadingError, UnsupportedMedia
from app.schemas.reading_formats import UNNAMED_TYPES, ReadingOptions, format_of, read_body
from app.schemas.reading_rows import MAX_LINE_LENGTH, Refusal, Row
from app.schemas.readings import FLOAT32_MAX, RejectedLine
from app.schemas.times import microseconds

AT = "2026-01-31T11:00:00Z"
AT_US = microseconds(datetime(2026, 1, 31, 11, tzinfo=UTC))
GOOD = {"equipment_id": "press", "sensor_id": "p", "time": AT, "value": 1.5}
ANY = ReadingOptions()
PRESS = ReadingOptions("press")


def rows_of(
    body: str | bytes, content_type: str = "", options: ReadingOptions = ANY
) -> list[Row | RejectedLine]:
    raw = body.encode() if isinstance(body, str) else body
    rows = read_body(raw, format_of(content_type, raw), options).rows
    return [row.explained() if isinstance(row, Refusal) else row for row in rows if row is not None]


def values_of(body: str | bytes, options: ReadingOptions) -> dict[str, float]:
    return {row.sensor_id: row.value for row in rows_of(body, "", options) if isinstance(row, Row)}


@pytest.mark.parametrize("content_type", UNNAMED_TYPES)
@pytest.mark.parametrize(
    ("body", "lines"),
    [
        (json.dumps(GOOD), [1]),
        (json.dumps(GOOD, indent=2), [1]),
        (json.dumps([GOOD, GOOD], indent=2), [1, 2]),
        (json.dumps({"readings": [GOOD]}), [1]),
        ("\ufeff" + json.dumps(GOOD) + "\n" + json.dumps(GOOD) + "\n", [1, 2]),
        (f"equipment_id,sensor_id,time,value\npress,p,{AT},1.5", [2]),
    ],
)
def test_body_without_a_chosen_type_is_read_by_its_first_characters(
    content_type: str, body: str, lines: list[int]
):
    assert rows_of(body, content_type) == [Row(line, "press", "p", AT_US, 1.5) for line in lines]


def test_type_of_no_readings_names_those_that_are_read():
    with pytest.raises(UnsupportedMedia, match="application/x-ndjson or text/csv, found 'image/"):
        format_of("image/png", b"x")


def test_objects_nested_too_deep_are_refused_without_a_content_type():
    with pytest.raises(ReadingError, match="does not parse"):
        rows_of('{"a":' * 100_000)


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_long_csv_has_any_delimiter_order_case_and_line_end(delimiter: str, end: str):
    lines = [["Value", " TIMESTAMP", "sensor_ID", "Equipment_Id"], ["-2.5e1", AT, "p", '"press"']]
    body = "\ufeff" + end.join(delimiter.join(line) for line in lines) + end
    assert rows_of(body) == [Row(2, "press", "p", AT_US, -25.0)]


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_every_name_of_a_header_may_be_quoted(delimiter: str):
    lines = [['"time"', '"equipment_id"', '"p"'], [f'"{AT}"', '"press"', '"1.5"']]
    body = "\n".join(delimiter.join(line) for line in lines)
    assert rows_of(body, "text/csv") == [Row(2, "press", "p", AT_US, 1.5)]


def test_wide_csv_has_a_reading_for_each_filled_cell():
    body = f"time;PS1;TS1;FS1;EPS1\n{AT};1,5;;NaN;-2\n;1;2;3;4\n{AT};1.5;x;+1e3;,5\n"
    found = rows_of(body, "text/csv", PRESS)
    assert [(row.sensor_id, row.value) for row in found if isinstance(row, Row)] == [
        ("PS1", 1.5),
        ("EPS1", -2.0),
        ("PS1", 1.5),
        ("FS1", 1000.0),
        ("EPS1", 0.5),
    ]
    refused = [row for row in found if isinstance(row, RejectedLine)]
    assert [(row.line, row.field) for row in refused] == [(3, "time"), (4, "value")]
    assert refused[1].reason.startswith("column 'TS1': expected a finite number")


def test_wide_csv_may_name_the_equipment_of_each_line():
    body = f"equipment_id,time,p\npress,{AT},1\nmill,{AT},2\n"
    assert [row.equipment_id for row in rows_of(body) if isinstance(row, Row)] == ["press", "mill"]


@pytest.mark.parametrize(
    ("cell", "delimiter", "value"),
    [
        ("1,5", ";", 1.5),
        ("1.5", ";", 1.5),
        ("1,5", "\t", 1.5),
        ("1.234,5", ";", None),
        ("1,234,5", ";", None),
        ("1_0", ",", None),
        ("\u0661", ",", None),
        ("inf", ",", None),
        ("-Infinity", ";", None),
        ("nan", ",", None),
        ("", ",", None),
        ("1e39", ",", None),
        ("0x1", ",", None),
        (" 2 ", ",", 2.0),
    ],
)
def test_number_of_a_long_file(cell: str, delimiter: str, value: float | None):
    header = delimiter.join(("equipment_id", "sensor_id", "time", "value"))
    row = rows_of(f"{header}\n{delimiter.join(('press', 'p', AT, cell))}\n")[0]
    if value is None:
        assert isinstance(row, RejectedLine)
        assert row.reason == (
            f"expected a finite number that a float32 holds, found '{cell.strip()}'"
        )
    else:
        assert row == Row(2, "press", "p", AT_US, value)


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ("equipment_id,sensor_id,time,value,unit", "found column 'unit': leave it out, or name it"),
        ("equipment_id,sensor_id,time", "no column 'value'"),
        ("sensor_id,time,value", "no column 'equipment_id' .* parameter equipment_id"),
        ("equipment_id,PS1", "no column 'time'"),
        ("equipment_id,time", "found 0 columns of sensors"),
        ("equipment_id,time,PS1,PS1", "found column 'PS1' twice"),
        ("equipment_id,time,Time,PS1", "found column 'time' twice"),
        ("equipment_id,time,oil temperature", "'oil temperature', which is no sensor id"),
        ("equipment_id,time,,PS1", "found column 3 without a name"),
        ("equipment_id,time,\u00b0C", "which is no sensor id"),
    ],
)
def test_header_that_cant_be_used_names_the_column(header: str, message: str):
    with pytest.raises(ReadingError, match=message):
        rows_of(f"{header}\n1,2,3\n", "text/csv")


def test_ignored_columns_are_not_read():
    body = f"equipment_id;sensor_id;time;value;unit;oil quality\npress;p;{AT};1;bar;x\n"
    options = ReadingOptions(ignore_columns=frozenset({"unit", "oil quality"}))
    assert rows_of(body, "text/csv", options) == [Row(2, "press", "p", AT_US, 1.0)]
    with pytest.raises(ReadingError, match="ignore_columns with CSV only"):
        rows_of(json.dumps(GOOD), "application/json", options)


def test_empty_columns_at_the_end_of_lines_do_no_harm():
    assert values_of(f"time;p;t;;\n{AT};1;2;;\n{AT};3;4\n{AT};5;6;7\n", PRESS) == {"p": 3, "t": 4}


def test_bad_byte_loses_its_line_only():
    body = f"equipment_id,sensor_id,time,value\npress,p,{AT},1\n".encode()
    body += f"pr\xe9ss,p,{AT},2\npress,p,{AT},3\n".encode("latin-1")
    found = rows_of(body, "text/csv")
    assert [row.value for row in found if isinstance(row, Row)] == [1.0, 3.0]
    assert [(row.line, row.reason) for row in found if isinstance(row, RejectedLine)] == [
        (3, "expected UTF-8, found a byte that is not: save the file so")
    ]


def test_utf_16_is_named():
    body = f"equipment_id\ttime\tp\npress\t{AT}\t1\n".encode("utf-16")
    with pytest.raises(ReadingError, match="expected CSV in UTF-8, found UTF-16"):
        rows_of(body, "text/csv")


def test_csv_in_one_line_names_the_option_of_curl():
    with pytest.raises(ReadingError, match="--data-binary"):
        rows_of(f"equipment_id,sensor_id,time,valuepress,p,{AT},1")


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("[1, 2", "no JSON in item 2, line 1 column 5"),
        ("[1 2]", "no JSON in item 1"),
        ("[1,]", "no JSON in item 2"),
        ("[1] 2", "text after the list, line 1 column 5"),
        ('{"readings": [1]', "no end of the object"),
        ('{"readings": [1]} x', "text after the list"),
        ("{}\n{}", "text after the reading, line 2 column 1"),
        ("[" * 100_000, "no JSON in item 1"),
        ("\xff", "does not parse"),
        ('["' + "x" * MAX_LINE_LENGTH + '"]', "no JSON in item 1"),
        ("{" + " " * MAX_LINE_LENGTH + "}", "text that does not parse"),
    ],
)
def test_json_that_does_not_parse_names_its_place(body: str, message: str):
    with pytest.raises(ReadingError, match=message):
        rows_of(body, "application/json")


def test_long_list_is_read_in_parts():
    items = [GOOD | {"value": number} for number in range(5_000)]
    found = rows_of(json.dumps(items, indent=1), "application/json")
    assert [row.value for row in found if isinstance(row, Row)] == list(range(5_000))
    assert [row.line for row in found] == list(range(1, 5_001))


def test_line_that_is_too_long_is_refused_alone():
    good, long = json.dumps(GOOD), json.dumps(GOOD | {"sensor_id": "x" * MAX_LINE_LENGTH})
    found = rows_of(f"{good}\n{long}\n{good}", "application/x-ndjson")
    assert [isinstance(row, Row) for row in found] == [True, False, True]


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/csv"])
def test_no_message_is_python(content_type: str):
    bad: list[object] = [None, True, "\x00c", "\ud800", [], {}, 1e999, 10**400, {"a": None}]
    bad += [GOOD | {field: value} for field in GOOD for value in bad]
    if content_type == "text/csv":
        body = "equipment_id,sensor_id,time,value\n" + "\n".join(map(json.dumps, bad))
        raw = body.encode("utf-8", "replace")
    elif content_type == "application/x-ndjson":
        raw = "\n".join([*map(json.dumps, bad), "{not json", "\x00"]).encode()
    else:
        raw = json.dumps(bad).encode()
    found = [row for row in rows_of(raw, content_type) if isinstance(row, RejectedLine)]
    assert len(found) >= len(bad) - 8
    for row in found:
        assert row.reason.startswith("expected "), row
        for word in ("b'", "None", "True", "instance of", "Input should", "dictionary", "<"):
            assert word not in row.reason, row


_ID = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,10}", fullmatch=True)
_VALUE = st.floats(-FLOAT32_MAX, FLOAT32_MAX, allow_nan=False)
_TIME = st.datetimes(
    datetime(2000, 1, 1),  # noqa: DTZ001
    datetime(2100, 1, 1),  # noqa: DTZ001
    timezones=st.just(UTC),
)
_READINGS = st.lists(st.tuples(_ID, _ID, _TIME, _VALUE), min_size=1, max_size=20)


@given(_READINGS, st.sampled_from([",", ";", "\t"]), st.booleans())
def test_formats_give_the_same_rows(
    readings: list[tuple[str, str, datetime, float]], delimiter: str, has_mark: bool
):
    items = [
        {"equipment_id": machine, "sensor_id": sensor, "time": at.isoformat(), "value": value}
        for machine, sensor, at, value in readings
    ]
    expected = [
        (machine, sensor, microseconds(at), value) for machine, sensor, at, value in readings
    ]
    lines = [delimiter.join(map(str, item.values())) for item in items]
    if delimiter != ",":
        lines = [
            line.replace(".", ",") if "." not in line[: line.rfind(delimiter)] else line
            for line in lines
        ]
    csv = "\n".join([delimiter.join(items[0]), *lines])
    bodies = [json.dumps(items), "\n".join(map(json.dumps, items)), csv]
    if len(items) == 1:
        bodies.append(json.dumps(items[0]))
    for body in bodies:
        found = rows_of(("\ufeff" if has_mark else "") + body)
        assert [tuple(row)[1:] for row in found] == expected


@given(
    st.binary(max_size=300)
    | st.text(st.sampled_from('{}[]",:;\t\n\r 01.eEnaT-Z'), max_size=60).map(str.encode)
    | st.text(max_size=60).map(lambda text: f"time;p\n{AT};1,5\n{text}".encode("utf-8", "replace")),
    st.sampled_from(["", "application/json", "application/x-ndjson", "text/csv"]),
    st.sampled_from([None, "press"]),
)
def test_any_bytes_are_rows_refusals_or_an_error(body: bytes, content_type: str, named: str | None):
    try:
        found = rows_of(body, content_type, ReadingOptions(named))
    except (ReadingError, LimitExceeded):
        return
    for row in found:
        if isinstance(row, Row):
            assert math.isfinite(row.value)
            assert timedelta(microseconds=row.time_us) < timedelta(days=3_000_000)
        else:
            assert row.model_dump_json()
            assert row.reason.startswith(("expected ", "column "))
