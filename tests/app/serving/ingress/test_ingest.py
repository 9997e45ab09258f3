"""Bodies of readings: accepted values, rejected lines and their reasons."""

import asyncio
import json
import time
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import LimitExceeded, ReadingError, UnknownEquipment, UnsupportedMedia
from app.schemas.equipment import Equipment
from app.schemas.reading_formats import ReadingOptions
from app.schemas.times import microseconds
from app.schemas.topology import parse_equipment
from app.serving.ingress.ingest import Parsed, check_body, read_in_turns

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
PRESS = parse_equipment(
    {
        "equipment_id": "press",
        "components": [
            {
                "component_id": "pump",
                "type": "pump",
                "sensors": [
                    {"sensor_id": "p", "quantity": "pressure", "unit": "bar", "range": [0, 400]},
                    {
                        "sensor_id": "t",
                        "quantity": "temperature",
                        "unit": "degC",
                        "range": [-20, 120],
                    },
                ],
            }
        ],
        "grid_s": 1,
        "window_s": 60,
        "steps": 12,
    },
    "test",
)
ANY = ReadingOptions()
GOOD = {"equipment_id": "press", "sensor_id": "p", "time": "2026-01-31T11:00:00Z", "value": 1.5}


async def find(equipment_id: str) -> Equipment | UnknownEquipment:
    return PRESS if equipment_id == "press" else UnknownEquipment(equipment_id)


async def parse(
    body: object,
    content_type: str = "application/json",
    options: ReadingOptions = ANY,
) -> Parsed:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await check_body(await read_in_turns(raw, content_type, options), find, NOW, options)


@pytest.mark.parametrize("body", [GOOD, [GOOD], {"readings": [GOOD]}])
async def test_json_is_one_reading_a_list_or_an_object_with_readings(body: object):
    parsed = await parse(body)
    columns = parsed.columns["press"]
    assert (columns.sensor_ids, list(columns.values), parsed.rejected) == (["p"], [1.5], [])
    assert list(columns.times_us) == [microseconds(datetime(2026, 1, 31, 11, tzinfo=UTC))]


async def test_ndjson_counts_lines_from_one_with_empty_ones():
    body = b"\n".join(
        [
            json.dumps(GOOD).encode(),
            b"",
            b"{not json",
            json.dumps(GOOD | {"sensor_id": "t"}).encode(),
            b"",
        ]
    )
    parsed = await parse(body, "application/x-ndjson; charset=utf-8")
    assert parsed.columns["press"].sensor_ids == ["p", "t"]
    assert [item.line for item in parsed.rejected] == [3]


async def test_csv_takes_columns_in_any_order_and_a_byte_order_mark():
    body = (
        "\ufeffvalue,time,sensor_id,equipment_id\n1.5,2026-01-31T11:00:00+01:00,p,press\n".encode()
    )
    parsed = await parse(body, "text/csv")
    assert list(parsed.columns["press"].times_us) == [
        microseconds(datetime(2026, 1, 31, 10, tzinfo=UTC))
    ]


async def test_csv_rejects_lines_and_keeps_the_good_ones():
    rows = [
        "equipment_id,sensor_id,time,value",
        "press,p,2026-01-31T11:00:00Z,1",
        "press,p",
        "press,p,2026-01-31T11:00:01Z,x",
    ]
    parsed = await parse(
        "\n".join([*rows, "press,p,2026-01-31T11:00:02Z,nan"]).encode(), "text/csv"
    )
    assert list(parsed.columns["press"].values) == [1.0]
    assert [(item.line, item.field) for item in parsed.rejected] == [
        (3, ""),
        (4, "value"),
        (5, "value"),
    ]


