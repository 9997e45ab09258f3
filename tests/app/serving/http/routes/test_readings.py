"""The routes of readings over a real store: content negotiation, conflicts, intervals, charts."""

import gzip
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import httpx
import pytest

from app.schemas.equipment import Equipment
from app.serving.http import bodies
from app.serving.http.routes import readings as routes
from app.serving.ingress.deployment import Service
from app.store.store import Store
from tests.machines import make_machine

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

T0 = datetime(2026, 1, 31, 12, tzinfo=UTC)
LINE = '{"equipment_id":"press-1","sensor_id":"PS1","time":"2026-01-31T12:00:00Z","value":1}'
PATH = "/v1/equipment/press-1/readings"


def row(value: float, second: float = 0, sensor_id: str = "PS1") -> dict[str, object]:
    return {
        "equipment_id": "press-1",
        "sensor_id": sensor_id,
        "time": (T0 + timedelta(seconds=second)).isoformat(),
        "value": value,
    }


def span(start: float, end: float) -> dict[str, str]:
    return {
        "start": (T0 + timedelta(seconds=start)).isoformat(),
        "end": (T0 + timedelta(seconds=end)).isoformat(),
    }


@pytest.fixture(autouse=True)
async def press(store: Store) -> Equipment:
    """A registered machine."""
    machine = make_machine()
    await store.put_equipment(machine)
    return machine


async def as_ingest(client: httpx.AsyncClient, store: Store) -> None:
    secret = (await store.create_key("historian", ["ingest"])).secret
    client.headers["authorization"] = f"Bearer {secret}"


async def values(client: httpx.AsyncClient, sensor_id: str = "PS1") -> list[float]:
    """Return the values of a sensor in the 10 s from T0, a bin each."""
    answer = await client.get(PATH, params=span(0, 10) | {"sensors": sensor_id, "bins": 10})
    (sensor,) = answer.json()["sensors"]
    return [value for value in sensor["mean"] if value is not None]


async def test_conflicts_are_counted_apart_with_their_lines(client: httpx.AsyncClient):
    assert (await client.post("/v1/readings", json=[row(1.0)])).json() == {
        "accepted": 1,
        "duplicates": 0,
        "conflicts": 0,
        "conflict_lines": [],
        "replaced": 0,
        "spooled": 0,
        "rejected": [],
    }
    body = [row(1.0), row(2.0), row(3.0, 1), row(4.0, 1), row(3.0, 1), {"x": 1}, row(5.0)]
    found = (await client.post("/v1/readings", json=body)).json()
    assert (found["accepted"], found["duplicates"], found["conflicts"]) == (1, 2, 3)
    assert found["conflict_lines"] == [2, 4, 7]
    assert [line["line"] for line in found["rejected"]] == [6]
    assert await values(client) == [1.0, 3.0]


async def test_body_of_conflicts_alone_is_answered_with_them(client: httpx.AsyncClient):
    await client.post("/v1/readings", json=row(1.0))
    answer = await client.post("/v1/readings", json=row(2.0))
    assert (answer.status_code, answer.json()["conflicts"]) == (200, 1)


async def test_listed_conflicts_are_bounded(client: httpx.AsyncClient):
    await client.post("/v1/readings", json=row(1.0))
    found = (await client.post("/v1/readings", json=[row(2.0)] * 1_500)).json()
    assert (found["conflicts"], found["conflict_lines"]) == (1_500, list(range(1, 1_001)))


async def test_replacing_needs_admin_replaces_and_is_recorded(
    client: httpx.AsyncClient, store: Store, service: Service
):
    await client.post("/v1/readings", json=row(1.0))
    changed: list[str] = []
    service.registry.when_changed(changed.append)
    replace = {"on_conflict": "replace"}
    found = (await client.post("/v1/readings", params=replace, json=[row(2.0), row(9, 1)])).json()
    assert (found["accepted"], found["conflicts"], found["replaced"]) == (1, 0, 1)
    assert (await values(client), changed) == ([2.0, 9.0], ["press-1"])
    (change,) = (await client.get(f"{PATH}/changes")).json()["changes"]
    assert (change["actor"], change["action"], change["removed"]) == ("test", "replace_values", 1)
    await as_ingest(client, store)
    assert (await client.post("/v1/readings", json=row(2.0))).status_code == 200
    answer = await client.post("/v1/readings", params=replace, json=row(3.0))
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("body", "line"),
    [
        (LINE, 1),
        (
            LINE + "\n{bad\n",
            2,
        ),
        ("\ufefftime;PS1;PS2\r\n2026-01-31T12:00:00Z;1,0;\r\n2026-01-31T12:00:00;1;1\r\n", 3),
    ],
)
async def test_body_of_curl_without_a_type_is_read(client: httpx.AsyncClient, body: str, line: int):
    answer = await client.post(
        "/v1/readings",
        params={"equipment_id": "press-1"},
        content=body.encode(),
        headers={"content-type": "application/x-www-form-urlencoded"},
    )
    assert (answer.status_code, answer.json()["accepted"]) == (200, 1)
    assert [each["line"] for each in answer.json()["rejected"]] == ([] if line == 1 else [line])


