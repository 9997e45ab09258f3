"""`hydraulic readings import`: every form of file, rejected rows, and going on after kill -9."""

import asyncio
import csv
import gzip
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import httpx
import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest

from app.cli import reading_files, readings
from app.schemas.topology import parse_equipment
from app.store.store import Store
from app.store.windows import decode_window
from tests.bench.readings_file import SENSORS, START, topology, write
from tests.command_line import Done, hydraulic
from tests.conftest import run_sql
from tests.system import PROJECT_DIR

ROWS = 4_000
SECONDS = ROWS // SENSORS
Import = Callable[..., Done]
EQUIPMENT = parse_equipment(topology("bench-press"), "test")


@pytest.fixture
def dsn(database_dsn: str) -> str:
    """A database with the machine of the file."""

    async def register() -> None:
        store = Store(database_dsn)
        await store.migrate()
        await store.put_equipment(EQUIPMENT)
        await store.close()

    asyncio.run(register())
    return database_dsn


@pytest.fixture
def run(dsn: str) -> Import:
    """The command for that database."""
    return lambda *arguments: hydraulic(
        "readings", "import", *map(str, arguments), "--dsn", dsn, "--json"
    )


def counts_of(done: Done) -> tuple[int, ...]:
    found = json.loads(done.out)
    return tuple(found[name] for name in ("accepted", "duplicates", "conflicts", "rejected"))


def stored(dsn: str) -> np.ndarray:
    """Return the grid of the first seconds of the file, by sensor."""

    async def read() -> np.ndarray:
        store = Store(dsn)
        start = int(START.timestamp())
        (window,) = await store.read_windows([("bench-press", start, SECONDS)])
        await store.close()
        return decode_window(window, EQUIPMENT)

    return asyncio.run(read())


def expected(path: Path) -> np.ndarray:
    """Return the values of a long CSV file by sensor."""
    with path.open() as file:
        values = [float(row["value"]) for row in csv.DictReader(file)]
    return np.asarray(values, np.float32).reshape(SECONDS, SENSORS).T


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("ending", ["csv", "csv.gz", "parquet"])
def test_every_form_fills_the_store_with_the_same_grid(
    run: Import, dsn: str, tmp_path: Path, ending: str, wide: bool, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading_files, "PART_BYTES", 30_000)
    monkeypatch.setattr(reading_files, "PART_VALUES", 700)
    path, reference = tmp_path / f"r.{ending}", tmp_path / "reference.csv"
    write(reference, ROWS)
    if ending == "csv.gz":
        write(plain := tmp_path / "r.csv", ROWS, wide=wide)
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    else:
        write(path, ROWS, wide=wide)
    machine = ["--equipment", "bench-press"] if wide else []
    done = run(path, *machine)
    assert (done.status, counts_of(done)) == (0, (ROWS, 0, 0, 0)), done
    np.testing.assert_array_equal(stored(dsn), expected(reference))
    assert counts_of(run(path, *machine)) == (0, ROWS, 0, 0)
    assert sorted(each.name for each in tmp_path.iterdir()) == sorted([path.name, "reference.csv"])


