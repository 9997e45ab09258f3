"""Trends in diagnoses: read once, refreshed in the background, begun anew after maintenance."""

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import httpx
import numpy as np
import pytest

from app.core.errors import StoreUnavailable
from app.demo.rig.equipment import rig_equipment
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment, OperatingHours
from app.serving.ingress import trends as module
from app.serving.ingress.trends import Trends
from app.store.history import HealthHistory
from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.rig import rig_cycle
from tests.rows import stored_row
from tests.small import press

START = datetime(2026, 1, 1, tzinfo=UTC)
COUNT = 60
LAST = START + COUNT * timedelta(hours=10)


async def wear(store: Store, machine: Equipment, component_id: str = "pump") -> None:
    """Register a machine that always runs, of which a component loses .6 of its health in 600 h."""
    equipment_id = machine.equipment_id
    for at, value_h in ((START, 1_000.0), (LAST, 1_600.0)):
        counter = OperatingHours(value_h=value_h, as_of=at)
        await store.put_equipment(machine.model_copy(update={"operating_hours": counter}))
    rows = []
    for number in range(COUNT):
        end = START + number * timedelta(hours=10)
        one = diagnosis(f"{equipment_id}-{number}", end, end, equipment_id)
        noise = 0.02 * float(np.sin(7.0 * number))
        component = replace(
            one.components[0], component_id=component_id, health=1.0 - number / 100 - abs(noise)
        )
        rows.append(stored_row(replace(one, components=(component,))))
    await store.insert_diagnoses(rows)


class CountingStore(Store):
    """A store that counts its reads of histories, and can be away."""

    reads: list[list[str]]
    away = False

    async def health_histories(self, equipment_ids: Sequence[str]) -> dict[str, HealthHistory]:
        self.reads.append(list(equipment_ids))
        if self.away:
            raise StoreUnavailable("away")
        return await super().health_histories(equipment_ids)


@pytest.fixture
async def counting(store: Store, database_dsn: str) -> CountingStore:
    await store.put_equipment(press())
    counting = CountingStore(database_dsn)
    counting.reads = []
    return counting


async def test_machines_of_a_batch_are_read_in_one_statement_and_then_kept(
    counting: CountingStore,
):
    await wear(counting, press())
    trends = Trends(counting)
    ends = [("press-1", LAST), ("nobody", LAST), ("press-1", LAST - timedelta(hours=100))]
    found = await trends.of(ends)
    pump = found["press-1", LAST].of["pump"]
    assert pump.rate is not None
    assert pump.rate.low < 1.0 < pump.rate.high
    assert found[ends[2]].of["pump"].points < pump.points
    assert found["nobody", LAST].of == {}
    again = await trends.of(ends)
    assert again["press-1", LAST].of["pump"] is pump
    assert counting.reads == [["press-1", "nobody"]]
    await counting.close()


async def test_history_too_short_for_a_trend_answers_while_it_is_read_again(
    counting: CountingStore, monkeypatch: pytest.MonkeyPatch
):
    trends = Trends(counting)
    monkeypatch.setattr(module, "YOUNG_S", 0.0)
    first = await trends.of([("press-1", LAST)])
    assert first["press-1", LAST].of == {}
    await wear(counting, press())
    stale = await trends.of([("press-1", LAST)])
    assert stale["press-1", LAST].of == {}
    assert trends._refreshing is not None
    await trends._refreshing
    fresh = await trends.of([("press-1", LAST)])
    assert fresh["press-1", LAST].of["pump"].points > 50
    await trends.close()
    await counting.close()


async def test_without_the_database_there_is_no_trend_and_no_error(counting: CountingStore):
    trends = Trends(counting)
    counting.away = True
    assert await trends.of([("press-1", LAST)]) == {}
    assert await trends.of([("press-1", LAST)]) == {}
    assert len(counting.reads) == 1
    await counting.close()


async def test_history_that_was_read_before_maintenance_is_not_kept(counting: CountingStore):
    trends = Trends(counting)
    reading = asyncio.create_task(trends.of([("press-1", LAST)]))
    while not counting.reads:
        await asyncio.sleep(0)
    trends.forget("press-1")
    await reading
    await trends.of([("press-1", LAST)])
    assert len(counting.reads) == 2
    await counting.close()


async def test_diagnosis_states_its_trend_and_maintenance_begins_it_anew(
    client: httpx.AsyncClient, store: Store
):
    rig = rig_equipment()
    await wear(store, rig)
    first_us = round((LAST - timedelta(seconds=60)).timestamp()) * 1_000_000
    for sensor_id in rig.sensor_ids:
        times = first_us + 1_000_000 * np.arange(60)
        values = np.array(rig_cycle(0)[0][sensor_id], np.float64)
        await store.ingest_many([Readings(rig.equipment_id, [sensor_id] * 60, times, values)])
    request = {"equipment_id": rig.equipment_id, "at": LAST.isoformat()}

    async def pump() -> dict[str, object]:
        answer = await client.post("/v1/diagnoses", json=request)
        assert answer.status_code == 200, answer.text
        Diagnosis.from_json(answer.content)
        (found,) = [e for e in answer.json()["components"] if e["component_id"] == "pump"]
        return dict(found)

    found = await pump()
    assert isinstance(found["trend"], dict)
    assert found["trend"]["points"] > 50
    assert found["trend"]["hours"] == "counter"
    assert str(found["trend"]["since"]).startswith("2026-01-01T")
    await client.post(
        f"/v1/equipment/{rig.equipment_id}/maintenance",
        json={"time": (START + timedelta(hours=295)).isoformat(), "kind": "repair"},
    )
    after = await pump()
    assert isinstance(after["trend"], dict)
    assert after["trend"]["points"] < found["trend"]["points"] - 20
    assert after["trend"]["change_point"] == "maintenance"
