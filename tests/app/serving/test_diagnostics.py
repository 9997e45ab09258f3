"""Requests to diagnoses: what the API's tests do not reach."""

import asyncio
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pydantic import ValidationError

from app.demo.equipment import rig_equipment
from app.errors import LimitExceeded, StoreUnavailable, UnknownEquipment
from app.schemas.diagnosis import Diagnosis, DiagnosisRequest
from app.schemas.equipment import Equipment
from app.serving import diagnostics as module
from app.serving.diagnostics import Diagnostics, _Resolved
from app.serving.machines import Machines
from app.serving.metrics import Metrics
from app.serving.released import ReleasedVersions
from app.store.store import Store
from tests.rig import inline_readings, rig_cycle

NOW = datetime(2026, 1, 2, tzinfo=UTC)
START = "2026-01-01T00:00:00Z"


def inline(equipment_id: str = "hydraulic-rig", **changes: object) -> DiagnosisRequest:
    body = {"equipment_id": equipment_id, "readings": inline_readings(rig_cycle(0)[0], START)}
    return DiagnosisRequest.model_validate(body | changes)


@pytest.fixture
def machines(store: Store) -> Machines:
    return Machines(store, Metrics(), lambda: NOW, (rig_equipment(),))


@pytest.fixture
def diagnostics(store: Store, machines: Machines, versions: ReleasedVersions) -> Diagnostics:
    return Diagnostics(store, machines, versions, Metrics(), lambda: NOW)


@pytest.fixture
async def registered(store: Store) -> None:
    await store.put_equipment(rig_equipment())


@pytest.mark.usefixtures("registered")
async def test_unexpected_error_of_a_group_is_its_items_and_the_stream_goes_on(
    diagnostics: Diagnostics, versions: ReleasedVersions, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(module, "WINDOWS_AT_ONCE", 1)
    score, calls = versions.score, 0

    async def fail_once(*arguments: object) -> object:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise KeyError("of our own")
        return await score(*arguments)

    monkeypatch.setattr(versions, "score", fail_once)
    outcomes = dict([pair async for pair in diagnostics.diagnose_many([inline(), inline(), inline()])])
    assert sorted(outcomes) == [0, 1, 2]
    assert sorted(type(outcome).__name__ for outcome in outcomes.values()) == ["Diagnosis", "Diagnosis", "KeyError"]


@pytest.mark.usefixtures("registered")
async def test_diagnosis_that_breaks_its_own_schema_is_not_told_as_the_callers_mistake(
    diagnostics: Diagnostics, monkeypatch: pytest.MonkeyPatch
):
    def broken(*_: object) -> Diagnosis:
        return Diagnosis.model_validate({})

    monkeypatch.setattr(module, "diagnose", broken)
    with pytest.raises(RuntimeError, match="our own Diagnosis"):
        await diagnostics.diagnose(inline())
    ((_, outcome),) = [pair async for pair in diagnostics.diagnose_many([inline()])]
    assert isinstance(outcome, RuntimeError)
    assert not isinstance(outcome, ValidationError)


async def test_machine_of_many_items_is_looked_up_once_and_all_at_the_same_time(
    diagnostics: Diagnostics, machines: Machines, monkeypatch: pytest.MonkeyPatch
):
    asked: list[str] = []

    async def topology(equipment_id: str) -> Equipment:
        asked.append(equipment_id)
        await asyncio.sleep(0.2)
        if equipment_id == "hydraulic-rig":
            return rig_equipment()
        raise UnknownEquipment(equipment_id)

    monkeypatch.setattr(machines, "topology", topology)
    items = [inline() for _ in range(8)] + [inline(f"nobody-{number}") for number in range(8)]
    async with asyncio.timeout(1.5):  # one after the other they take 1.8 s
        found = await diagnostics._topologies(items)
    assert len(asked) == 9
    assert isinstance(found["nobody-1"], UnknownEquipment)


async def test_declared_machine_is_diagnosed_with_the_database_away_from_the_start(
    diagnostics: Diagnostics, store: Store, monkeypatch: pytest.MonkeyPatch
):
    async def away(_: str) -> None:
        raise StoreUnavailable("expected the database, found nothing")

    monkeypatch.setattr(store, "get_equipment", away)
    assert (await diagnostics.diagnose(inline())).equipment_id == "hydraulic-rig"


@pytest.mark.usefixtures("registered")
async def test_evidence_of_a_large_machine_is_refused(diagnostics: Diagnostics, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(module, "MAX_EXPLAINED_SENSORS", 16)
    with pytest.raises(LimitExceeded, match="found 17"):
        await diagnostics.diagnose(inline(explain=True))


class Known:
    """Notes the states that each diagnosis was given as those before it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.previous: list[dict[str, str]] = []
        original = module.diagnose

        def noting(*arguments: object) -> Diagnosis:
            self.previous.append(dict(arguments[-1]))  # type: ignore[call-overload]
            return original(*arguments)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "diagnose", noting)


async def test_hysteresis_follows_the_newest_windows_that_traffic_chose(
    diagnostics: Diagnostics, versions: ReleasedVersions, monkeypatch: pytest.MonkeyPatch
):
    known = Known(monkeypatch)
    rig = rig_equipment()
    values_SN = np.stack([rig_cycle(0)[0][name] for name in rig.sensor_ids]).astype(np.float32)
    (scored,) = await versions.score([module.WindowToScore(module.WindowInput(rig, values_SN), None, explain=False)])
    assert isinstance(scored, module.Scored)
    base = round(NOW.timestamp() * 1e6) // rig.grid_us

    def ask(minute: int, version: str | None = None) -> dict[str, str]:
        request = DiagnosisRequest(equipment_id="hydraulic-rig", model_version=version)
        bins = module.Bins(base + minute * 60_000_000 // rig.grid_us, 60_000_000 // rig.grid_us)
        diagnostics._conclude(_Resolved(request, rig, bins, None), scored, None, NOW)
        return known.previous[-1]

    assert ask(5) == {}
    before = ask(6)
    assert before
    assert ask(6) == before  # the same window again is told the same way
    assert ask(3) == {}  # an older one neither uses the newer states nor replaces them
    assert ask(8, version="2") == {}
    stood = diagnostics._states["hydraulic-rig"]
    assert stood.window_end == NOW + timedelta(minutes=7)
    assert ask(7) == dict(stood.states)
