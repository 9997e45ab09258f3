"""Fuzzing of every parser: no error but the project's, round trips, bounded time and memory.

The short form is part of the suite; `make fuzz` makes 10,000 documents for each parser.
"""

import csv
import gzip
import io
import json
import math
import struct
import sys
import time
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.parquet
import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from app.schemas.readings import FLOAT32_MAX
from app.schemas.times import microseconds
from app.schemas.topology import read_equipment
from tests.fuzz.corpus import CORPUS, documents
from tests.fuzz.parsers import EXPECTED, PARSERS, SENSORS, Readings
from tests.machines import make_machine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

LONGEST_S = 5.0
"""CPU time of one small document; it takes milliseconds, and a machine may be busy."""
MOST_BYTES = 64 << 20
"""Memory of one small document, beside what is kept in the process."""
MAX_EDITS = 8
TOKENS = [
    *(b"{ } [ ] , : ; \t \n \r \" ' \\ \x00 null true NaN -0 1e999 1_0 ? ! & * | > % @ `".split()),
    b"\xef\xbb\xbf",
    b"\xff\xfe",
    b"\xed\xa0\x80",
    "\u2028\u0660".encode(),
    b"[" * 2_000,
    b'{"a":' * 2_000,
    b"9" * 5_000,
    b"!!python/object/apply:os.system",
    b"&a [*a, *a]",
    b"2026-01-01T00:00:00+99:99",
    b"9999-12-31T23:59:60Z",
]


@pytest.mark.parametrize(
    ("parser", "name"),
    [(parser, name) for parser in PARSERS for name in documents(parser)],
)
def test_kept_document_parses_or_is_refused(parser: str, name: str):
    data = documents(parser)[name]
    if name.startswith("good"):
        found = PARSERS[parser](data)
        assert not isinstance(found, Readings) or (found.rows and not found.refused)
        return
    within_bounds(parser, data)


def test_every_parser_has_documents_and_no_directory_is_of_none():
    assert {path.name for path in CORPUS.iterdir()} == set(PARSERS)


def within_bounds(parser: str, data: bytes) -> None:
    """Parse a document; fail on another error than the project's, or too much time or memory."""
    tracemalloc.start()
    started = time.process_time()
    try:
        PARSERS[parser](data)
    except EXPECTED:
        pass
    finally:
        seconds = time.process_time() - started
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert seconds < LONGEST_S, f"{len(data)} bytes took {seconds:.1f} s"
    assert peak < MOST_BYTES, f"{len(data)} bytes took {peak >> 20} MiB"


@st.composite
def broken(draw: st.DrawFn, seeds: list[bytes]) -> bytes:
    """Return a kept document with a few edits."""
    data = bytearray(draw(st.sampled_from(seeds)))
    for _ in range(draw(st.integers(1, MAX_EDITS))):
        at = draw(st.integers(0, len(data)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(("replace", "insert", "delete", "repeat", "flip", "cut"))):
            case "replace":
                data[at : at + length] = draw(st.binary(max_size=20))
            case "insert":
                data[at:at] = draw(st.sampled_from(TOKENS))
            case "delete":
                del data[at : at + length]
            case "repeat":
                data[at:at] = bytes(data[at : at + length]) * draw(st.integers(1, 50))
            case "flip":
                if at < len(data):
                    data[at] ^= 1 << draw(st.integers(0, 7))
            case "cut":
                del data[at:]
    return bytes(data)


@pytest.mark.parametrize("parser", PARSERS)
@given(st.data())
def test_document_with_edits_is_parsed_or_refused_within_bounds(parser: str, data: st.DataObject):
    seeds = list(documents(parser).values())
    within_bounds(parser, data.draw(broken(seeds) | st.binary(max_size=200)))


IDS = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._:-]{0,20}", fullmatch=True)
TIMES = st.integers(0, 26 * 365 * 86_400 * 1_000_000).map(
    lambda since_us: datetime(2000, 1, 1, tzinfo=UTC) + timedelta(microseconds=since_us)
)
VALUES = st.floats(-FLOAT32_MAX, FLOAT32_MAX)
READINGS = st.lists(
    st.fixed_dictionaries(
        {"equipment_id": IDS, "sensor_id": st.sampled_from(sorted(SENSORS)), "time": TIMES}
        | {"value": VALUES}
    ),
    min_size=1,
    max_size=20,
)


