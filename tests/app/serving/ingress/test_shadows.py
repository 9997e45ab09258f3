"""Shadows score copies of requests; no request waits for a shadow or fails with it."""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from datetime import UTC, datetime

import asyncpg
import numpy as np
import pytest

from app.demo.rig.equipment import rig_equipment
from app.diagnosis.pipeline import ScoreResult
from app.diagnosis.states import differing_components
from app.schemas.diagnosis import Diagnosis, DiagnosisRequest
from app.serving.ingress import shadows as module
from app.serving.ingress.batch import DiagnosisParts
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.shadows import ShadowLimits
from app.serving.ingress.traffic import Traffic
from app.serving.ingress.version_router import VersionRouter
from app.serving.observability.metrics import Metrics
from app.serving.rpc.messages import ScoreCall
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, split
from tests.rig import inline_readings, rig_cycle

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = "2026-01-01T00:00:00Z"


def inline(row: int = 0, **changes: object) -> DiagnosisRequest:
    body = {"equipment_id": "hydraulic-rig", "readings": inline_readings(rig_cycle(row)[0], START)}
    return DiagnosisRequest.model_validate(body | changes)


def shadowed(first: float, *shadows: str) -> Traffic:
    return Traffic(releases=split(first, 100 - first).releases, shadows=shadows)


@pytest.fixture
async def diagnostics(
    store: Store, versions: VersionRouter, metrics: Metrics
) -> AsyncIterator[Diagnostics]:
    await store.put_equipment(rig_equipment())
    registry = EquipmentRegistry(store, (rig_equipment(),))
    made = Diagnostics(DiagnosisParts(store, registry, versions, metrics, lambda: NOW))
    made.start()
    yield made
    await made.close()


async def ask(diagnostics: Diagnostics, request: DiagnosisRequest) -> Diagnosis:
    return Diagnosis.from_json(await diagnostics.answer(request))


