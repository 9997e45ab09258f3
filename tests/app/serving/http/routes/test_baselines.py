"""Baselines of machines over HTTP, and diagnoses that use them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import numpy as np
import pytest

from app.features.baseline import Baseline
from app.features.references import measure_baseline
from app.schemas.diagnosis import Diagnosis, DiagnosisRequest
from app.serving.ingress import baselines as module
from app.serving.ingress.baselines import BaselineService
from app.serving.ingress.batch import DiagnosisParts
from app.serving.ingress.deployment import Service, utc_now
from app.serving.ingress.diagnoses import Diagnostics
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.version_router import VersionRouter
from app.serving.model_server.deployment import ModelServer
from app.serving.observability.metrics import Metrics
from app.store.labels import ConditionLabel
from app.store.store import Store
from tests.app.serving.conftest import LocalClient
from tests.machines import make_machine
from tests.network import rig_spec, small_checkpoint

START = datetime(2025, 3, 1, tzinfo=UTC)
WINDOWS = 30
END = START + timedelta(minutes=WINDOWS)
PATH = "/v1/equipment/press-1/baseline"
SENSORS = ("PS1", "PS2", "TS1")


@pytest.fixture(scope="session")
def with_baselines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint of the rig that was trained with the baselines of machines."""
    return small_checkpoint(tmp_path_factory.mktemp("machine"), "1", spec=rig_spec(24.0))


@pytest.fixture
def local(with_baselines: Path) -> LocalClient:
    return LocalClient({"model-1": ModelServer(with_baselines, "cpu")})


def interval(start: datetime = START, end: datetime = END) -> dict[str, str]:
    return {"start": start.isoformat(), "end": end.isoformat()}


def readings(seconds: int, offset: float = 0.0, seed: int = 0) -> np.ndarray:
    """Return three noisy pressures, one value a second, [S, N]."""
    generator = np.random.default_rng(seed)
    level_S1 = np.array([100.0, 120.0, 80.0])[:, None] + offset
    wave_N = 5.0 * np.sin(np.arange(seconds) / 7.0)
    return level_S1 + wave_N + generator.normal(size=(3, seconds))


async def fill(
    store: Store, name: str = "press-1", offset: float = 0.0, start: datetime = START
) -> None:
    """Register a press and store its readings: a window more than the baseline has."""
    await store.put_equipment(make_machine(name))
    values_SN = readings(60 * (WINDOWS + 1), offset)
    times_us = (int(start.timestamp()) + np.arange(values_SN.shape[1])) * 1_000_000
    for sensor_id, values_N in zip(SENSORS, values_SN, strict=True):
        await store.ingest(name, [sensor_id] * len(values_N), times_us, values_N)


async def diagnosed(client: httpx.AsyncClient, name: str = "press-1") -> httpx.Response:
    at = (END + timedelta(minutes=1)).isoformat()
    return await client.post("/v1/diagnoses", json={"equipment_id": name, "at": at})