def as_json(readings: list[dict[str, object]]) -> bytes:
    return json.dumps([each | {"time": _iso(each["time"])} for each in readings]).encode()


def as_ndjson(readings: list[dict[str, object]]) -> bytes:
    return b"\n".join(json.dumps(each | {"time": _iso(each["time"])}).encode() for each in readings)


def as_csv(readings: list[dict[str, object]], delimiter: str = ",") -> bytes:
    file = io.StringIO()
    writer = csv.DictWriter(file, list(readings[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(each | {"time": _iso(each["time"])} for each in readings)
    return file.getvalue().encode()


def as_semicolons(readings: list[dict[str, object]]) -> bytes:
    return as_csv(readings, ";")


def as_gzip(readings: list[dict[str, object]]) -> bytes:
    return gzip.compress(as_csv(readings))


def as_zstd(readings: list[dict[str, object]]) -> bytes:
    return zstd.compress(as_csv(readings))


def as_parquet(readings: list[dict[str, object]]) -> bytes:
    file = io.BytesIO()
    pa.parquet.write_table(pa.Table.from_pylist(readings), file)
    return file.getvalue()


def _iso(at: object) -> str:
    assert isinstance(at, datetime)
    return at.isoformat()


@pytest.mark.parametrize(
    ("parser", "write"),
    [
        ("json", as_json),
        ("ndjson", as_ndjson),
        ("csv", as_csv),
        ("csv", as_semicolons),
        ("unnamed", as_json),
        ("unnamed", as_ndjson),
        ("unnamed", as_csv),
        ("file.csv", as_csv),
        ("file.csv.gz", as_gzip),
        ("file.csv.zst", as_zstd),
        ("file.parquet", as_parquet),
    ],
)
@given(READINGS)
def test_readings_that_are_written_are_read_again(
    parser: str,
    write: Callable[[list[dict[str, object]]], bytes],
    readings: list[dict[str, object]],
):
    expected = [
        (each["equipment_id"], each["sensor_id"], microseconds(each["time"]), each["value"])
        for each in readings
    ]
    found = PARSERS[parser](write(readings))
    assert isinstance(found, Readings)
    assert found.refused == 0
    assert sorted(found.rows) == sorted(expected)


@given(
    st.sets(IDS, min_size=1, max_size=8),
    st.sampled_from((0.5, 1.0, 10.0)),
    st.sampled_from((json.dumps, yaml.safe_dump)),
)
def test_topology_that_is_written_is_read_again(
    sensors: set[str], grid_s: float, write: Callable[[object], str]
):
    machine = make_machine("press-1", tuple(sorted(sensors)), grid_s)
    text = write(machine.model_dump(mode="json"))
    assert read_equipment(text.encode(), "topology") == machine


@given(st.floats(width=32))
@example(FLOAT32_MAX)
@example(-0.0)
def test_every_float32_survives_each_text_format(value: float):
    """Also the smallest and the largest ones; what is none is refused and never changed."""
    reading = {
        "equipment_id": "press",
        "sensor_id": "PS1",
        "time": datetime(2026, 1, 1, tzinfo=UTC),
    }
    for parser, write in (("json", as_json), ("ndjson", as_ndjson), ("csv", as_csv)):
        found = PARSERS[parser](write([reading | {"value": value}]))
        assert isinstance(found, Readings)
        if math.isfinite(value):
            ((_, _, _, read),) = found.rows
            assert struct.pack("f", read) == struct.pack("f", value)
        else:
            assert (found.rows, found.refused) == ([], 1)


def test_time_and_memory_grow_in_proportion_to_a_document():
    """Ten times the lines take at most thirty times the time: nothing is quadratic."""
    start = datetime(2026, 1, 1, tzinfo=UTC)
    readings = [
        {
            "equipment_id": "press",
            "sensor_id": "PS1",
            "time": start + timedelta(seconds=number),
            "value": float(number),
        }
        for number in range(20_000)
    ]
    for parser, write in (("json", as_json), ("ndjson", as_ndjson), ("csv", as_csv)):
        seconds = []
        for data in (write(readings[:2_000]), write(readings)):
            started = time.process_time()
            PARSERS[parser](data)
            seconds.append(time.process_time() - started)
        assert seconds[1] < 30 * seconds[0] + 0.1, (parser, seconds)