@pytest.mark.parametrize(
    ("encoding", "compress"),
    [
        ("gzip", gzip.compress),
        ("x-gzip", gzip.compress),
        ("GZIP", lambda body: gzip.compress(body[:20]) + gzip.compress(body[20:])),
        ("zstd", zstd.compress),
        ("identity", bytes),
    ],
)
async def test_compressed_body_is_read(
    client: httpx.AsyncClient, encoding: str, compress: Callable[[bytes], bytes]
):
    body = b"equipment_id,time,PS1\npress-1,2026-01-31T12:00:00Z,4\n"
    headers = {"content-encoding": encoding, "content-type": "text/csv"}
    answer = await client.post("/v1/readings", content=compress(body), headers=headers)
    assert (answer.status_code, await values(client)) == (200, [4.0])


@pytest.mark.parametrize("compress", [gzip.compress, zstd.compress])
async def test_compressed_bomb_is_refused_at_the_limit(
    client: httpx.AsyncClient, compress: Callable[[bytes], bytes], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(routes, "MAX_READINGS_BYTES", 1_000_000)
    encoding = "gzip" if compress is gzip.compress else "zstd"
    bomb = compress(bytes(100_000_000))
    answer = await client.post("/v1/readings", content=bomb, headers={"content-encoding": encoding})
    assert (answer.status_code, answer.json()["field"]) == (413, "body")
    assert "after decompression" in answer.json()["detail"]


@pytest.mark.parametrize("encoding", bodies.ENCODINGS)
@pytest.mark.parametrize("cut", [1, 10, 20])
async def test_damaged_compressed_body_is_a_problem(
    client: httpx.AsyncClient, encoding: str, cut: int
):
    whole = (gzip.compress if encoding == "gzip" else zstd.compress)(b"x" * 1_000)
    answer = await client.post(
        "/v1/readings", content=whole[:-cut], headers={"content-encoding": encoding}
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "content-encoding")


@pytest.mark.parametrize(
    ("headers", "named"),
    [
        ({"content-encoding": "br"}, "gzip, zstd, found 'br'"),
        ({"content-encoding": "gzip, zstd"}, "found 'gzip, zstd'"),
        ({"content-type": "application/xml"}, "application/x-ndjson or text/csv"),
    ],
)
async def test_unsupported_type_or_encoding_names_what_is_supported(
    client: httpx.AsyncClient, headers: dict[str, str], named: str
):
    answer = await client.post("/v1/readings", content=b"[]", headers=headers)
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (
        415,
        "unsupported-media",
    )
    assert named in answer.json()["detail"]


async def test_refusal_of_all_readings_is_a_stable_problem(client: httpx.AsyncClient):
    answer = await client.post("/v1/readings", json=[None, row(1.0) | {"value": None}])
    found = answer.json()
    assert (answer.status_code, found["type"]) == (
        422,
        "urn:hydraulic-diagnostics:problem:readings",
    )
    assert found["detail"] == (
        "line 1: expected an object of equipment_id, sensor_id, time, value, found null"
    )
    assert [line["field"] for line in found["rejected"]] == ["", "value"]


async def test_interval_is_replaced_by_the_body(client: httpx.AsyncClient):
    await client.post("/v1/readings", json=[row(second, second) for second in range(5)])
    body = "time;PS1\n2026-01-31T12:00:01Z;7,5\n"
    answer = await client.put(PATH, params=span(1, 4), content=body.encode())
    assert (answer.status_code, answer.json()) == (200, {"removed": 3, "written": 1})
    assert await values(client) == [0.0, 7.5, 4.0]
    (change,) = (await client.get(f"{PATH}/changes")).json()["changes"]
    assert (change["actor"], change["action"], change["removed"], change["written"]) == (
        "test",
        "replace_interval",
        3,
        1,
    )


@pytest.mark.parametrize(
    "body",
    [
        [row(1.0, 1), row(1.0, 4)],
        [row(1.0, 1), row(1.0, 2) | {"equipment_id": "press-2"}],
        [row(1.0, 1), row(2.0, 1)],
        [row(1.0, 1), None],
        [],
    ],
)
async def test_replacement_is_all_or_nothing(
    client: httpx.AsyncClient, store: Store, body: list[object]
):
    await store.put_equipment(make_machine("press-2"))
    await client.post("/v1/readings", json=[row(second, second) for second in range(5)])
    answer = await client.put(PATH, params=span(1, 4), json=body)
    assert (answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]) == (422, "readings")
    assert await values(client) == [0.0, 1.0, 2.0, 3.0, 4.0]