@pytest.mark.parametrize(
    ("change", "field", "reason"),
    [
        (
            {"equipment_id": "nobody"},
            "equipment_id",
            "expected a registered equipment, found 'nobody'",
        ),
        (
            {"sensor_id": "PX"},
            "sensor_id",
            "expected a sensor of 'press', found 'PX': there are p, t",
        ),
        ({"time": "2026-01-31T11:00:00"}, "time", "expected a time with its zone"),
        ({"time": "yesterday"}, "time", "found 'yesterday'"),
        ({"time": "2027-01-31T11:00:00Z"}, "time", "check the clock of its source"),
        ({"time": "1970-01-31T11:00:00Z"}, "time", "expected a time from 2000-01-01"),
        ({"value": "1.5"}, "value", "found '1.5'"),
        ({"value": True}, "value", "found true"),
        ({"value": None}, "value", "found null"),
        ({"unit": "bar"}, "", "expected no field 'unit'"),
    ],
)
async def test_rejected_line_has_a_reason_and_the_others_are_accepted(
    change: dict[str, object], field: str, reason: str
):
    parsed = await parse([GOOD, GOOD | change, GOOD | {"sensor_id": "t"}])
    assert parsed.columns["press"].sensor_ids == ["p", "t"]
    assert [(item.line, item.field) for item in parsed.rejected] == [(2, field)]
    assert reason in parsed.rejected[0].reason


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity", "1e999"])
async def test_value_that_is_not_finite_is_rejected(literal: str):
    bad = json.dumps(GOOD | {"value": 0.25}).replace("0.25", literal)
    parsed = await parse(f"[{bad}, {json.dumps(GOOD)}]".encode())
    assert list(parsed.columns["press"].values) == [1.5]
    assert parsed.rejected[0].field == "value"


@pytest.mark.parametrize("item", [None, 3, "text", []])
async def test_item_that_is_no_object_is_rejected(item: object):
    assert [entry.line for entry in (await parse([GOOD, item])).rejected] == [2]


@pytest.mark.parametrize(
    ("body", "content_type", "message"),
    [
        (b"{", "application/json", "expected JSON"),
        (b"[]", "application/json", "at least one reading"),
        (b"", "application/x-ndjson", "at least one reading"),
        (b"a,b\n1,2", "text/csv", "expected a CSV header"),
        (b"\xff\xfe", "text/csv", "UTF-8"),
    ],
)
async def test_body_that_cant_be_read_is_an_error_as_a_whole(
    body: bytes, content_type: str, message: str
):
    with pytest.raises(ReadingError, match=message):
        await parse(body, content_type)


@given(
    st.binary(max_size=200),
    st.sampled_from(["application/json", "application/x-ndjson", "text/csv"]),
)
async def test_any_bytes_are_taken_rejected_or_refused(body: bytes, content_type: str):
    try:
        parsed = await parse(body, content_type)
    except ReadingError:
        return
    assert parsed.columns or parsed.rejected


@given(st.integers(0, 4_102_444_800_000_000))
def test_microseconds_are_exact(us: int):
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    assert microseconds(epoch + timedelta(microseconds=us)) == us


@pytest.mark.parametrize("content_type", ["application/json", "application/x-ndjson", "text/csv"])
async def test_value_beyond_float32_loses_its_line_only(content_type: str):
    values = ["1.5", "1e300", "2.5"]
    if content_type == "text/csv":
        lines = [
            "equipment_id,sensor_id,time,value",
            *(f"press,p,2026-01-31T11:00:00Z,{value}" for value in values),
        ]
        body = "\n".join(lines)
    else:
        items = [json.dumps(GOOD | {"value": 0.25}).replace("0.25", value) for value in values]
        body = (
            "\n".join(items) if content_type == "application/x-ndjson" else f"[{','.join(items)}]"
        )
    parsed = await parse(body.encode(), content_type)
    assert list(parsed.columns["press"].values) == [1.5, 2.5]
    assert [item.field for item in parsed.rejected] == ["value"]
    assert parsed.rejected[0].reason == "expected a finite number that a float32 holds, found " + (
        "'1e300'" if content_type == "text/csv" else "1e+300"
    )


async def test_id_with_a_nul_is_a_rejected_line_without_a_lookup():
    parsed = await parse(
        [GOOD | {"equipment_id": "press\x00"}, GOOD | {"sensor_id": "p\x00"}, GOOD]
    )
    assert [item.field for item in parsed.rejected] == ["equipment_id", "sensor_id"]
    assert parsed.columns["press"].sensor_ids == ["p"]


async def test_stray_quote_loses_its_line_only():
    good = "press,p,2026-01-31T11:00:00Z,1"
    lines = [
        "equipment_id,sensor_id,time,value",
        good,
        'press,"p,2026-01-31T11:00:00Z,1',
        "",
        good,
        '"press",p,x',
    ]
    for end in ("\n", "\r\n", "\r"):
        parsed = await parse(end.join(lines).encode(), "text/csv")
        assert list(parsed.columns["press"].values) == [1.0, 1.0]
        assert [item.line for item in parsed.rejected] == [3, 6]


