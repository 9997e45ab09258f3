"""Requests to diagnoses: cases that the tests of the HTTP interface do not reach."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import orjson
import pytest

from app.core.errors import (
    DeadlineExceeded,
    LimitExceeded,
    Overloaded,
    StoreUnavailable,
    UnknownEquipment,
    WindowError,
)
from app.demo.rig.equipment import rig_equipment
from app.diagnosis import cost
from app.diagnosis.pipeline import WindowInput
from app.schemas.diagnosis import Diagnosis, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.schemas.reading_formats import ReadingOptions
from app.serving.ingress import batch, diagnosis_batchers, item_groups, windows
from app.serving.ingress import diagnoses as module
from app.serving.ingress.batch import DiagnosisParts, Outcome
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.quotas import Quotas
from app.serving.ingress.readings import ReadingService
from app.serving.ingress.traffic import machine_of
from app.serving.ingress.version_router import RoutedWindow, Scored, VersionRouter
from app.serving.ingress.windows import Bins
from app.serving.observability.metrics import Metrics
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, split
from tests.rig import inline_readings, rig_cycle
from tests.uploads import upload

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = "2026-01-01T00:00:00Z"


def inline(equipment_id: str = "hydraulic-rig", **changes: object) -> DiagnosisRequest:
    body = {"equipment_id": equipment_id, "readings": inline_readings(rig_cycle(0)[0], START)}
    return DiagnosisRequest.model_validate(body | changes)


@pytest.fixture
def registry(store: Store) -> EquipmentRegistry:
    return EquipmentRegistry(store, (rig_equipment(),))


@pytest.fixture
def diagnostics(store: Store, registry: EquipmentRegistry, versions: VersionRouter) -> Diagnostics:
    return Diagnostics(DiagnosisParts(store, registry, versions, Metrics(), lambda: NOW))


@pytest.fixture
async def registered(store: Store) -> None:
    await store.put_equipment(rig_equipment())


async def outcomes(
    diagnostics: Diagnostics, items: list[DiagnosisRequest | Exception], limit_s: float = 600.0
) -> dict[int, Outcome]:
    found = [pair async for pairs in diagnostics.answer_many(items, limit_s) for pair in pairs]
    assert len(found) == len(items)
    return dict(found)


@pytest.mark.usefixtures("registered")
async def test_unexpected_error_of_a_batch_is_that_of_the_items_that_have_it_alone(
    diagnostics: Diagnostics, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    score, calls = versions.score, 0

    async def fail_for_the_third(windows: list[RoutedWindow], *, explain: bool) -> object:
        nonlocal calls
        calls += 1
        if any(item.window.equipment.name == "poison" for item in windows):
            raise KeyError("unexpected")
        return await score(windows, explain=explain)

    monkeypatch.setattr(versions, "score", fail_for_the_third)
    poison = {**rig_equipment().model_dump(mode="json", exclude={"equipment_id"}), "name": "poison"}
    found = await outcomes(diagnostics, [inline(), inline(), inline(equipment=poison), inline()])
    assert sorted(found) == [0, 1, 2, 3]
    assert [type(found[index]).__name__ for index in range(4)] == [
        "bytes",
        "bytes",
        "KeyError",
        "bytes",
    ]
    assert calls == 5  # together, then each alone


@pytest.mark.usefixtures("registered")
async def test_unexpected_error_of_a_group_is_its_items_and_the_stream_goes_on(
    diagnostics: Diagnostics, registry: EquipmentRegistry, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(item_groups, "GROUP_ITEMS", 1)
    look_up, calls = registry.topologies, 0

    async def fail_once(equipment_ids: list[str], *, any_age: bool = False) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("unexpected")
        return await look_up(equipment_ids, any_age=any_age)

    monkeypatch.setattr(registry, "topologies", fail_once)
    found = await outcomes(diagnostics, [inline(), inline(), inline()])
    assert sorted(type(outcome).__name__ for outcome in found.values()) == [
        "KeyError",
        "bytes",
        "bytes",
    ]


@pytest.fixture
def hangs_for(versions: VersionRouter, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Return the ids of machines whose windows are never scored."""
    score, machines = versions.score, set[str]()

    async def hang(windows: list[RoutedWindow], *, explain: bool) -> object:
        if machines & {item.window.equipment.equipment_id for item in windows}:
            await asyncio.sleep(600)
        return await score(windows, explain=explain)

    monkeypatch.setattr(versions, "score", hang)
    return machines


