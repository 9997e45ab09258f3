import pytest

from app.core.errors import StoreError, UnknownEquipment
from app.schemas.equipment import Equipment
from app.store.labels import ConditionLabel
from app.store.store import Store

MINUTE_US = 60_000_000


def label(
    minute: int, grade: str, component_id: str = "pump", *, stable: bool = True
) -> ConditionLabel:
    return ConditionLabel(
        component_id, minute * MINUTE_US, (minute + 1) * MINUTE_US, grade, stable, 2 * minute
    )


async def test_labels_come_back_by_time(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    labels = [label(2, "1"), label(1, "0", stable=False), label(1, "3", "cooler")]

    assert await store.put_labels("press-1", labels) == 3

    assert await store.read_labels("press-1") == [labels[2], labels[1], labels[0]]


async def test_interval_takes_labels_that_overlap_it(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    await store.put_labels("press-1", [label(minute, "0") for minute in range(5)])

    found = await store.read_labels("press-1", 1 * MINUTE_US + 1, 3 * MINUTE_US)

    assert [item.start_us // MINUTE_US for item in found] == [1, 2]


async def test_label_written_again_is_replaced(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    await store.put_labels("press-1", [label(1, "0"), label(1, "1")])
    await store.put_labels("press-1", [label(1, "2")])

    assert await store.read_labels("press-1") == [label(1, "2")]


async def test_labels_of_unregistered_equipment_are_refused(store: Store):
    with pytest.raises(UnknownEquipment):
        await store.put_labels("press-1", [label(1, "0")])
    assert await store.put_labels("press-1", []) == 0


async def test_label_that_ends_before_it_starts_is_refused(store: Store, machine: Equipment):
    await store.put_equipment(machine)

    with pytest.raises(StoreError):
        await store.put_labels("press-1", [ConditionLabel("pump", 10, 5, "0")])


async def test_health_and_run_to_failure_come_back(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    labels = [
        ConditionLabel("pump", 0, MINUTE_US, health=0.25),
        ConditionLabel("pump", MINUTE_US, 9 * MINUTE_US, run_to_failure=True, stable=False),
    ]

    await store.put_labels("press-1", labels)

    assert await store.read_labels("press-1") == labels


async def test_health_label_replaces_a_grade_label_completely(store: Store, machine: Equipment):
    await store.put_equipment(machine)
    await store.put_labels("press-1", [ConditionLabel("pump", 0, MINUTE_US, "0")])
    await store.put_labels("press-1", [ConditionLabel("pump", 0, MINUTE_US, health=1.0)])

    assert await store.read_labels("press-1") == [ConditionLabel("pump", 0, MINUTE_US, health=1.0)]


@pytest.mark.parametrize(
    "label",
    [
        ConditionLabel("pump", 0, MINUTE_US),
        ConditionLabel("pump", 0, MINUTE_US, "0", health=0.5),
        ConditionLabel("pump", 0, MINUTE_US, health=0.5, run_to_failure=True),
        ConditionLabel("pump", 0, MINUTE_US, health=1.5),
        ConditionLabel("pump", 0, MINUTE_US, health=float("nan")),
    ],
)
async def test_label_without_exactly_one_of_grade_health_and_failure_is_refused(
    store: Store, machine: Equipment, label: ConditionLabel
):
    await store.put_equipment(machine)

    with pytest.raises(StoreError):
        await store.put_labels("press-1", [label])
    assert await store.read_labels("press-1") == []
