from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from app.schemas.diagnosed_input import InputQuality, Window
from app.schemas.diagnosis import ComponentDiagnosis, Diagnosis, State
from app.store.fleet import FleetRun, Page, PageSizes, Selection
from app.store.store import Store
from tests.machines import make_machine
from tests.rows import stored_row

T0 = datetime(2025, 1, 1, tzinfo=UTC)
RUN = FleetRun("nightly", T0, "{}")
ALL = Selection()


@pytest.fixture
async def machines(store: Store) -> tuple[str, ...]:
    ids = ("a_1", "a_2", "ab1", "b-1", "b-2")
    for equipment_id in ids:
        await store.put_equipment(make_machine(equipment_id))
    await store.put_equipment(make_machine("c").model_copy(update={"design": "lathe"}))
    return (*ids, "c")


def diagnosis(
    diagnosis_id: str,
    equipment_id: str,
    end: datetime,
    state: State = "watch",
    source: Literal["store", "inline"] = "store",
) -> Diagnosis:
    component = ComponentDiagnosis(
        component_id="pump", health=0.5, interval=(0.0, 1.0), state=state, basis="labels",
        condition=None, confidence=None, degradation_rate=None, degradation_reason=None, rul_h=None,
        rul_interval_h=None, rul_reason=None,
    )  # fmt: skip
    quality = InputQuality(
        source=source,
        missing_sensors=(),
        faulty_sensors=(),
        unusual_sensors=(),
        coverage=1.0,
        stale_s=None,
    )
    return Diagnosis(
        diagnosis_id=diagnosis_id, equipment_id=equipment_id, created_at=RUN.created_at,
        window=Window(start=end - timedelta(minutes=1), end=end), model_version="1",
        topology_revision="", fallback=False, input=quality, status="ok", reasons=(), health=0.5,
        components=(component,),
    )  # fmt: skip


async def test_first_plan_of_a_run_is_kept(store: Store):
    runs = store.fleet_runs()
    assert await runs.find("nightly") is None
    first = await runs.begin(RUN._replace(plan='{"a": 1}'))
    again = await runs.begin(RUN._replace(plan='{"a": 2}', created_at=T0 + timedelta(days=1)))
    assert first == again == RUN._replace(plan='{"a": 1}')
    assert await runs.find("nightly") == first


async def test_pages_cover_the_selection_once(store: Store, machines: tuple[str, ...]):
    runs = store.fleet_runs()
    pages = await runs.pages(ALL, PageSizes(pages=3, smallest=1, largest=100))
    assert [page.machines for page in pages] == [2, 2, 2]
    found = [item.equipment_id for page in pages for item in await runs.read_page(RUN, page, ALL)]
    assert sorted(found) == sorted(machines)
    assert [page.machines for page in await runs.pages(ALL, PageSizes(100, 4, 100))] == [4, 2]
    assert [page.machines for page in await runs.pages(ALL, PageSizes(1, 1, 5))] == [5, 1]


async def test_pattern_and_design_select(store: Store, machines: tuple[str, ...]):
    runs = store.fleet_runs()

    async def chosen(selection: Selection) -> list[str]:
        pages = await runs.pages(selection, PageSizes(1, 1, 100))
        found = [
            item.equipment_id
            for page in pages
            for item in await runs.read_page(RUN, page, selection)
        ]
        return sorted(found)

    assert await chosen(Selection(r"a\_%", None)) == ["a_1", "a_2"]
    assert await chosen(Selection(None, "lathe")) == ["c"]
    assert await chosen(Selection("%1", "press")) == ["a_1", "ab1", "b-1"]
    assert await chosen(Selection("nothing", None)) == []


async def test_page_marks_done_and_unregistered_machines(store: Store, machines: tuple[str, ...]):
    runs = store.fleet_runs()
    page = Page(machines=3, ids=("a_1", "b-1", "gone"))
    first = {item.equipment_id: item for item in await runs.read_page(RUN, page, ALL)}
    assert len({item.diagnosis_id for item in first.values()}) == 3
    assert all(len(item.diagnosis_id) == 32 for item in first.values())
    assert first["gone"].equipment is None
    assert first["a_1"].equipment == make_machine("a_1")

    await store.insert_diagnoses([stored_row(diagnosis(first["a_1"].diagnosis_id, "a_1", T0))])

    again = {item.equipment_id: item for item in await runs.read_page(RUN, page, ALL)}
    assert {name: item.done for name, item in again.items()} == {
        "a_1": True,
        "b-1": False,
        "gone": False,
    }
    assert again["a_1"].equipment is None
    other = await runs.read_page(RUN._replace(name="other"), page, ALL)
    assert not any(item.done for item in other)
    assert {item.diagnosis_id for item in other}.isdisjoint(
        item.diagnosis_id for item in first.values()
    )


async def test_states_are_those_of_the_newest_earlier_window_of_stored_readings(store: Store):
    minute = timedelta(minutes=1)
    await store.insert_diagnoses(
        [
            stored_row(item)
            for item in (
                diagnosis("1" * 32, "a", T0, "healthy"),
                diagnosis("2" * 32, "a", T0 + minute, "degraded"),
                diagnosis("3" * 32, "a", T0 + 2 * minute, "critical"),
                diagnosis("4" * 32, "b", T0, "critical", source="inline"),
            )
        ]
    )

    found = await store.fleet_runs().states_before(
        [("a", T0 + 2 * minute), ("b", T0 + minute), ("a", T0 + minute)]
    )

    assert found == [{"pump": "degraded"}, {}, {"pump": "healthy"}]
