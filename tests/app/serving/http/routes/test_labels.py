"""Labels over HTTP: rejected one by one, replaced by start, read page by page, deleted."""

import json
from typing import Any

import httpx
import pytest

from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.small import START_US, press

HOUR_US = 3_600_000_000


def label(start_h: int, end_h: int, component_id: str = "pump", **value: Any) -> dict[str, Any]:
    return {
        "equipment_id": "press-1",
        "component_id": component_id,
        "start": f"2025-01-01T{start_h:02}:00:00Z",
        "end": f"2025-01-01T{end_h:02}:00:00Z",
    } | (value or {"health": 0.5})


@pytest.fixture(autouse=True)
async def registered(store: Store) -> None:
    await store.put_equipment(press())


async def listed(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get("/v1/equipment/press-1/labels", params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["labels"]
    return found


async def test_every_kind_of_label_is_stored_for_training(client: httpx.AsyncClient, store: Store):
    labels = [
        label(0, 1, grade="worn", stable=False, cycle=7),
        label(1, 2, health=0.25),
        label(2, 3, rul_h=12.5),
        label(3, 4, run_to_failure=True),
    ]
    answer = await client.post("/v1/labels", json=labels)
    assert answer.json() == {"accepted": 4, "replaced": 0, "duplicates": 0, "rejected": []}
    at = [START_US + hour * HOUR_US for hour in range(5)]
    assert await store.read_labels("press-1") == [
        ConditionLabel("pump", at[0], at[1], "worn", stable=False, cycle=7),
        ConditionLabel("pump", at[1], at[2], health=0.25),
        ConditionLabel("pump", at[2], at[3], rul_h=12.5),
        ConditionLabel("pump", at[3], at[4], run_to_failure=True),
    ]
    # what is returned can be posted again
    again = await client.post("/v1/labels", json={"labels": await listed(client)})
    assert again.json() == {"accepted": 0, "replaced": 0, "duplicates": 4, "rejected": []}


async def test_ndjson_lines_are_rejected_one_by_one(client: httpx.AsyncClient):
    good = label(0, 2)
    lines: list[Any] = [
        good,
        "",
        label(1, 3),
        good | {"component_id": "motor"},
        good | {"component_id": "valve", "grade": "lost", "health": None},
        good | {"component_id": "tank", "grade": "new", "health": 1.0},
        good | {"component_id": "tank", "health": 1.5},
        good | {"component_id": "tank", "start": "2025-01-01T03:00:00Z"},
        good | {"component_id": "tank", "start": "2025-01-01T00:00:00"},
        good | {"equipment_id": "nobody"},
        good | {"colour": "red"},
        {"equipment_id": "press-1"},
        3,
        good | {"component_id": "valve", "end": "2090-01-01T00:00:00Z"},
    ]
    body = "\n".join(json.dumps(line) if line != "" else "" for line in lines) + "\n{"
    answer = await client.post(
        "/v1/labels", content=body, headers={"content-type": "application/x-ndjson"}
    )
    assert answer.status_code == 200
    rejected = {item["line"]: item for item in answer.json()["rejected"]}
    assert answer.json()["accepted"] == 1
    for line, field, reason in (
        (3, "start", "expected one label of 'pump' at a time, found one that overlaps line 1"),
        (4, "component_id", "expected a component of pump, tank, valve, found 'motor'"),
        (5, "grade", "there are new, worn"),
        (6, "health", "expected exactly one of grade, health, rul_h, run_to_failure"),
        (7, "health", "expected a health from 0 to 1, found 1.5"),
        (8, "end", "expected an end after the start"),
        (9, "start", "expected a time with its zone as start"),
        (10, "equipment_id", "PUT /v1/equipment/nobody"),
        (11, "", "expected no field 'colour'"),
        (12, "component_id", "found none"),
        (13, "", "expected a JSON object, found 3"),
        (14, "end", "expected a time from 1970 to 5 minutes from now, found 2090-"),
        (15, "", "text that does not parse"),
    ):
        assert rejected[line]["field"] == field, line
        assert reason in rejected[line]["reason"], line
    assert list(rejected) == list(range(3, 16))


async def test_label_replaces_that_of_its_start_and_overlaps_no_other(client: httpx.AsyncClient):
    await client.post("/v1/labels", json=[label(0, 4), label(6, 8)])
    clash = await client.post("/v1/labels", json=label(2, 5))
    assert (clash.status_code, clash.json()["type"].rsplit(":", 1)[-1]) == (422, "labels")
    for part in ("[2025-01-01T00:00:00+00:00, 2025-01-01T04:00:00+00:00)", "give the same start"):
        assert part in clash.json()["detail"]
    # the first makes room for the second, the third would reach into a stored one
    answer = await client.post(
        "/v1/labels", json=[label(0, 2, health=0.1), label(2, 5), label(5, 7), label(2, 3, "valve")]
    )
    assert [item["line"] for item in answer.json()["rejected"]] == [3]
    assert (answer.json()["accepted"], answer.json()["replaced"]) == (3, 1)
    # a replacement that is refused makes no room
    answer = await client.post("/v1/labels", json=[label(0, 1), label(2, 7), label(7, 9)])
    assert [item["line"] for item in answer.json()["rejected"]] == [2, 3]
    assert [item["end"][11:13] for item in await listed(client, component_id="pump")] == [
        "01", "05", "08",
    ]  # fmt: skip


async def test_pages_follow_start_and_component_while_labels_arrive(client: httpx.AsyncClient):
    labels = [label(hour, hour + 1, name) for hour in range(3) for name in ("pump", "valve")]
    await client.post("/v1/labels", json=labels)
    first = (await client.get("/v1/equipment/press-1/labels", params={"limit": 3})).json()
    await client.post("/v1/labels", json=[label(0, 1, "tank"), label(1, 2, "tank")])
    rest = await listed(client, limit=10, cursor=first["next_cursor"])
    keys = [(item["start"][11:13], item["component_id"]) for item in first["labels"] + rest]
    expected = [(item["start"][11:13], item["component_id"]) for item in labels]
    assert keys == [*expected[:3], ("01", "tank"), *expected[3:]]
    path = "/v1/equipment/press-1/labels"
    assert (await client.get(path, params={"cursor": "WzEsMl0"})).status_code == 422
    within = await listed(client, start="2025-01-01T01:30:00Z", end="2025-01-01T02:00:00Z")
    assert {item["start"][11:13] for item in within} == {"01"}


async def test_labels_of_an_interval_are_deleted(client: httpx.AsyncClient):
    await client.post("/v1/labels", json=[label(0, 1), label(1, 2), label(1, 2, "valve")])
    path, params = "/v1/equipment/press-1/labels", {"start": "2025-01-01T01:00:00Z"}
    assert (await client.delete(path, params=params)).status_code == 422
    params |= {"end": "2025-01-01T02:00:00Z", "component_id": "pump"}
    assert (await client.delete(path, params=params)).json() == {"deleted": 1}
    assert [item["component_id"] for item in await listed(client)] == ["pump", "valve"]


async def test_labels_need_a_key_of_their_scope(client: httpx.AsyncClient, store: Store):
    for scope, status in (("ingest", 403), ("label", 200)):
        secret = (await store.create_key(scope, [scope])).secret
        headers = {"authorization": f"Bearer {secret}"}
        answer = await client.post("/v1/labels", json=label(0, 1), headers=headers)
        assert answer.status_code == status


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"labels": []}'])
async def test_body_without_labels_is_a_problem(client: httpx.AsyncClient, body: bytes):
    answer = await client.post("/v1/labels", content=body)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