async def test_interval_is_deleted(client: httpx.AsyncClient):
    await client.post("/v1/readings", json=[row(second, second) for second in range(5)])
    answer = await client.delete(PATH, params=span(1, 4))
    assert (answer.status_code, answer.json()) == (200, {"removed": 3, "written": 0})
    assert await values(client) == [0.0, 4.0]


async def test_changes_come_in_pages(client: httpx.AsyncClient):
    for end in (1, 2, 3):
        await client.delete(PATH, params=span(0, end))
    seen, cursor = [], None
    while True:
        params = {"limit": 2} | ({"cursor": cursor} if cursor else {})
        page = (await client.get(f"{PATH}/changes", params=params)).json()
        seen += [change["end"] for change in page["changes"]]
        cursor = page["next_cursor"]
        if cursor is None:
            break
    assert seen == [f"2026-01-31T12:00:0{end}Z" for end in (3, 2, 1)]


async def test_readings_are_binned_for_charts(client: httpx.AsyncClient):
    body = [row(value, second) for second, value in ((0, 1), (0.5, 3), (3.9, 5), (4, 100))]
    await client.post("/v1/readings", json=[*body, row(-1, 1, "TS1")])
    answer = await client.get(PATH, params=span(0, 4) | {"bins": 2})
    found = answer.json()
    assert (answer.status_code, found["bins"], found["bin_s"], found["source"]) == (
        200,
        2,
        2.0,
        "readings",
    )
    assert found["start"] == "2026-01-31T12:00:00Z"
    by_id = {sensor.pop("sensor_id"): sensor for sensor in found["sensors"]}
    assert by_id["PS1"] == {
        "unit": "bar",
        "mean": [2.0, 5.0],
        "min": [1.0, 5.0],
        "max": [3.0, 5.0],
        "count": [2, 1],
    }
    assert by_id["TS1"]["mean"] == [-1.0, None]
    assert by_id["PS2"]["count"] == [0, 0]


async def test_chart_of_a_long_interval_is_of_the_grid(client: httpx.AsyncClient):
    await client.post("/v1/readings", json=[row(1, 0), row(3, 0.5), row(5, 1)])
    found = (await client.get(PATH, params=span(0, 86_400 * 2) | {"sensors": "PS1"})).json()
    (sensor,) = found["sensors"]
    assert (found["source"], found["bins"], len(sensor["mean"])) == ("grid", 200, 200)
    assert (sensor["mean"][0], sensor["min"][0], sensor["max"][0], sensor["count"][0]) == (
        3.5,
        2.0,
        5.0,
        2,
    )


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"sensors": ["PS1,PS7"]}, "sensors"),
        ({"bins": "2001"}, "bins"),
        ({"end": "2026-01-31T12:00:00Z"}, "start"),
        ({"end": "2027-01-31T12:00:00Z"}, "end"),
    ],
)
async def test_chart_that_is_too_large_or_of_nothing_is_a_problem(
    client: httpx.AsyncClient, changes: dict[str, object], field: str
):
    answer = await client.get(PATH, params=span(0, 60) | changes)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_chart_of_too_many_points_is_a_problem(client: httpx.AsyncClient, store: Store):
    await store.put_equipment(make_machine("large", tuple(f"S{n}" for n in range(100))))
    path = "/v1/equipment/large/readings"
    answer = await client.get(path, params=span(0, 60) | {"bins": 501})
    assert (answer.status_code, answer.json()["field"]) == (422, "bins")
    assert (await client.get(path, params=span(0, 60) | {"bins": 500})).status_code == 200


async def test_chart_without_an_interval_is_of_the_last_hour(client: httpx.AsyncClient):
    now = datetime.now(UTC)
    times = [now - timedelta(hours=2), now - timedelta(minutes=1)]
    await client.post("/v1/readings", json=[row(1.0) | {"time": at.isoformat()} for at in times])
    found = (await client.get(PATH, params={"sensors": "PS1"})).json()
    assert sum(found["sensors"][0]["count"]) == 1


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
async def test_change_of_an_interval_needs_admin_bounds_and_a_machine(
    client: httpx.AsyncClient, store: Store, method: str
):
    for path, params, status in (
        ("/v1/equipment/nobody/readings", span(0, 1), 404),
        (PATH, {}, 422),
        (PATH, span(1, 1), 422),
        (PATH, span(0, 86_400 * 31 + 1), 422),
    ):
        answer = await client.request(method, path, params=params, json=[row(1.0)])
        assert answer.status_code == status, answer.text
    await as_ingest(client, store)
    answer = await client.request(method, PATH, params=span(0, 1), json=[row(1.0)])
    assert answer.status_code == 403