def test_rejected_rows_have_their_numbers_and_reasons_and_lose_no_good_one(
    run: Import, dsn: str, tmp_path: Path
):
    path = tmp_path / "readings.csv"
    path.write_bytes(
        b"\xef\xbb\xbfsensor_id;time;value;note;equipment_id\r\n"
        b"P0;2025-01-01T00:00:00Z;1.5;x;bench-press\r\n"
        b"P0;2025-01-01T00:00:01;2;x;bench-press\r\n"
        b"P1;noon;2;x;bench-press\r\n"
        b"P1;2025-01-01T01:00:02+01:00;much;x;bench-press\r\n"
        b"P99;2025-01-01T00:00:02Z;2;x;bench-press\r\n"
        b"P1;2025-01-01T00:00:02Z;nan;x;bench-press\r\n"
        b"P1;1999-01-01T00:00:02Z;2;x;bench-press\r\n"
        b"P1;2025-01-01T00:00:02Z;2;x;mill\r\n"
        b"\r\n"
        b"P1;2025-01-01T00:00:02Z\r\n"
        b"P2;2025-01-01T01:00:03+01:00;2.5;x;bench-press"
    )
    done = run(path)
    assert (done.status, "leave it out, or name it in --ignore" in done.err) == (1, True)
    done = run(path, "--ignore", "note")
    assert (done.status, counts_of(done)) == (1, (2, 0, 0, 8))
    values_SN = stored(dsn)
    assert (values_SN[0, 0], values_SN[2, 3]) == (1.5, 2.5)
    with (tmp_path / "readings.csv.rejected.csv").open() as file:
        rejected = {int(row["row"]): row for row in csv.DictReader(file)}
    no_time = "expected a time with its zone, such as 2026-01-31T12:00:00Z, found "
    no_value = "expected a finite number that a float32 holds, found "
    for row, reason in {
        3: no_time + "'2025-01-01T00:00:01'",
        4: no_time + "'noon'",
        5: no_value + "'much'",
        7: no_value + "'nan'",
        11: "expected 5 columns, found 2",
    }.items():
        assert rejected[row]["reason"] == reason
    assert "found 'mill', which is not: register its topology with" in rejected[9]["reason"]
    assert rejected[6]["reason"].startswith("expected a sensor of 'bench-press', found 'P99': ")
    assert rejected[8]["reason"].startswith("expected a time from 2000-01-01 to 5 minutes from now")
    assert rejected[6]["text"] == "P99;2025-01-01T00:00:02Z;2;x;bench-press"
    done = run(path, "--ignore", "note")
    assert counts_of(done) == (0, 2, 0, 8)
    assert len((tmp_path / "readings.csv.rejected.csv").read_text().splitlines()) == 9


def test_readings_of_a_deleted_machine_are_rejected_as_such(run: Import, dsn: str, tmp_path: Path):
    asyncio.run(run_sql(dsn, "update equipment set deleted_at = '2026-01-01T00:00Z'"))
    path = tmp_path / "readings.csv"
    write(path, ROWS)
    assert (done := run(path)).status == 1, done
    (line, *_) = (tmp_path / "readings.csv.rejected.csv").read_text().splitlines()[1:]
    assert "'bench-press', which was deleted at 2026-01-01T00:00:00+00:00: register" in line


@pytest.mark.parametrize("bad", ["", "2025-01-01T00:00:03Z;1_0;1\n"])
def test_numbers_names_and_missing_values_are_those_of_the_http_interface(
    run: Import, dsn: str, tmp_path: Path, bad: str
):
    path = tmp_path / "wide.csv"
    lines = "2025-01-01T00:00:00Z;1,5;NA\n2025-01-01T00:00:01Z;2,5;null\n"
    path.write_text(f"Timestamp;P0;P1\n{lines}{bad}")
    done = run(path, "--equipment", "bench-press")
    assert counts_of(done) == ((3, 0, 0, 1) if bad else (2, 0, 0, 0))
    assert stored(dsn)[0, :2].tolist() == [1.5, 2.5]
    assert (str(path) + ".rejected.csv" in done.err) == bool(bad)


def test_column_that_a_file_has_twice_is_named(run: Import, tmp_path: Path):
    path = tmp_path / "wide.csv"
    path.write_text("time,P0,P0\n2025-01-01T00:00:00Z,1,2\n")
    done = run(path, "--equipment", "bench-press")
    assert (done.status, "found column 'P0' twice" in done.err) == (1, True)