def copies(metrics: Metrics) -> dict[tuple[str, str, str], float]:
    """Return how many copies there were by (shadow, returned version, outcome)."""
    (family,) = metrics.shadow_copies.collect()
    return {
        (sample.labels["version"], sample.labels["against"], sample.labels["outcome"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_total")
    }


async def until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def stored(dsn: str) -> list[asyncpg.Record]:
    session = await asyncpg.connect(dsn, server_settings={"hydraulic.tenant": "*"})
    found = await session.fetch("select * from shadow_answers order by created_at, version")
    await session.close()
    return list(found)


async def test_shadow_diagnoses_a_copy_as_it_would_for_a_caller(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics, database_dsn: str
):
    forced = await ask(diagnostics, inline(model_version="2"))
    versions.set_traffic(shadowed(100, "2"))
    calls = metrics.version_calls.labels("2", "answered")._value.get()

    returned = await ask(diagnostics, inline())
    await until(lambda: bool(copies(metrics)))
    await diagnostics.close()

    assert returned.model_version == "1"
    (row,) = await stored(database_dsn)
    assert (row["diagnosis_id"], row["created_at"]) == (returned.diagnosis_id, returned.created_at)
    assert (row["version"], row["against"]) == ("2", "1")
    assert (row["window_start"], row["window_end"]) == (returned.window.start, returned.window.end)
    assert row["latency_s"] > 0
    assert row["against_latency_s"] > 0
    shadow = Diagnosis.from_json(row["body"])
    assert shadow == replace(forced, diagnosis_id=returned.diagnosis_id)
    outcome = "disagreed" if differing_components(returned, shadow) else "agreed"
    assert copies(metrics) == {("2", "1", outcome): 1}
    # the figures by which guards judge a version are of its callers alone
    assert metrics.version_calls.labels("2", "answered")._value.get() == calls


async def test_two_that_shadow_each_other_give_every_answer_its_pair(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics, database_dsn: str
):
    rig = rig_equipment().model_dump(mode="json", exclude={"equipment_id"})
    names = [f"machine-{number}" for number in range(12)]
    versions.set_traffic(shadowed(50, "1", "2"))

    returned = [await ask(diagnostics, inline(equipment_id=name, equipment=rig)) for name in names]
    await until(lambda: sum(copies(metrics).values()) == len(names))
    await diagnostics.close()

    assert {item.model_version for item in returned} == {"1", "2"}
    pairs = {
        row["diagnosis_id"]: (row["against"], row["version"]) for row in await stored(database_dsn)
    }
    other = {"1": "2", "2": "1"}
    assert pairs == {
        item.diagnosis_id: (item.model_version, other[item.model_version]) for item in returned
    }


async def test_stored_window_is_copied_once_and_not_when_its_answer_is_given_again(
    diagnostics: Diagnostics,
    versions: VersionRouter,
    store: Store,
    metrics: Metrics,
    database_dsn: str,
):
    rig = rig_equipment()
    start_us = round(NOW.timestamp() * 1e6) - 60_000_000
    for name in rig.sensor_ids:
        await store.ingest(
            rig.equipment_id,
            [name] * 60,
            start_us + np.arange(60) * 1_000_000,
            rig_cycle(0)[0][name],
        )
    versions.set_traffic(shadowed(100, "1", "2"))
    request = DiagnosisRequest(equipment_id=rig.equipment_id)

    first = await ask(diagnostics, request)
    assert await ask(diagnostics, request) == first
    await until(lambda: bool(copies(metrics)))
    await diagnostics.close()

    assert [row["diagnosis_id"] for row in await stored(database_dsn)] == [first.diagnosis_id]
    assert sum(copies(metrics).values()) == 1


async def test_forced_and_fallback_diagnoses_are_not_copied(
    diagnostics: Diagnostics, versions: VersionRouter, local: LocalClient, metrics: Metrics
):
    versions.set_traffic(shadowed(99, "1", "2"))
    await ask(diagnostics, inline(model_version="2"))
    local.broken.add("model-1")
    assert (await ask(diagnostics, inline())).fallback
    local.broken.clear()
    await ask(diagnostics, inline())
    await until(lambda: bool(copies(metrics)))
    assert [(key[:2], count) for key, count in copies(metrics).items()] == [(("2", "1"), 1)]


async def test_shadow_that_raises_fails_no_request_and_opens_no_circuit_of_callers(
    diagnostics: Diagnostics, versions: VersionRouter, local: LocalClient, metrics: Metrics
):
    versions.set_traffic(shadowed(100, "2"))
    local.broken.add("model-2")
    for row in range(6):
        assert (await ask(diagnostics, inline(row))).model_version == "1"
        await until(lambda: sum(copies(metrics).values()) == row + 1)  # noqa: B023
    # after three in a row it is left alone for a while
    assert copies(metrics) == {("2", "1", "failed"): 3, ("2", "1", "dropped"): 3}
    assert not versions.circuit_is_open("2")
    assert metrics.failed_versions.labels("2")._value.get() == 0
    local.broken.clear()
    assert (await ask(diagnostics, inline(model_version="2"))).model_version == "2"


async def test_shadow_that_hangs_delays_no_request_and_its_queue_is_bounded(
    diagnostics: Diagnostics,
    versions: VersionRouter,
    local: LocalClient,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
):
    goes_on, calls = asyncio.Event(), 0
    score = local.servers["model-2"].score

    async def hang(call: ScoreCall) -> ScoreResult:
        nonlocal calls
        calls += 1
        await goes_on.wait()
        return await score(call)

    monkeypatch.setattr(local.servers["model-2"], "score", hang)
    diagnostics._shadows._limits = ShadowLimits(copies=4, batch=4)
    versions.set_traffic(shadowed(100, "2"))

    for row in range(10):
        assert (await ask(diagnostics, inline(row))).model_version == "1"
        await until(lambda: calls == 1)  # only the first copy is being scored
    assert copies(metrics) == {("2", "1", "dropped"): 5}
    goes_on.set()
    await until(lambda: sum(copies(metrics).values()) == 10)
    assert calls == 2  # the four that waited went together


async def test_callers_that_wait_shed_the_copies(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics
):
    versions.set_traffic(shadowed(100, "2"))
    crowded = True
    diagnostics._shadows._crowded = lambda: crowded
    await ask(diagnostics, inline())
    assert copies(metrics) == {("2", "1", "dropped"): 1}
    crowded = False
    await ask(diagnostics, inline())
    await until(lambda: sum(copies(metrics).values()) == 2)
    assert copies(metrics)[("2", "1", "dropped")] == 1


async def test_copies_of_a_shadow_that_was_ended_are_dropped(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics
):
    versions.set_traffic(shadowed(100, "2"))
    await ask(diagnostics, inline())
    versions.set_traffic(shadowed(100))
    await until(lambda: bool(copies(metrics)))
    assert copies(metrics) == {("2", "1", "dropped"): 1}


async def test_copy_larger_than_all_that_may_wait_goes_alone(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics
):
    diagnostics._shadows._limits = ShadowLimits(readings=1)
    versions.set_traffic(shadowed(100, "2"))
    await ask(diagnostics, inline())
    await until(lambda: bool(copies(metrics)))
    assert ("2", "1", "dropped") not in copies(metrics)


async def test_unexpected_error_in_a_shadows_diagnosis_is_a_failed_copy(
    diagnostics: Diagnostics,
    versions: VersionRouter,
    metrics: Metrics,
    monkeypatch: pytest.MonkeyPatch,
):
    def broken(*_: object) -> Diagnosis:
        raise KeyError("unexpected")

    monkeypatch.setattr(module, "build_diagnosis", broken)
    versions.set_traffic(shadowed(100, "2"))
    assert (await ask(diagnostics, inline())).model_version == "1"
    await until(lambda: bool(copies(metrics)))
    assert copies(metrics) == {("2", "1", "failed"): 1}


async def test_close_cancels_copies_being_scored(
    diagnostics: Diagnostics,
    versions: VersionRouter,
    local: LocalClient,
    monkeypatch: pytest.MonkeyPatch,
):
    calls = asyncio.Event()

    async def hang(_: ScoreCall) -> ScoreResult:
        calls.set()
        await asyncio.sleep(60)
        raise AssertionError

    monkeypatch.setattr(local.servers["model-2"], "score", hang)
    versions.set_traffic(shadowed(100, "2"))
    await ask(diagnostics, inline())
    await calls.wait()
    async with asyncio.timeout(5.0):
        await diagnostics.close()


async def test_shadow_of_another_design_gets_no_copies(
    diagnostics: Diagnostics, versions: VersionRouter, metrics: Metrics
):
    first, second = split(100, 0).releases
    press = second.model_copy(update={"designs": ("press",)})
    versions.set_traffic(Traffic(releases=(first, press), shadows=("2",)))
    await ask(diagnostics, inline())
    assert diagnostics._shadows._queues == {}
    rig = second.model_copy(update={"designs": ("hydraulic-rig",)})
    versions.set_traffic(Traffic(releases=(first, rig), shadows=("2",)))
    await ask(diagnostics, inline(1))
    await until(lambda: bool(copies(metrics)))
