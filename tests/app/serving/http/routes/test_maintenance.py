"""Maintenance over HTTP: recorded once, listed page by page, removed when it was a mistake."""

from typing import Any

import httpx
import pytest

from app.store.store import Store
from tests.small import press

PATH = "/v1/equipment/press-1/maintenance"
REPAIR = {"time": "2025-01-02T10:00:00Z", "component_id": "pump", "kind": "repair", "note": "seal"}


@pytest.fixture(autouse=True)
async def registered(store: Store) -> None:
    await store.put_equipment(press())


async def listed(client: httpx.AsyncClient, **params: Any) -> list[dict[str, Any]]:
    answer = await client.get(PATH, params=params)
    assert answer.status_code == 200, answer.text
    found: list[dict[str, Any]] = answer.json()["maintenance"]
    return found


async def test_recorded_maintenance_is_listed(client: httpx.AsyncClient):
    answer = await client.post(PATH, json=REPAIR)
    assert answer.status_code == 201, answer.text
    record = answer.json()
    assert record == REPAIR | {"maintenance_id": record["maintenance_id"]}
    assert await listed(client) == [record]


async def test_same_maintenance_again_changes_its_note(client: httpx.AsyncClient):
    first = await client.post(PATH, json=REPAIR)
    again = await client.post(PATH, json=REPAIR | {"note": "both seals"})
    assert (first.status_code, again.status_code) == (201, 200)
    assert again.json() == first.json() | {"note": "both seals"}
    assert await listed(client) == [again.json()]


async def test_maintenance_of_the_whole_machine_names_no_component(client: httpx.AsyncClient):
    answer = await client.post(PATH, json={"time": REPAIR["time"], "kind": "fluid"})
    assert answer.json()["component_id"] is None
    assert answer.json()["note"] == ""


async def test_list_is_newest_first_in_pages_of_an_interval(client: httpx.AsyncClient):
    for day in (3, 1, 2, 4):
        await client.post(PATH, json=REPAIR | {"time": f"2025-01-0{day}T00:00:00Z"})
    page = (await client.get(PATH, params={"limit": 3})).json()
    assert [each["time"][:10] for each in page["maintenance"]] == [
        "2025-01-04",
        "2025-01-03",
        "2025-01-02",
    ]
    rest = await listed(client, limit=3, cursor=page["next_cursor"])
    assert [each["time"][:10] for each in rest] == ["2025-01-01"]
    within = {"start": "2025-01-02T00:00:00Z", "end": "2025-01-03T00:00:00Z"}
    assert [each["time"][:10] for each in await listed(client, **within)] == ["2025-01-02"]


async def test_removed_maintenance_is_gone(client: httpx.AsyncClient):
    number = (await client.post(PATH, json=REPAIR)).json()["maintenance_id"]
    assert (await client.delete(f"{PATH}/{number}")).status_code == 204
    assert await listed(client) == []
    gone = await client.delete(f"{PATH}/{number}")
    assert gone.status_code == 404
    assert gone.json()["type"].endswith(":unknown-maintenance")


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"component_id": "motor"}, "component_id"),
        ({"kind": "polish"}, "kind"),
        ({"time": "2125-01-01T00:00:00Z"}, "time"),
        ({"time": "1925-01-01T00:00:00Z"}, "time"),
        ({"time": "2025-01-01T00:00:00"}, "time"),
        ({"who": "me"}, "who"),
    ],
)
async def test_invalid_maintenance_names_its_field(
    client: httpx.AsyncClient, change: dict[str, str], field: str
):
    answer = await client.post(PATH, json=REPAIR | change)
    assert answer.status_code == 422
    assert answer.json()["field"] == field
    assert await listed(client) == []


async def test_unknown_machine_is_not_found(client: httpx.AsyncClient):
    answer = await client.post("/v1/equipment/nobody/maintenance", json=REPAIR)
    assert answer.status_code == 404
    assert (await client.get("/v1/equipment/nobody/maintenance")).status_code == 404


async def test_purge_removes_maintenance_too(client: httpx.AsyncClient, store: Store):
    await client.post(PATH, json=REPAIR)
    answer = await client.delete("/v1/equipment/press-1", params={"purge": "true"})
    assert answer.json()["complete"], answer.text
    await client.put("/v1/equipment/press-1", content=press().model_dump_json())
    assert await listed(client) == []