def test_rejected_rows_of_whole_parts_have_their_numbers(run: Import, tmp_path: Path):
    path = tmp_path / "readings.parquet"
    times = pa.array([datetime(2025, 1, 1, tzinfo=UTC)] * 3, pa.timestamp("ms", "UTC"))
    table = pa.table({"sensor_id": ["P0", "X", "P1"], "time": times, "value": [1, 2, None]})
    pa.parquet.write_table(table, path)
    done = run(path, "--equipment", "bench-press")
    assert counts_of(done) == (1, 0, 0, 2)
    with (tmp_path / "readings.parquet.rejected.csv").open() as file:
        assert [row["row"] for row in csv.DictReader(file)] == ["2", "3"]


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("none.csv", None, [], "expected a file of readings at"),
        ("bad.parquet", "no Parquet", [], "expected a CSV file with a header, or a Parquet file"),
        (
            "a.csv",
            "when,what\n",
            [],
            "expected a CSV header of equipment_id, sensor_id, time, value",
        ),
        ("b.csv", "time,P0\n", [], "add it as a column (or --equipment)"),
        ("c.csv", "time,P0\n", ["--equipment", "mill"], "expected a registered equipment"),
        ("d.csv", "time,P0,X\n", ["--equipment", "bench-press"], "found X: there are P0, P1"),
        ("e.csv", "time,P0,X\n", ["--equipment", "bench-press", "--ignore", "Z"], "found X"),
    ],
)
def test_file_that_is_no_file_of_readings_is_refused(
    run: Import, tmp_path: Path, name: str, content: str | None, options: list[str], message: str
):
    if content is not None:
        (tmp_path / name).write_text(content)
    done = run(tmp_path / name, *options)
    assert (done.status, done.out, message in done.err) == (1, "", True), done
    assert "\n" not in done.err.strip()


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_file_is_read_as_the_body_of_a_request_is(
    run: Import, dsn: str, tmp_path: Path, end: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading_files, "PART_BYTES", 100)
    lines = [
        '"Timestamp";"P0";"P1";"P2";"Equipment_ID"',
        '"2025-01-01T00:00:00Z";"1,5";;NaN;"bench-press"',
        "2025-01-01T00:00:01Z;2,5;-inf;3.5;bench-press",
        "2025-01-01T00:00:02Z;NA;null;4;bench-press;;",
        "2025-01-01T00:00:03Z;1.234,5;1_0;5\u2028x;bench-press",
        "2025-01-01T00:00:03Z;1;1;1;mill",
    ]
    path = tmp_path / "r.csv"
    path.write_bytes(end.join(lines).encode("utf-8-sig"))
    assert counts_of(run(path)) == (4, 0, 0, 5)
    values_SN = stored(dsn)
    assert (values_SN[0, 0], values_SN[0, 1], values_SN[2, 1], values_SN[2, 2]) == (
        1.5,
        2.5,
        3.5,
        4,
    )
    with (tmp_path / "r.csv.rejected.csv").open(newline="") as file:
        rejected = list(csv.DictReader(file))
    assert [row["row"] for row in rejected] == ["3", "5", "5", "5", "6"]
    assert {row["text"] for row in rejected} == {lines[2], lines[4], lines[5]}


def test_other_value_of_a_stored_reading_is_a_conflict_and_the_first_is_kept(
    run: Import, dsn: str, tmp_path: Path
):
    path = tmp_path / "r.csv"
    header, at = "equipment_id,sensor_id,time,value", "2025-01-01T00:00:00Z"
    path.write_text(f"{header}\nbench-press,P0,{at},1\nbench-press,P1,{at},2\n")
    assert counts_of(run(path)) == (2, 0, 0, 0)
    path.write_text(f"{header}\nbench-press,P0,{at},1\nbench-press,P1,{at},3\n")
    done = run(path)
    assert (done.status, counts_of(done)) == (0, (0, 1, 1, 0))
    assert stored(dsn)[1, 0] == 2


@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_killed_import_goes_on_where_it_ended(dsn: str, tmp_path: Path, ending: str):
    path, reference = tmp_path / f"r.{ending}", tmp_path / "reference.csv"
    rows = 60 * ROWS
    write(path, rows)
    write(reference, rows)
    code = (
        "import sys\nfrom app.cli import main, reading_files\n"
        "reading_files.PART_BYTES, reading_files.PART_VALUES = 100_000, 2_000\n"
        "sys.exit(main.main(sys.argv[1:]))"
    )
    command = [sys.executable, "-c", code, "readings", "import", str(path), "--dsn", dsn, "--json"]
    state = tmp_path / f"r.{ending}.import.json"
    process = subprocess.Popen(
        command, cwd=PROJECT_DIR, env=dict(os.environ), stderr=subprocess.DEVNULL
    )
    try:
        deadline = time.monotonic() + 120
        while not state.exists() or json.loads(state.read_text())["counts"]["accepted"] < 10_000:
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = json.loads(state.read_text())["counts"]["accepted"]
    assert 10_000 <= before < rows
    done = subprocess.run(
        command, cwd=PROJECT_DIR, env=dict(os.environ), capture_output=True, text=True, check=True
    )
    counts = json.loads(done.stdout)
    # of the part that was being written, readings may be stored already
    assert counts["accepted"] + counts["duplicates"] == rows
    assert counts["duplicates"] <= 4_000
    assert not state.exists()
    with reference.open() as file:
        values = [float(row["value"]) for row in islice(csv.DictReader(file), ROWS)]
    np.testing.assert_array_equal(
        stored(dsn), np.asarray(values, np.float32).reshape(SECONDS, SENSORS).T
    )


