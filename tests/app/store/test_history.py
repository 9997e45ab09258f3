"""Histories of health: bounded samples of stored diagnoses, counters, maintenance and readings."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np

from app.schemas.equipment import OperatingHours
from app.schemas.maintenance import Maintenance
from app.store import history
from app.store.history import NO_HISTORY
from app.store.readings import Readings
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.rows import stored_row
from tests.small import press

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)


def _us(at: datetime) -> int:
    return round(at.timestamp()) * 1_000_000


async def _fill(store: Store, hours: range, equipment_id: str = "press-1") -> None:
    made = [
        diagnosis(f"{equipment_id}-{hour}", START + hour * HOUR, START + hour * HOUR, equipment_id)
        for hour in hours
    ]
    await store.insert_diagnoses([stored_row(each) for each in made])


async def test_machine_without_diagnoses_has_no_history(store: Store):
    await store.put_equipment(press())
    assert await store.health_histories(["press-1", "nobody"]) == {
        "press-1": NO_HISTORY,
        "nobody": NO_HISTORY,
    }


async def test_few_diagnoses_are_all_samples(store: Store):
    await store.put_equipment(press())
    await _fill(store, range(20))
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert [each.time_us for each in found.samples] == [
        _us(START + hour * HOUR) for hour in range(20)
    ]
    assert found.samples[0].health == {"pump": 0.1 + 0.2}
    assert found.samples[0].version == "1"


async def test_many_diagnoses_are_sampled_evenly_and_more_of_the_last_ones(store: Store):
    await store.put_equipment(press())
    await _fill(store, range(0, 2_400, 2))
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert history.PARTS < len(found.samples) <= 2 * history.PARTS
    hours = (np.array([each.time_us for each in found.samples]) - _us(START)) / 3.6e9
    assert np.diff(hours).max() < 2.5 * 2_400 / history.PARTS
    assert (hours > 2_200).sum() >= history.PARTS * 0.9


async def test_only_stored_readings_and_labelled_health_count(store: Store):
    await store.put_equipment(press())
    plain = diagnosis("a", START)
    inline = replace(diagnosis("b", START + HOUR), input=replace(plain.input, source="inline"))
    (component,) = plain.components
    unusual = replace(
        diagnosis("c", START + 2 * HOUR), components=(replace(component, basis="novelty"),)
    )
    for each in (plain, inline, unusual):
        await store.insert_diagnoses([stored_row(replace(each, equipment_id="press-1"))])
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert [dict(each.health) for each in found.samples] == [{"pump": 0.1 + 0.2}, {}]


async def test_every_value_of_the_counter_is_kept(store: Store):
    for day in (1, 11):
        shown = OperatingHours(value_h=80.0 * day, as_of=START + timedelta(days=day))
        changed = {"commissioned": date(2025, 1, 1), "operating_hours": shown}
        await store.put_equipment(press().model_copy(update=changed))
    await _fill(store, range(5))
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert found.counters == [
        (_us(START + timedelta(days=1)), 80.0),
        (_us(START + timedelta(days=11)), 880.0),
    ]
    assert found.has_readings == ()


async def test_hours_with_readings_are_found(store: Store):
    await store.put_equipment(press())
    await _fill(store, range(11))
    for hour in (2, 3, 7):
        at_us = _us(START + hour * HOUR + 30 * timedelta(minutes=1))
        await store.ingest_many([Readings("press-1", ["P1"], np.array([at_us]), np.array([1.0]))])
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert [hour for hour, has in enumerate(found.has_readings) if has] == [2, 3, 7]


async def test_maintenance_counts_but_for_inspections(store: Store):
    await store.put_equipment(press())
    await _fill(store, range(5))
    for kind, component_id in (("repair", "pump"), ("fluid", None), ("inspection", "valve")):
        item = Maintenance.model_validate(
            {"time": START, "kind": kind, "component_id": component_id}
        )
        await store.put_maintenance("press-1", item)
    found = (await store.health_histories(["press-1"]))["press-1"]
    assert found.maintenance == [(_us(START), ""), (_us(START), "pump")]
