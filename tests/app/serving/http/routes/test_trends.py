"""Hourly health and readings per minute over HTTP."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_health import healthy, insert
from tests.small import press

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
DAY = {"start": "2026-03-01T00:00:00Z", "end": "2026-03-02T00:00:00Z"}
PATH = "/v1/equipment/press-1/health"


@pytest.fixture(autouse=True)
async def diagnosed(store: Store) -> None:
    await store.put_equipment(press())
    await insert(
        store,
        healthy("a", NOON, 0.5, "watch", "press-1"),
        healthy("b", NOON, 0.25, "critical", "press-1"),
        healthy("c", NOON + timedelta(hours=1), 0.75, "healthy", "press-1"),
    )
    await store.refresh_aggregates()


async def answered(client: httpx.AsyncClient, path: str, **params: str) -> dict[str, Any]:
    answer = await client.get(path, params=params)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_history_has_the_hours_of_each_component(client: httpx.AsyncClient):
    found = await answered(client, PATH, **DAY)
    assert (found["equipment_id"], found["resolution"]) == ("press-1", "hour")
    assert [each["component_id"] for each in found["components"]] == ["pump", "valve"]
    assert found["components"][0] == {
        "component_id": "pump",
        "times": ["2026-03-01T12:00:00Z", "2026-03-01T13:00:00Z"],
        "diagnoses": [2, 1],
        "health": [0.375, 0.75],
        "lowest": [0.25, 0.75],
        "highest": [0.5, 0.75],
        "watch": [1, 0],
        "degraded": [0, 0],
        "critical": [1, 0],
    }


async def test_days_put_hours_together(client: httpx.AsyncClient):
    found = await answered(client, PATH, resolution="day", **DAY)
    pump = found["components"][0]
    assert (pump["times"], pump["diagnoses"], pump["health"]) == (
        ["2026-03-01T00:00:00Z"],
        [3],
        [0.5],
    )


async def test_fleet_has_means_of_all_machines(client: httpx.AsyncClient, store: Store):
    await insert(store, healthy("d", NOON, 1.0, "healthy", "press-2"))
    await store.refresh_aggregates()
    pump = (await answered(client, "/v1/health", **DAY))["components"][0]
    assert (pump["diagnoses"], pump["health"][1]) == ([3, 1], 0.75)
    assert "lowest" not in pump


async def test_minutes_have_numbers_of_readings(client: httpx.AsyncClient, store: Store):
    sensor = press().sensor_ids[0]
    at = int(NOON.timestamp()) * 1_000_000
    await store.ingest_many([Readings("press-1", [sensor] * 2, [at, at + 1_000_000], [1.0, 1.0])])
    await store.refresh_aggregates()
    found = await answered(client, "/v1/equipment/press-1/readings/counts", **DAY)
    assert (found["times"], found["readings"]) == (["2026-03-01T12:00:00Z"], [2])


async def test_interval_without_ends_is_the_last_week(client: httpx.AsyncClient):
    found = await answered(client, PATH)
    start, end = (datetime.fromisoformat(found[name]) for name in ("start", "end"))
    assert end - start == timedelta(days=7)
    assert found["components"] == []


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"start": "2026-01-01T00:00:00Z", "end": "2026-06-01T00:00:00Z"}, "start"),
        ({"start": DAY["end"], "end": DAY["start"]}, "start"),
        ({"resolution": "minute"}, "resolution"),
    ],
)
async def test_unusable_interval_is_refused(
    client: httpx.AsyncClient, params: dict[str, str], field: str
):
    answer = await client.get(PATH, params=params)
    assert (answer.status_code, answer.json()["field"]) == (422, field)


async def test_unknown_machine_has_no_history(client: httpx.AsyncClient):
    for path in ("health", "readings/counts"):
        answer = await client.get(f"/v1/equipment/none/{path}")
        assert answer.status_code == 404
