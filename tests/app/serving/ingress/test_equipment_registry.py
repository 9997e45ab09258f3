"""Registered machines while the database is unavailable."""

import asyncio

import pytest

from app.core.errors import StoreUnavailable, UnknownEquipment
from app.demo.rig.equipment import rig_equipment
from app.schemas.equipment import Equipment
from app.serving.ingress import equipment_registry as module
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.store.equipment import EquipmentRecord
from app.store.store import Store


class Away:
    """Makes the store unavailable and counts the lookups."""

    def __init__(self, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
        self.lookups = 0
        monkeypatch.setattr(store, "get_equipment_of", self.get)

    async def get(self, equipment_ids: list[str], **_: object) -> dict[str, EquipmentRecord]:
        self.lookups += 1
        await asyncio.sleep(0)
        raise StoreUnavailable("expected the database, found nothing")


async def test_declared_machine_is_served_without_any_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    away = Away(store, monkeypatch)
    registry = EquipmentRegistry(store, (rig_equipment(),))
    for _ in range(5):
        assert await registry.topology("hydraulic-rig") == rig_equipment()
    assert away.lookups == 1
    with pytest.raises(StoreUnavailable):
        await registry.topology("another")


async def test_one_request_in_some_seconds_waits_for_an_unavailable_database(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "TOPOLOGY_CACHE_S", 0.0)
    await store.put_equipment(rig_equipment())
    registry = EquipmentRegistry(store)
    registry._remember("hydraulic-rig", rig_equipment(), for_s=0.0)
    away = Away(store, monkeypatch)
    await asyncio.gather(*(registry.topology("hydraulic-rig") for _ in range(20)))
    assert away.lookups == 1


async def test_unknown_machine_is_remembered_as_unknown(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    registry = EquipmentRegistry(store)
    with pytest.raises(UnknownEquipment):
        await registry.topology("nobody")
    away = Away(store, monkeypatch)
    with pytest.raises(UnknownEquipment):
        await registry.topology("nobody")
    assert away.lookups == 0


async def test_topology_registered_during_a_lookup_is_not_replaced_by_the_older_one(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    old = rig_equipment()
    new = old.model_copy(update={"name": "renamed"})
    await store.put_equipment(old)
    registry = EquipmentRegistry(store)
    get = store.get_equipment_of

    async def get_while_another_registers(
        ids: list[str], **options: bool
    ) -> dict[str, EquipmentRecord]:
        found = await get(ids, **options)
        monkeypatch.setattr(store, "get_equipment_of", get)
        await registry.put(new.equipment_id, new.model_dump_json().encode())
        return found

    monkeypatch.setattr(store, "get_equipment_of", get_while_another_registers)
    assert (await registry.topology(new.equipment_id)).name == "renamed"
    assert (await registry.topology(new.equipment_id)).name == "renamed"


async def test_lookups_at_the_same_time_all_see_what_another_replica_registered(store: Store):
    old = rig_equipment()
    await store.put_equipment(old)
    registry = EquipmentRegistry(store)
    await registry.topology(old.equipment_id)
    await store.put_equipment(old.model_copy(update={"name": "renamed"}))
    found = await asyncio.gather(*(registry.renew([old.equipment_id]) for _ in range(3)))
    names = [getattr(each[old.equipment_id], "name", None) for each in found]
    assert names == ["renamed"] * 3


async def test_machines_that_differ_only_in_name_share_their_structure_in_memory(store: Store):
    registry = EquipmentRegistry(store)
    for number in range(3):
        await store.put_equipment(rig_equipment(f"rig-{number}"))
    found = await registry.topologies([f"rig-{number}" for number in range(3)])
    first, second = found["rig-0"], found["rig-1"]
    assert isinstance(first, Equipment)
    assert isinstance(second, Equipment)
    assert second.components is first.components
    assert (first.equipment_id, second.equipment_id) == ("rig-0", "rig-1")
    assert second.revision != first.revision
    assert second.sensors == first.sensors
