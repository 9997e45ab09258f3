"""Bodies of readings: accepted values, rejected lines and their reasons."""

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.core.errors import LimitExceeded, ReadingError
from app.schemas.equipment import Equipment
from app.schemas.topology import parse_equipment
from app.serving.ingress.ingest import UNLISTED, Parsed, microseconds, parse_readings

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
GOOD = {"equipment_id": "press", "sensor_id": "p", "time": "2026-01-31T11:00:00Z", "value": 1.5}


async def find(equipment_id: str) -> Equipment | None:
    return PRESS if equipment_id == "press" else None


async def parse(body: object, content_type: str = "application/json") -> Parsed:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return await parse_readings(raw, content_type, find, NOW)


@pytest.mark.parametrize("body", [GOOD, [GOOD], {"readings": [GOOD]}])
async def test_json_is_one_reading_a_list_or_an_object_with_readings(body: object):
    parsed = await parse(body)
    columns = parsed.columns["press"]
    assert (columns.sensor_ids, columns.values, parsed.rejected) == (["p"], [1.5], [])
    assert columns.times_us == [microseconds(datetime(2026, 1, 31, 11, tzinfo=UTC))]


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
    assert parsed.columns["press"].times_us == [microseconds(datetime(2026, 1, 31, 10, tzinfo=UTC))]


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
    assert parsed.columns["press"].values == [1.0]
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
        ({"value": True}, "value", "found True"),
        ({"value": None}, "value", "found None"),
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
    assert parsed.columns["press"].values == [1.5]
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
        (b"<x/>", "application/xml", "expected application/json"),
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
    assert parsed.columns["press"].values == [1.5, 2.5]
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
        assert parsed.columns["press"].values == [1.0, 1.0]
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
    assert len(parsed.rejected) == 1_500
    assert (parsed.rejected[999].line, parsed.rejected[1_000:]) == (1_000, [UNLISTED] * 500)


async def test_line_of_nothing_but_faults_is_one_short_reason():
    parsed = await parse([GOOD | {f"x{number}": 1 for number in range(1_000)}])
    assert "found 1000 faults in one line" in parsed.rejected[0].reason
