"""Machines over HTTP: deletion, purge, metadata, pages and findings."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import asyncpg
import httpx
import numpy as np
import pytest

from app.core.errors import DeletedEquipment
from app.core.settings import Settings
from app.demo.rig.equipment import rig_equipment
from app.schemas.equipment import METADATA, Equipment
from app.serving.ingress.deployment import prepare
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.store import equipment as module
from app.store.diagnoses import ShadowAnswer
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.app.store.test_diagnoses import diagnosis
from tests.machines import make_machine
from tests.rows import stored_row

T0_S = 1_700_000_000
END = datetime.fromtimestamp(T0_S, UTC)
READING = {"equipment_id": "press-1", "sensor_id": "PS1", "time": END.isoformat(), "value": 1.0}


def body_of(machine: Equipment, **changes: object) -> dict[str, object]:
    return machine.model_dump(mode="json") | changes


def kind_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]


async def fill(store: Store, name: str, readings: int = 30) -> None:
    """Register a machine with readings of two months, a label, and two answered diagnoses."""
    await store.put_equipment(make_machine(name))
    times_us = (T0_S + np.arange(readings) * 86_400 * 40 // readings) * 1_000_000
    await store.ingest(name, ["PS1"] * readings, times_us, np.ones(readings))
    await store.put_labels(name, [ConditionLabel("pump", 0, 10, health=0.5)])
    made = [diagnosis(f"{name}-{number}", END, equipment_id=name) for number in range(2)]
    await store.insert_diagnoses([stored_row(each) for each in made])
    await store.insert_shadow_answers([ShadowAnswer(each, "1", 0.1, 0.1) for each in made])


async def counts(dsn: str, name: str) -> list[int]:
    """Return the numbers of rows of a machine: readings, bins, labels, diagnoses, shadows."""
    session = await asyncpg.connect(dsn)
    key = await session.fetchval(
        "select equipment_key from equipment where equipment_id = $1", name
    )
    found = [
        await session.fetchval(f"select count(*) from {table} where equipment_key = $1", key)
        for table in ("sensor_readings", "sensor_grid", "condition_labels")
    ] + [
        await session.fetchval(f"select count(*) from {table} where equipment_id = $1", name)
        for table in ("diagnoses", "shadow_answers")
    ]
    await session.close()
    return found


async def changes_of(dsn: str) -> list[tuple[str, str, str]]:
    session = await asyncpg.connect(dsn)
    rows = await session.fetch(
        "select equipment_id, action, actor from equipment_changes order by change_id"
    )
    await session.close()
    return [tuple(row) for row in rows]


async def test_deleted_machine_is_not_served_until_it_is_registered_again(
    client: httpx.AsyncClient, store: Store, database_dsn: str
):
    await fill(store, "press-1")
    answer = await client.delete("/v1/equipment/press-1")
    assert answer.status_code == 200
    found = await client.get("/v1/equipment/press-1")
    assert kind_of(found) == (404, "deleted-equipment")
    deleted_at = answer.json()["deleted_at"][:19]
    for part in (f"was deleted at {deleted_at}", "PUT /v1/equipment/press-1 to restore it"):
        assert part in found.json()["detail"]
    listed = (await client.get("/v1/equipment")).json()["equipment"]
    assert "press-1" not in [item["equipment_id"] for item in listed]
    at = END + timedelta(minutes=1)
    for wanted in ({"equipment_id": "press-1"}, {"equipment_id": "press-1", "at": at.isoformat()}):
        refused = await client.post("/v1/diagnoses", json=wanted)
        assert kind_of(refused) == (404, "deleted-equipment")
    assert kind_of(await client.delete("/v1/equipment/press-1")) == (404, "deleted-equipment")
    posted = await client.post("/v1/readings", json=READING)
    assert posted.status_code == 422
    assert f"found 'press-1', which was deleted at {deleted_at}" in posted.json()["detail"]
    history = await client.get("/v1/equipment/press-1/diagnoses")
    assert len(history.json()["diagnoses"]) == 2
    labels = await client.get("/v1/equipment/press-1/labels")
    assert len(labels.json()["labels"]) == 1
    assert kind_of(await client.get("/v1/equipment/nobody/labels"))[0] == 404

    restored = await client.put("/v1/equipment/press-1", json=body_of(make_machine()))
    assert (restored.status_code, restored.json()["restored"]) == (200, True)
    assert (await client.get("/v1/equipment/press-1")).status_code == 200
    assert await counts(database_dsn, "press-1") == [30, 30, 1, 2, 2]
    assert await changes_of(database_dsn) == [
        ("press-1", "deleted", "test"),
        ("press-1", "restored", "test"),
    ]


async def test_purge_removes_the_rows_of_one_machine_and_is_recorded(
    client: httpx.AsyncClient, store: Store, database_dsn: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "PURGE_ROWS", 7)
    monkeypatch.setattr(module, "PURGE_DIAGNOSES", 1)
    for name in ("press-1", "press-2"):
        await fill(store, name)
    monkeypatch.setattr("app.serving.ingress.equipment_registry.PURGE_S", 0.0)
    begun = await client.delete("/v1/equipment/press-1", params={"purge": True})
    assert (begun.status_code, begun.json()["complete"]) == (202, False)
    assert (await client.get("/v1/equipment/press-1")).status_code == 404
    monkeypatch.undo()
    monkeypatch.setattr(module, "PURGE_ROWS", 7)

    purged = await client.delete("/v1/equipment/press-1", params={"purge": True})
    assert (purged.status_code, purged.json()) == (
        200,
        {
            "equipment_id": "press-1",
            "complete": True,
            "readings": 30,
            "bins": 30,
            "diagnoses": 2,
            "labels": 1,
        },
    )
    assert await counts(database_dsn, "press-1") == [0, 0, 0, 0, 0]
    assert await counts(database_dsn, "press-2") == [30, 30, 1, 2, 2]
    again = await client.delete("/v1/equipment/press-1", params={"purge": True})
    assert kind_of(again) == (404, "unknown-equipment")
    assert [action for _, action, _ in await changes_of(database_dsn)] == [
        "deleted",
        "purged",
        "purged",
    ]
    assert (await client.put("/v1/equipment/press-1", json=body_of(make_machine()))).json()[
        "created"
    ]


async def test_only_admin_keys_delete(client: httpx.AsyncClient, store: Store):
    await store.put_equipment(make_machine())
    secret = (await store.create_key("writer", ["read", "ingest", "label", "diagnose"])).secret
    client.headers["authorization"] = f"Bearer {secret}"
    assert kind_of(await client.delete("/v1/equipment/press-1")) == (403, "forbidden")


async def test_other_replicas_and_restarts_respect_a_deletion(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    machine = make_machine()
    first, second = (EquipmentRegistry(store, (machine,)) for _ in range(2))
    await first.put("press-1", machine.model_dump_json().encode())
    await second.topology("press-1")
    await first.delete("press-1", "test")
    # what a stored diagnosis of the second replica reads shows that its topology is out of date
    (window,) = await store.read_windows([("press-1", T0_S, 60)])
    assert window.revision == ""
    (found,) = (await second.renew(["press-1"])).values()
    assert isinstance(found, DeletedEquipment)
    with pytest.raises(DeletedEquipment):
        await second.topology("press-1")

    async def ensure_no_key(*_: object) -> None:
        return

    monkeypatch.setattr("app.serving.ingress.deployment.ensure_first_key", ensure_no_key)
    await prepare(store, Settings(var_dir=tmp_path), (machine,))
    assert await store.get_equipment("press-1") is None


async def test_metadata_is_returned_filters_the_list_and_changes_no_revision(
    client: httpx.AsyncClient,
):
    plain = body_of(make_machine())
    before = (await client.put("/v1/equipment/press-1", json=plain)).json()
    metadata = {
        "manufacturer": "Müller",
        "model": "HP 200",
        "serial_number": "0042",
        "site": "hall 3",
        "commissioned": "2019-05-01",
        "operating_hours": {"value_h": 41_250.5, "as_of": "2026-01-31T06:00:00Z"},
    }
    after = (await client.put("/v1/equipment/press-1", json=plain | metadata)).json()
    assert after["revision"] == before["revision"]
    found = (await client.get("/v1/equipment/press-1")).json()
    assert {name: found[name] for name in METADATA} == metadata
    await client.put("/v1/equipment/press-2", json=body_of(make_machine("press-2"), site="hall 4"))
    lathe = body_of(make_machine("lathe-1"), design="lathe", site="hall 3")
    await client.put("/v1/equipment/lathe-1", json=lathe)

    async def ids(**params: str) -> list[str]:
        listed = (await client.get("/v1/equipment", params=params)).json()["equipment"]
        return [item["equipment_id"] for item in listed]

    assert await ids(site="hall 3") == ["lathe-1", "press-1"]
    assert await ids(design="press") == ["press-1", "press-2"]
    assert await ids(design="press", site="hall 3") == ["press-1"]
    listed = (await client.get("/v1/equipment", params={"site": "hall 4"})).json()["equipment"]
    assert (listed[0]["components"], listed[0]["sensors"], listed[0]["site"]) == (1, 3, "hall 4")
    for bad in (
        {"operating_hours": {"value_h": 1.0}},
        {"operating_hours": {"value_h": -1.0, "as_of": "2026-01-01T00:00:00Z"}},
        {"operating_hours": {"value_h": 1.0, "as_of": 5}},
        {"commissioned": "yesterday"},
        {"site": ""},
    ):
        answer = await client.put("/v1/equipment/press-1", json=plain | bad)
        assert kind_of(answer) == (422, "topology"), bad


async def test_pages_of_machines_are_stable_while_others_are_registered(
    client: httpx.AsyncClient, store: Store
):
    for name in ("m1", "m2", "m3", "m5"):
        await store.put_equipment(make_machine(name))
    params = {"limit": 2, "design": "press"}
    first = (await client.get("/v1/equipment", params=params)).json()
    assert [item["equipment_id"] for item in first["equipment"]] == ["m1", "m2"]
    for name in ("m0", "m4"):
        await store.put_equipment(make_machine(name))
    seen, cursor = [], first["next_cursor"]
    while cursor:
        page = (await client.get("/v1/equipment", params=params | {"cursor": cursor})).json()
        seen += [item["equipment_id"] for item in page["equipment"]]
        cursor = page["next_cursor"]
    assert seen == ["m3", "m4", "m5"]
    for bad in ("x", "bm9wZQ", "WzVd", "WyJhIGIiXQ"):
        answer = await client.get("/v1/equipment", params={"cursor": bad})
        assert (answer.status_code, answer.json()["field"]) == (422, "cursor")
        assert "leave `cursor` out" in answer.json()["detail"]


async def test_sensor_that_a_version_of_the_design_never_saw_is_a_finding(
    client: httpx.AsyncClient,
):
    topology = rig_equipment("rig-2").model_dump(mode="json")
    pump = next(item for item in topology["components"] if item["component_id"] == "pump")
    pump["sensors"] = [*pump["sensors"], pump["sensors"][0] | {"sensor_id": "PS99"}]
    answer = await client.put("/v1/equipment/rig-2", json=topology)
    (finding,) = answer.json()["findings"]
    assert finding["severity"] == "warning"
    assert finding["place"].endswith(f"sensors[{len(pump['sensors']) - 1}].sensor_id")
    for part in ("version 1 was trained with", "'PS99'", "train a version with it", "EPS1"):
        assert part in finding["message"]
    # nothing is known of the sensors of a design that no version was trained with
    answer = await client.put("/v1/equipment/press-1", json=body_of(make_machine()))
    assert answer.json()["findings"] == []