@pytest.mark.usefixtures("registered")
async def test_item_that_takes_too_long_has_an_error_and_the_others_their_diagnosis(
    diagnostics: Diagnostics, hangs_for: set[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(item_groups, "ITEM_S", 0.5)
    hangs_for.add("slow")
    topology = rig_equipment().model_dump(mode="json", exclude={"equipment_id"})
    # another version's micro-batch, so that the slow item delays no other
    slow = inline("slow", equipment=topology, model_version="2")
    found = await outcomes(diagnostics, [inline(), slow, inline()])
    assert [type(found[index]) for index in range(3)] == [bytes, DeadlineExceeded, bytes]
    await diagnostics.close()


@pytest.mark.usefixtures("registered")
async def test_batch_that_takes_too_long_has_an_error_for_each_unanswered_item(
    diagnostics: Diagnostics, hangs_for: set[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(item_groups, "GROUP_ITEMS", 1)
    hangs_for.add("hydraulic-rig")
    found = await outcomes(diagnostics, [inline()] * 20 + [WindowError("none")], limit_s=0.2)
    assert [type(found[index]) for index in range(20)] == [DeadlineExceeded] * 20
    assert isinstance(found[20], WindowError)
    await diagnostics.close()


@pytest.mark.usefixtures("registered")
async def test_batch_whose_reader_leaves_is_taken_from_the_queue(
    diagnostics: Diagnostics, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(item_groups, "GROUP_ITEMS", 1)
    score, scored = versions.score, 0

    async def count(windows: list[RoutedWindow], *, explain: bool) -> object:
        nonlocal scored
        scored += len(windows)
        return await score(windows, explain=explain)

    monkeypatch.setattr(versions, "score", count)
    stream = diagnostics.answer_many([inline()] * 200, 600.0)
    assert await anext(stream)
    await stream.aclose()
    batchers = diagnostics._batchers._batchers.values()
    while not all(batcher.idle for batcher in batchers):
        await asyncio.sleep(0.01)
    assert scored < 100


@pytest.mark.usefixtures("registered")
async def test_micro_batches_with_evidence_are_bounded_by_their_forward_passes(
    diagnostics: Diagnostics, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    sizes: dict[bool, list[int]] = {False: [], True: []}
    all_wait = asyncio.Event()

    async def count(windows: list[RoutedWindow], *, explain: bool) -> object:
        sizes[explain].append(len(windows))
        await all_wait.wait()
        return [WindowError("counted") for _ in windows]

    def submitted() -> int:
        waiting = [len(each._single) for each in diagnostics._batchers._batchers.values()]
        return sum(sizes[False]) + sum(sizes[True]) + sum(waiting)

    monkeypatch.setattr(versions, "score", count)
    # six batches start early; so many more wait that the next is as large as it may be
    requests = [inline(explain=explain) for explain in (False, True) for _ in range(200)]
    tasks = [asyncio.create_task(diagnostics.answer(request)) for request in requests]
    while submitted() < len(requests):
        await asyncio.sleep(0)
    all_wait.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    sensors = len(rig_equipment().sensors)
    most = 400_000 // (sensors * rig_equipment().bins * (1 + sensors))
    assert max(sizes[True]) <= most < max(sizes[False])
    assert sum(sizes[True]) == 200


@pytest.mark.usefixtures("registered")
async def test_heavy_requests_run_one_at_a_time_beside_others_and_few_wait(
    diagnostics: Diagnostics, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(windows, "HEAVY_WEIGHT", 18_000)  # an explanation has 18,360
    monkeypatch.setattr(diagnosis_batchers, "MAX_HEAVY_WAITING", 3)
    running: list[int] = []
    may_end = asyncio.Event()

    async def wait(windows: list[RoutedWindow], *, explain: bool) -> object:
        if explain:
            running.append(len(windows))
            await may_end.wait()
        return [WindowError("counted") for _ in windows]

    monkeypatch.setattr(versions, "score", wait)
    heavy = [asyncio.create_task(diagnostics.answer(inline(explain=True)))]
    while not running:
        await asyncio.sleep(0)
    (batcher,) = diagnostics._batchers._batchers.values()
    heavy += [asyncio.create_task(diagnostics.answer(inline(explain=True))) for _ in range(3)]
    while batcher.waiting_single < 3:
        await asyncio.sleep(0)
    with pytest.raises(Overloaded, match="expected at most 3 requests of large machines"):
        await diagnostics.answer(inline(explain=True))
    with pytest.raises(WindowError, match="counted"):
        await diagnostics.answer(inline())
    assert running == [1]
    may_end.set()
    found = await asyncio.gather(*heavy, return_exceptions=True)
    assert [str(each) for each in found] == ["counted"] * 4


@pytest.mark.usefixtures("registered")
@pytest.mark.parametrize("single", ["none", "answered", "waits"])
async def test_large_batch_has_fewer_groups_running_beside_single_requests(
    diagnostics: Diagnostics,
    registry: EquipmentRegistry,
    monkeypatch: pytest.MonkeyPatch,
    single: str,
):
    monkeypatch.setattr(item_groups, "GROUP_ITEMS", 1)
    monkeypatch.setattr(module, "SHARED_S", 600.0 if single == "answered" else 0.0)
    look_up, running, most, most_at_first = registry.topologies, 0, 0, 0

    async def counting(equipment_ids: list[str], *, any_age: bool = False) -> object:
        nonlocal running, most, most_at_first
        if not any_age:  # each group looks up its machines of stored readings once
            return await look_up(equipment_ids)
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.05)
        running -= 1
        most_at_first = most_at_first or most
        return await look_up(equipment_ids, any_age=True)

    async def waiting(_: str, *, any_age: bool) -> None:
        await asyncio.Event().wait()

    monkeypatch.setattr(registry, "topologies", counting)
    if single == "waits":
        monkeypatch.setattr(registry, "topology", waiting)
    single_task = asyncio.create_task(diagnostics.answer(inline())) if single != "none" else None
    if single_task is not None:
        await asyncio.wait([single_task], timeout=None if single == "answered" else 0.01)
    assert len(await outcomes(diagnostics, [inline()] * 20)) == 20
    assert most_at_first == module.MAX_GROUPS_SHARED
    assert most == (module.MAX_GROUPS if single == "none" else module.MAX_GROUPS_SHARED)
    if single_task is not None:
        single_task.cancel()


@pytest.mark.usefixtures("registered")
async def test_diagnosis_that_can_not_be_made_is_the_error_of_its_item(
    diagnostics: Diagnostics, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> Diagnosis:
        raise KeyError("unexpected")

    monkeypatch.setattr(batch, "build_diagnosis", broken)
    with pytest.raises(KeyError, match="unexpected"):
        await diagnostics.answer(inline())
    assert isinstance((await outcomes(diagnostics, [inline()]))[0], KeyError)


@pytest.mark.parametrize("explain", [False, True])
@pytest.mark.parametrize("broken", [False, True])
async def test_answer_of_the_store_and_its_stored_text_are_what_the_schema_makes(
    diagnostics: Diagnostics,
    versions: VersionRouter,
    local: LocalClient,
    store: Store,
    explain: bool,
    broken: bool,
):
    rig = rig_equipment()
    await store.put_equipment(rig)
    start_us = round(NOW.timestamp() * 1e6) - 60_000_000
    for name in rig.sensor_ids[2:]:  # two are missing
        await store.ingest(
            rig.equipment_id,
            [name] * 60,
            start_us + np.arange(60) * 1_000_000,
            rig_cycle(0)[0][name],
        )
    versions.set_traffic(split(99, 1))
    local.broken = {"model-1"} if broken else set()
    for request in (
        DiagnosisRequest(equipment_id=rig.equipment_id, explain=explain),
        inline(explain=explain),
    ):
        body = await diagnostics.answer(request)
        made = Diagnosis.from_json(body)
        assert made.to_json() == body
        assert made.fallback == broken
        assert (made.input.source == "inline") == (request.readings is not None)
        assert any(item.evidence for item in made.components) == explain
        assert await diagnostics.stored_diagnosis(made.diagnosis_id) == body
        await diagnostics._write_queue.flush()
        assert await diagnostics.stored_diagnosis(made.diagnosis_id) == body


@pytest.mark.usefixtures("registered")
async def test_machines_of_many_items_are_looked_up_in_one_statement(
    diagnostics: Diagnostics, store: Store, monkeypatch: pytest.MonkeyPatch
):
    lookups: list[list[str]] = []
    look_up = store.get_equipment_of

    async def noting(equipment_ids: list[str], **options: bool) -> object:
        lookups.append(list(equipment_ids))
        return await look_up(equipment_ids, **options)

    monkeypatch.setattr(store, "get_equipment_of", noting)
    items = [inline() for _ in range(8)] + [inline(f"nobody-{number}") for number in range(8)]
    found = await outcomes(diagnostics, items)
    assert len(lookups) == 1
    assert len(lookups[0]) == 9
    assert isinstance(found[0], bytes)
    assert isinstance(found[9], UnknownEquipment)


async def test_declared_machine_is_diagnosed_with_the_database_away_from_the_start(
    diagnostics: Diagnostics, store: Store, monkeypatch: pytest.MonkeyPatch
):
    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("expected the database, found nothing")

    monkeypatch.setattr(store, "get_equipment_of", away)
    assert b'"equipment_id":"hydraulic-rig"' in await diagnostics.answer(inline())


@pytest.mark.usefixtures("registered")
async def test_machine_without_readings_says_how_to_send_some(
    diagnostics: Diagnostics, store: Store
):
    request = DiagnosisRequest(equipment_id="hydraulic-rig")
    with pytest.raises(
        WindowError, match=r"send the 60 s of a window with POST /v1/readings"
    ) as no:
        await diagnostics.answer(request)
    message = no.value.message
    assert "(PS1, FS1, SE, EPS1" in message
    example = message[message.index("[{") : message.index("}]") + 2]
    (reading,) = orjson.loads(example)
    found = await store.ingest(
        reading["equipment_id"],
        [reading["sensor_id"]],
        np.array([datetime.fromisoformat(reading["time"]).timestamp() * 1e6], np.int64),
        np.array([reading["value"]]),
    )
    assert found.accepted == 1
    assert Diagnosis.from_json(await diagnostics.answer(request)).input.coverage > 0


@pytest.mark.usefixtures("registered")
async def test_evidence_of_a_large_machine_is_refused(
    diagnostics: Diagnostics, monkeypatch: pytest.MonkeyPatch
):
    cells = cost.diagnosis_cells(rig_equipment(), explain=True)
    monkeypatch.setattr(cost, "MAX_EXPLAINED_CELLS", cells - 1)
    with pytest.raises(LimitExceeded, match=f"found {cells}"):
        await diagnostics.answer(inline(explain=True))


class Known:
    """Records the previous states that each diagnosis was made with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.previous: list[dict[str, str]] = []
        original = batch.build_diagnosis

        def noting(*arguments: object) -> Diagnosis:
            self.previous.append(dict(arguments[6]))  # type: ignore[call-overload]
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(batch, "build_diagnosis", noting)


async def test_hysteresis_follows_the_newest_windows_that_traffic_chose(
    diagnostics: Diagnostics, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    known = Known(monkeypatch)
    rig = rig_equipment()
    values_SN = np.stack([rig_cycle(0)[0][name] for name in rig.sensor_ids]).astype(np.float32)
    window = WindowInput(rig, values_SN)
    (scored,) = await versions.score([RoutedWindow(window, versions.releases_for(machine_of(rig)))])
    assert isinstance(scored, Scored)
    base = round(NOW.timestamp() * 1e6) // rig.grid_us

    def ask(minute: int, version: str | None = None) -> dict[str, str]:
        request = DiagnosisRequest(equipment_id="hydraulic-rig", model_version=version)
        bins = Bins(base + minute * 60_000_000 // rig.grid_us, 60_000_000 // rig.grid_us)
        diagnostics._batch._conclude(
            windows.Resolved(request, rig, bins, None), window, scored, NOW, {}, 0.0
        )
        return known.previous[-1]

    assert ask(5) == {}
    before = ask(6)
    assert before
    assert ask(6) == before  # the same window again gets the same states
    assert ask(3) == {}  # an older one neither uses the newer states nor replaces them
    assert ask(8, version="2") == {}
    snapshot = diagnostics._batch._states[None, "hydraulic-rig"]
    assert snapshot.window_end == NOW + timedelta(minutes=7)
    assert ask(7) == dict(snapshot.states)


async def test_topology_that_another_replica_changed_counts_at_once(
    diagnostics: Diagnostics, registry: EquipmentRegistry, store: Store
):
    rig = rig_equipment()
    await store.put_equipment(rig)
    start_us = round(NOW.timestamp() * 1e6) - 60_000_000
    values = {name: rig_cycle(0)[0][name] for name in rig.sensor_ids}
    for name in rig.sensor_ids:
        await store.ingest(
            rig.equipment_id, [name] * 60, start_us + np.arange(60) * 1_000_000, values[name]
        )
    request = DiagnosisRequest(equipment_id=rig.equipment_id)
    first = Diagnosis.from_json(await diagnostics.answer(request))
    assert first.topology_revision == rig.revision
    renamed = Equipment.model_validate(rig.model_dump() | {"name": "renamed"})
    await store.put_equipment(renamed)
    diagnostics._cache.clear()  # an answer may be as old as a bin
    changed = Diagnosis.from_json(await diagnostics.answer(request))
    assert changed.topology_revision == renamed.revision != rig.revision


async def test_equal_requests_share_one_diagnosis_until_readings_arrive(
    diagnostics: Diagnostics, registry: EquipmentRegistry, store: Store, tmp_path: Path
):
    rig = rig_equipment()
    await store.put_equipment(rig)
    start_us = round(NOW.timestamp() * 1e6) - 60_000_000
    for name in rig.sensor_ids[1:]:
        await store.ingest(
            rig.equipment_id,
            [name] * 60,
            start_us + np.arange(60) * 1_000_000,
            rig_cycle(0)[0][name],
        )
    request = DiagnosisRequest(equipment_id=rig.equipment_id)
    both = await asyncio.gather(diagnostics.answer(request), diagnostics.answer(request))
    assert both[0] == both[1] == await diagnostics.answer(request)
    line = {
        "equipment_id": rig.equipment_id,
        "sensor_id": rig.sensor_ids[0],
        "time": "2026-01-01T23:59:30Z",
        "value": 1.0,
    }
    readings = ReadingService(store, registry, Metrics(), Quotas(store), tmp_path, lambda: NOW)
    answer = await readings.ingest(upload(orjson.dumps([line])), ReadingOptions())
    assert answer.accepted == 1
    after = Diagnosis.from_json(await diagnostics.answer(request))
    assert after.diagnosis_id != Diagnosis.from_json(both[0]).diagnosis_id
    assert after.input.missing_sensors == ()


async def test_batch_with_readings_sees_a_topology_that_another_replica_changed(
    diagnostics: Diagnostics, registry: EquipmentRegistry, store: Store
):
    rig = rig_equipment()
    await store.put_equipment(rig)
    registry._remember(rig.equipment_id, rig, for_s=0.0)
    renamed = Equipment.model_validate(rig.model_dump() | {"name": "renamed"})
    await store.put_equipment(renamed)
    body = (await outcomes(diagnostics, [inline()]))[0]
    assert isinstance(body, bytes)
    assert Diagnosis.from_json(body).topology_revision == renamed.revision