@pytest.mark.parametrize("header", [b"x" * 200_000, b'"equipment_id,sensor_id,time,value'])
async def test_header_that_csv_cant_read_is_an_error_as_a_whole(header: bytes):
    with pytest.raises(ReadingError, match="expected a CSV header"):
        await parse(header + b"\npress,p,2026-01-31T11:00:00Z,1", "text/csv")


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"[" + b"0," * 500_000 + b"0]", "application/json"),
        (b"\n" * 500_001, "application/x-ndjson"),
        (b"equipment_id,sensor_id,time,value" + b"\r" * 500_001, "text/csv"),
    ],
)
async def test_body_of_too_many_lines_is_refused(body: bytes, content_type: str):
    with pytest.raises(LimitExceeded, match="expected at most 500000 lines"):
        await parse(body, content_type)


async def test_body_that_names_too_many_equipment_is_refused():
    items = [GOOD | {"equipment_id": f"nobody-{number}"} for number in range(1_001)]
    assert len((await parse(items[:-1])).rejected) == 1_000
    with pytest.raises(LimitExceeded, match="at most 1000 equipment, found more in line 1001"):
        await parse(items)


async def test_rejected_lines_beyond_the_listed_are_only_counted():
    parsed = await parse([3] * 1_500)
    assert (parsed.rejected_count, len(parsed.rejected)) == (1_500, 1_000)
    assert parsed.rejected[999].line == 1_000


async def test_line_of_nothing_but_faults_is_one_short_reason():
    parsed = await parse([GOOD | {f"x{number}": 1 for number in range(1_000)}])
    assert "found 1000 faults in one line" in parsed.rejected[0].reason


async def test_unknown_content_type_is_refused():
    with pytest.raises(UnsupportedMedia, match="expected application/json"):
        await parse(b"<x/>", "application/xml")


async def test_columns_know_their_lines():
    parsed = await parse([3, GOOD, 3, GOOD | {"sensor_id": "t"}])
    assert list(parsed.columns["press"].lines) == [2, 4]


async def test_wide_column_that_is_no_sensor_is_named():
    body = b"time,p,humidity\n2026-01-31T11:00:00Z,1,2\n"
    with pytest.raises(ReadingError, match="found humidity: there are p, t; leave the column out"):
        await parse(body, "text/csv", ReadingOptions("press"))
    parsed = await parse(body, "text/csv", ReadingOptions("press", frozenset({"humidity"})))
    assert parsed.columns["press"].sensor_ids == ["p"]


async def test_other_equipment_than_the_named_one_is_rejected():
    parsed = await parse([GOOD, GOOD | {"equipment_id": "mill"}], options=ReadingOptions("press"))
    assert [(item.line, item.field) for item in parsed.rejected] == [(2, "equipment_id")]


async def test_time_outside_of_the_interval_is_rejected():
    start = datetime(2026, 1, 31, 11, tzinfo=UTC)
    interval = (start, start + timedelta(seconds=1))
    times = ["10:59:59.999999", "11:00:00", "11:00:01"]
    items = [GOOD | {"time": f"2026-01-31T{each}Z"} for each in times]
    parsed = await parse(items, options=ReadingOptions("press", interval=interval))
    assert [(item.line, item.field) for item in parsed.rejected] == [(1, "time"), (3, "time")]


@pytest.mark.parametrize("at", ["0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00"])
async def test_time_beyond_the_calendar_is_rejected(at: str):
    parsed = await parse([GOOD, GOOD | {"time": at}])
    assert [item.field for item in parsed.rejected] == ["time"]


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"{\n" * 100_000, "application/x-ndjson"),
        (b"[" + b'{"x":1},' * 99_999 + b"0]", "application/json"),
        (b"equipment_id,sensor_id,time,value\n" + b"press,p,x,1\n" * 100_000, "text/csv"),
        (b"time,p\n" + b",\n" * 100_000 + b"2026-01-31T11:00:00Z,1\n", "text/csv"),
        (b"\n" * 100_000 + json.dumps(GOOD).encode(), "application/x-ndjson"),
    ],
)
async def test_parsing_takes_turns_with_other_requests(body: bytes, content_type: str):
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    task = asyncio.create_task(others())
    began = time.thread_time()
    await parse(body, content_type, ReadingOptions("press"))
    spent = time.thread_time() - began
    task.cancel()
    # a turn of parsing takes two milliseconds; a tenth of that many turns allows for a busy machine
    assert turns >= spent / 0.02