def test_changed_file_and_restart_begin_at_the_start(
    run: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(reading_files, "PART_BYTES", 30_000)
    path = tmp_path / "r.csv"
    write(path, ROWS)
    commit = readings.Import._commit

    def interrupt(self: readings.Import, *arguments: object) -> None:
        commit(self, *arguments)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(readings.Import, "_commit", interrupt)
        done = run(path)
        assert (done.status, "the same command goes on where this one ended" in done.err) == (
            130,
            True,
        )
    state = json.loads((tmp_path / "r.csv.import.json").read_text())
    done = run(path, "--restart")
    assert counts_of(done)[1] == state["counts"]["accepted"]


@pytest.mark.parametrize("status", [200, 422])
def test_rows_that_the_service_rejects_are_in_the_file_of_rejected_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
):
    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, content=EQUIPMENT.model_dump_json())
        lines = request.content.splitlines()
        rejected = [
            {"line": number, "reason": "expected another sensor", "field": "sensor_id"}
            for number, line in enumerate(lines, start=1)
            if status == 422 or json.loads(line)["sensor_id"] == "P1"
        ]
        accepted = len(lines) - len(rejected)
        counts = {"accepted": accepted, "duplicates": 0, "rejected": rejected[:3]}
        more = {"rejected_count": len(rejected)} if len(rejected) > 3 else {}
        return httpx.Response(status, json=counts | more)

    serve(monkeypatch, respond)
    monkeypatch.setattr(readings, "MAX_POSTED", 10)
    path = tmp_path / "r.csv"
    write(path, 2 * SENSORS)
    path.write_text(path.read_text() + "bench-press,P1,noon,1\n")
    done = hydraulic("readings", "import", str(path), "--url", "http://test", "--json")
    total = 32 if status == 422 else 2
    assert (done.status, counts_of(done)) == (1, (32 - total, 0, 0, total + 1))
    with (tmp_path / "r.csv.rejected.csv").open() as file:
        rows = [(int(row["row"]), row["reason"][:24], row["text"]) for row in csv.DictReader(file)]
    lines = path.read_text().splitlines()
    if status == 200:
        assert [row[0] for row in rows] == [3, 19, 34]
        assert [row[2] for row in rows] == [lines[row[0] - 1] for row in rows]
    else:
        listed = [2, 3, 4, 12, 13, 14, 22, 23, 24, 32, 33]
        assert [row[0] for row in rows] == [*listed, 34, 34]
        assert (34, "21 more rows up to this ", "") in rows


def serve(
    monkeypatch: pytest.MonkeyPatch, respond: Callable[[httpx.Request], httpx.Response]
) -> None:
    """Answer the requests of the command."""
    monkeypatch.setattr(
        readings,
        "service_client",
        lambda *_: httpx.Client(transport=httpx.MockTransport(respond), base_url="http://test"),
    )


def test_url_posts_to_the_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bodies: list[bytes] = []

    def respond(request: httpx.Request) -> httpx.Response:
        if request.method == "GET":
            return httpx.Response(200, content=EQUIPMENT.model_dump_json())
        bodies.append(request.content)
        if len(bodies) == 1:
            return httpx.Response(503, headers={"retry-after": "0"})
        count = len(request.content.splitlines())
        return httpx.Response(200, json={"accepted": count, "duplicates": 0, "rejected": []})

    serve(monkeypatch, respond)
    path = tmp_path / "r.csv"
    write(path, SENSORS)
    done = hydraulic("readings", "import", str(path), "--url", "http://test")
    assert (done.status, re.match(r"16 new readings, 0 stored before", done.out) is None) == (
        0,
        False,
    )
    line = json.loads(bodies[0].splitlines()[1])
    assert line | {"value": 0} == {
        "equipment_id": "bench-press",
        "sensor_id": "P1",
        "time": "2025-01-01T00:00:00.000000Z",
        "value": 0,
    }