def kind_of(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["type"].rsplit(":", 1)[-1]


async def test_machine_of_an_untrained_design_is_diagnosed_with_its_baseline_alone(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    refused = await diagnosed(client)
    assert kind_of(refused) == (422, "untrained-design")
    assert "PUT /v1/equipment/{equipment_id}/baseline" in refused.json()["detail"]

    recorded = await client.put(PATH, json=interval())
    assert recorded.status_code == 200
    body = recorded.json()
    assert (body["windows"], body["missing_sensors"], body["stuck_sensors"]) == (WINDOWS, [], [])
    assert (body["recorded_by"], body["deleted_at"]) == ("test", None)
    assert recorded.headers["etag"] == f'"{body["baseline_id"]}"'
    assert (await client.get(PATH)).json() == body

    answer = (await diagnosed(client)).json()
    assert answer["design_trained"] is False
    used = answer["baseline"]
    assert used["baseline_id"] == body["baseline_id"]
    assert datetime.fromisoformat(used["start"]) == START
    assert datetime.fromisoformat(used["end"]) == END
    (pump,) = answer["components"]
    assert pump["basis"] == "labels"
    assert 0.0 <= pump["health"] <= 1.0
    assert (pump["condition"], pump["distance"]) == (None, None)
    stored = await client.get(f"/v1/diagnoses/{answer['diagnosis_id']}")
    assert stored.json()["baseline"] == used

    ended = await client.delete(PATH)
    assert (ended.status_code, ended.json()["baseline_id"]) == (200, body["baseline_id"])
    assert ended.json()["deleted_at"] is not None
    assert kind_of(await diagnosed(client)) == (422, "untrained-design")
    assert kind_of(await client.get(PATH)) == (404, "unknown-baseline")
    assert kind_of(await client.delete(PATH)) == (404, "unknown-baseline")
    earlier = await client.get(PATH, params={"baseline_id": body["baseline_id"]})
    assert earlier.json()["deleted_at"] is not None


async def test_machines_with_offsets_get_the_same_answer_by_their_own_baselines(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    await fill(store, "press-2", offset=40.0)
    for name in ("press-1", "press-2"):
        assert (
            await client.put(f"/v1/equipment/{name}/baseline", json=interval())
        ).status_code == 200
    first, second = [(await diagnosed(client, name)).json() for name in ("press-1", "press-2")]
    assert abs(first["health"] - second["health"]) < 1e-3
    assert first["baseline"]["baseline_id"] != second["baseline"]["baseline_id"]
    # both in one batch, with a machine that has no baseline
    await fill(store, "press-3")
    at = (END + timedelta(minutes=1)).isoformat()
    items = [{"equipment_id": f"press-{number}", "at": at} for number in (1, 2, 3)]
    lines = (await client.post("/v1/diagnoses/batch", json={"items": items})).text.splitlines()
    assert "untrained-design" in "".join(lines)
    assert sum(first["baseline"]["baseline_id"] in line for line in lines) == 1


async def test_inline_readings_are_compared_with_the_baseline_too(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    await client.put(PATH, json=interval())
    values = dict(zip(SENSORS, readings(60, seed=5).tolist(), strict=True))
    inline = {"start": START.isoformat(), "step_s": 1.0, "values": values}
    request = {"equipment_id": "press-1", "readings": inline}
    answer = await client.post("/v1/diagnoses", json=request)
    assert (answer.status_code, answer.json()["baseline"] is not None) == (200, True)
    # a topology of the request is another machine
    topology = make_machine().model_dump(mode="json")
    other = await client.post("/v1/diagnoses", json=request | {"equipment": topology})
    assert kind_of(other) == (422, "untrained-design")


async def test_baseline_has_regressions_measured_part_by_part_as_at_once(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
):
    machine = make_machine().model_copy(update={"steps": 4})
    await fill(store)
    await store.put_equipment(machine)
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 3 * 60 * 7)
    recorded = (await client.put(PATH, json=interval())).json()
    found = (await store.baselines([recorded["baseline_id"]]))[recorded["baseline_id"]]
    baseline = Baseline.model_validate_json(found.moments)
    values_SN = readings(60 * (WINDOWS + 1))[:, : 60 * WINDOWS].astype(np.float32)
    values_WSN = values_SN.reshape(3, WINDOWS, 60).swapaxes(0, 1)
    whole = measure_baseline(lambda: [values_WSN], machine)
    assert whole is not None
    assert baseline.regressions.keys() == whole.regressions.keys() == set(SENSORS)
    for name, each in baseline.regressions.items():
        np.testing.assert_allclose(each.weights, whole.regressions[name].weights, atol=1e-4)
    places = [baseline.statistics.index(name) for name in ("residual", "residual_spread")]
    residual, spread = (baseline.sensors["PS1"].mean[0][place] for place in places)
    assert abs(residual) < 0.01
    assert spread == pytest.approx(1.03, abs=0.1)  # its noise of 1, and some of six readings


async def test_repeated_baseline_is_the_same_and_another_replaces_it(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    first = (await client.put(PATH, json=interval())).json()
    assert (await client.put(PATH, json=interval())).json() == first
    shorter = interval(end=END - timedelta(minutes=2))
    second = (await client.put(PATH, json=shorter)).json()
    assert second["baseline_id"] != first["baseline_id"]
    assert (await client.get(PATH)).json() == second
    kept = await client.get(PATH, params={"baseline_id": first["baseline_id"]})
    assert kept.json()["deleted_at"] is not None
    # the first one is in force again
    third = (await client.put(PATH, json=interval())).json()
    assert (third["baseline_id"], third["deleted_at"]) == (first["baseline_id"], None)


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (interval(END, START), 422, "start before end"),
        (interval(END, END + timedelta(days=80_000)), 422, "from 1970 to 2200"),
        ({"start": "2025-03-01T00:00:00", "end": END.isoformat()}, 422, "zone"),
        ({"start": START.isoformat()}, 422, "end"),
        (
            interval(end=START + timedelta(minutes=23)),
            422,
            "at least 24 windows of 60 s, found one of 23",
        ),
        (interval(end=START + timedelta(days=100)), 422, "at most 77 days"),
        (interval(START + timedelta(days=5), END + timedelta(days=5)), 422, "found 0 of 30"),
    ],
)
async def test_interval_that_can_not_be_used_says_why(
    client: httpx.AsyncClient, store: Store, body: dict[str, str], status: int, message: str
):
    await fill(store)
    answer = await client.put(PATH, json=body)
    assert answer.status_code == status
    assert message in answer.text


async def test_interval_in_the_future_is_refused(client: httpx.AsyncClient, store: Store):
    await fill(store)
    now = datetime.now(UTC)
    answer = await client.put(
        PATH, json=interval(now - timedelta(hours=1), now + timedelta(hours=1))
    )
    assert (answer.status_code, answer.json()["field"]) == (422, "end")
    assert "expected an interval that ends by now" in answer.json()["detail"]


async def test_labels_of_wear_contradict_a_healthy_interval(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    middle_us = (int(START.timestamp()) + 600) * 1_000_000
    label = ConditionLabel("pump", middle_us, middle_us + 60_000_000, health=0.4)
    await store.put_labels("press-1", [label])
    answer = await client.put(PATH, json=interval())
    assert kind_of(answer) == (409, "conflict")
    assert "'pump' with health 0.4 from 2025-03-01T00:10:00+00:00" in answer.json()["detail"]
    later = await client.put(PATH, json=interval(START - timedelta(days=1), START))
    assert later.status_code == 422  # no label, and no readings


async def test_silent_and_stuck_sensors_are_named(client: httpx.AsyncClient, store: Store):
    await store.put_equipment(make_machine())
    values_SN = readings(60 * WINDOWS)
    values_SN[1, 300:] = 111.0
    times_us = (int(START.timestamp()) + np.arange(values_SN.shape[1])) * 1_000_000
    for sensor, count in (("PS1", None), ("PS2", None), ("TS1", 60 * 23)):
        values_N = values_SN[SENSORS.index(sensor)][:count]
        await store.ingest("press-1", [sensor] * len(values_N), times_us[:count], values_N)
    body = (await client.put(PATH, json=interval())).json()
    assert (body["missing_sensors"], body["stuck_sensors"]) == (["TS1"], ["PS2"])


async def test_windows_with_a_gap_and_values_out_of_range_do_not_count(
    client: httpx.AsyncClient, store: Store
):
    await store.put_equipment(make_machine())
    values_SN = readings(60 * WINDOWS)
    values_SN[0, 30] = 1e6
    times_us = (int(START.timestamp()) + np.arange(values_SN.shape[1])) * 1_000_000
    there_N = ~((np.arange(len(times_us)) >= 600) & (np.arange(len(times_us)) < 610))
    for sensor, values_N in zip(SENSORS, values_SN, strict=True):
        await store.ingest(
            "press-1", [sensor] * int(there_N.sum()), times_us[there_N], values_N[there_N]
        )
    body = (await client.put(PATH, json=interval())).json()
    assert body["windows"] == WINDOWS - 1
    stored = (await store.baselines([body["baseline_id"]]))[body["baseline_id"]]
    moments = Baseline.model_validate_json(stored.moments).sensors["PS1"]
    assert moments.high[0][0] < 200.0
    assert moments.windows == WINDOWS - 2


async def test_interval_is_read_in_parts(
    client: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
):
    await fill(store)
    whole = (await client.put(PATH, json=interval())).json()
    monkeypatch.setattr(module, "VALUES_AT_ONCE", 7 * 3 * 60)
    sizes: list[int] = []
    read = store.read_windows

    async def noted(windows: list[tuple[str, int, int]]) -> object:
        sizes.append(windows[0][2])
        return await read(windows)

    monkeypatch.setattr(store, "read_windows", noted)
    parts = (await client.put(PATH, json=interval())).json()
    assert max(sizes) == 7 * 60
    first, second = [
        Baseline.model_validate_json(each.moments).sensors["PS1"]
        for each in (await store.baselines([whole["baseline_id"], parts["baseline_id"]])).values()
    ] * (2 if whole["baseline_id"] == parts["baseline_id"] else 1)
    np.testing.assert_allclose(first.mean, second.mean, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(first.spread, second.spread, rtol=1e-5)


async def test_baseline_needs_an_admin_key_and_a_registered_machine(
    client: httpx.AsyncClient, store: Store
):
    key = (await store.create_key("reader", ("read",))).secret
    reader = {"authorization": f"Bearer {key}"}
    assert (await client.put(PATH, json=interval(), headers=reader)).status_code == 403
    assert (await client.delete(PATH, headers=reader)).status_code == 403
    assert kind_of(await client.put(PATH, json=interval())) == (404, "unknown-equipment")
    assert kind_of(await client.get(PATH, headers=reader)) == (404, "unknown-equipment")


async def test_changed_topology_needs_a_new_baseline(client: httpx.AsyncClient, store: Store):
    await fill(store)
    await client.put(PATH, json=interval())
    changed = make_machine().model_dump(mode="json") | {"steps": 6}
    await client.put("/v1/equipment/press-1", json=changed)
    answer = await diagnosed(client)
    assert answer.status_code == 422
    assert "the topology has changed; record the baseline again" in answer.json()["detail"]
    await client.put(PATH, json=interval())
    assert (await diagnosed(client)).status_code == 200


async def test_replicas_agree_at_once(
    client: httpx.AsyncClient, service: Service, store: Store, versions: VersionRouter
):
    await fill(store)
    metrics = Metrics()
    registry = EquipmentRegistry(store, router=versions)
    other = Diagnostics(DiagnosisParts(store, registry, versions, metrics, utc_now))
    request = DiagnosisRequest(equipment_id="press-1", at=END + timedelta(minutes=1))
    with pytest.raises(Exception, match="not trained for design"):
        await other.answer(request)
    body = (await client.put(PATH, json=interval())).json()
    here = (await diagnosed(client)).json()
    there = Diagnosis.from_json(await other.answer(request))
    assert there.baseline is not None
    assert there.baseline.baseline_id == here["baseline"]["baseline_id"] == body["baseline_id"]
    assert there.health == here["health"]
    elsewhere = BaselineService(store, registry, utc_now)
    assert (await elsewhere.get("press-1")).baseline_id == body["baseline_id"]
    await elsewhere.delete("press-1", "other")
    with pytest.raises(Exception, match="not trained for design"):
        await other.answer(request)
    assert kind_of(await client.get(PATH)) == (404, "unknown-baseline")


async def test_purge_removes_baselines_and_a_restored_machine_keeps_its_own(
    client: httpx.AsyncClient, store: Store
):
    await fill(store)
    body = (await client.put(PATH, json=interval())).json()
    await client.delete("/v1/equipment/press-1")
    await client.put("/v1/equipment/press-1", json=make_machine().model_dump(mode="json"))
    assert (await client.get(PATH)).json()["baseline_id"] == body["baseline_id"]
    assert (await diagnosed(client)).status_code == 200
    assert (await client.delete("/v1/equipment/press-1?purge=true")).status_code == 200
    assert await store.baselines([body["baseline_id"]]) == {}
