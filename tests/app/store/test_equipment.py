import asyncio

import numpy as np
import pytest

from app.schemas.equipment import Equipment
from app.store import equipment
from app.store.store import Store
from app.store.windows import decode_window
from tests.machines import make_machine

T0_S = 1_700_000_000


async def test_registered_equipment_is_returned_unchanged(store: Store, machine: Equipment):
    assert (await store.put_equipment(machine)).created

    found = await store.get_equipment(machine.equipment_id)

    assert found is not None
    assert found.equipment == machine
    assert found.revision == machine.revision
    assert await store.get_equipment("press-9") is None


async def test_second_registration_updates(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    first = await store.get_equipment("press-1")
    changed = Equipment.model_validate({**machine.model_dump(), "name": "Press in hall 3"})

    assert not (await store.put_equipment(changed)).created

    second = await store.get_equipment("press-1")
    assert first is not None
    assert second is not None
    assert second.revision != first.revision
    assert second.registered_at == first.registered_at
    assert second.updated_at > first.updated_at
    assert second.equipment.name == "Press in hall 3"


async def test_concurrent_registrations_give_each_sensor_one_slot(store: Store):
    await asyncio.gather(
        *(store.put_equipment(make_machine(sensors=("A", "B", f"X{index}"))) for index in range(6))
    )

    (found,) = await store.read_windows([("press-1", T0_S, 1)])

    assert sorted(found.slot_sensors) == ["A", "B", "X0", "X1", "X2", "X3", "X4", "X5"]
    assert found.slot_sensors[:2] == ("A", "B")


async def test_list_is_in_order_and_complete_beyond_a_page(
    store: Store, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(equipment, "PAGE", 2)
    for name in ("b", "a", "c"):
        await store.put_equipment(make_machine(name))

    assert [record.equipment.equipment_id for record in await store.list_equipment()] == [
        "a",
        "b",
        "c",
    ]


async def test_changed_grid_is_recomputed_from_the_readings(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    values = np.arange(120, dtype=np.float64)
    await store.ingest("press-1", ["PS1"] * 120, (T0_S + np.arange(120)) * 1_000_000, values)
    coarse = make_machine(grid_s=10.0)

    await store.put_equipment(coarse)

    (window,) = await store.read_windows([("press-1", T0_S // 10, 12)])
    assert window.count == 12
    np.testing.assert_array_equal(
        decode_window(window, coarse)[0], values.reshape(12, 10).mean(axis=1)
    )


async def test_machines_are_found_by_design_and_pattern(store: Store):
    for name in ("b_1", "a_1", "ax1"):
        await store.put_equipment(make_machine(name))
    await store.put_equipment(make_machine("c").model_copy(update={"design": "lathe"}))

    assert await store.find_equipment() == ["a_1", "ax1", "b_1", "c"]
    assert await store.find_equipment(design="press") == ["a_1", "ax1", "b_1"]
    assert await store.find_equipment("a_*", "press") == ["a_1"]
    assert await store.find_equipment("*1") == ["a_1", "ax1", "b_1"]
    assert await store.find_equipment("c") == ["c"]
    assert await store.find_equipment("%") == []
