"""Every family moves when what it counts happens: real store and networks, without Ray."""

import asyncio
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from app.core import gpus
from app.core.errors import CheckpointError, StoreUnavailable
from app.core.text_metrics import KEPT_S, read_text_files
from app.demo.rig.feed import LiveFeed, Replay
from app.schemas.diagnosis import Diagnosis
from app.schemas.equipment import Equipment
from app.serving.graph_builder.deployment import GraphBuilder
from app.serving.ingress.deployment import Service
from app.serving.ingress.traffic import Traffic
from app.serving.ingress.version_router import VersionRouter
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.model_server.deployment import ModelServer
from app.serving.observability.database_metrics import DatabaseMetrics
from app.serving.observability.feed_metrics import FeedMetrics
from app.serving.observability.metrics import Metrics
from app.serving.observability.model_metrics import ModelMetrics
from app.serving.observability.process_metrics import LOOK_S, ReplicaMetrics
from app.serving.rpc.messages import BuildCall
from app.store.pool import PoolLimits
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, LocalReplicas, split
from tests.docs.metrics import families as defined
from tests.rig import inline_readings, rig_cycle
from tests.scrape import families, samples
from train.fitting.progress import EpochRecord, Note
from train.jobs.metrics import TrainingMetrics

SOURCE = Path(__file__)


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Probe and read the database at every scrape, which otherwise keep their results."""
    monkeypatch.setattr("app.serving.ingress.status.CACHE_S", 0.0)
    monkeypatch.setattr("app.serving.ingress.service_facts.FLEET_SHARE", float("inf"))


@pytest.fixture
async def running(client: httpx.AsyncClient, service: Service) -> httpx.AsyncClient:
    """A client of a service that is ready, whose figures of the database are always read again."""
    facts = service.gatherer._facts  # type: ignore[attr-defined]
    facts._database._every_s = facts._fleet._every_s = 0.0
    for _ in range(200):
        if (await client.get("/health/ready")).status_code == 200:
            return client
        await asyncio.sleep(0.05)
    raise AssertionError((await client.get("/health/ready")).text)


async def scraped(client: httpx.AsyncClient) -> dict[str, float]:
    return families((await client.get("/metrics")).text)


async def scraped_with(client: httpx.AsyncClient, name: str) -> dict[str, float]:
    """Return the samples of a scrape with a name; the database is read in the background."""
    for _ in range(600):
        found = samples((await client.get("/metrics")).text)
        if found.get(name):
            return found
        await asyncio.sleep(0.05)
    raise AssertionError(f"expected {name}, found {sorted(found)}")


def moved(before: dict[str, float], after: dict[str, float], *names: str) -> None:
    still = [name for name in names if after.get(name, 0.0) == before.get(name, 0.0)]
    assert still == []


def total(found: dict[str, float]) -> dict[str, float]:
    """Return samples summed by name."""
    by_name: dict[str, float] = {}
    for sample, value in found.items():
        name = sample.partition("{")[0]
        by_name[name] = by_name.get(name, 0.0) + value
    return by_name


def request_of(row: int = 700, **changes: object) -> dict[str, object]:
    readings = inline_readings(rig_cycle(row)[0], "2026-01-01T00:00:00Z")
    return {"equipment_id": "hydraulic-rig", "readings": readings} | changes


def readings_of(row: int, start: datetime) -> list[dict[str, object]]:
    return [
        {
            "equipment_id": "hydraulic-rig",
            "sensor_id": sensor_id,
            "time": (start + timedelta(seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, series in rig_cycle(row)[0].items()
        for second, value in enumerate(series)
    ]


def test_every_family_is_shown_to_move():
    named = set(re.findall(r'"(hydraulic_\w+)"', SOURCE.read_text()))
    assert sorted({each.name for each in defined()} - named) == []
    assert len(defined()) >= 60


async def test_readings_and_their_diagnosis_move(running: httpx.AsyncClient, service: Service):
    before = await scraped(running)
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=180)
    body = readings_of(700, start)
    posted = await running.post("/v1/readings", json=[*body, body[0] | {"sensor_id": "none"}])
    assert posted.json()["rejected"]
    at = (start + timedelta(seconds=60)).isoformat()
    stored = {"equipment_id": "hydraulic-rig", "at": at}
    for _ in range(2):
        answer = await running.post("/v1/diagnoses", json=stored)
        assert answer.status_code == 200, answer.text
    explained = await running.post("/v1/diagnoses", json=request_of(explain=True))
    assert explained.status_code == 200
    await service.diagnostics._write_queue.flush()  # type: ignore[attr-defined]
    after = await scraped(running)
    moved(
        before,
        after,
        "hydraulic_http_requests_total",
        "hydraulic_http_request_seconds",
        "hydraulic_http_response_bytes_total",
        "hydraulic_readings_total",
        "hydraulic_ingest_seconds",
        "hydraulic_ingest_body_readings",
        "hydraulic_ingest_lag_seconds",
        "hydraulic_reading_age_seconds",
        "hydraulic_window_coverage_ratio",
        "hydraulic_diagnoses_total",
        "hydraulic_diagnosis_seconds",
        "hydraulic_diagnosis_stage_seconds",
        "hydraulic_diagnosis_batch_windows",
        "hydraulic_diagnosis_cache_total",
        "hydraulic_component_states_total",
        "hydraulic_sensor_windows_total",
        "hydraulic_version_calls_total",
        "hydraulic_version_seconds",
        "hydraulic_database_acquire_seconds",
        "hydraulic_database_statement_seconds",
        "hydraulic_database_pool_connections",
        "hydraulic_builder_calls_total",
        "hydraulic_builder_build_seconds",
        "hydraulic_builder_call_windows",
        "hydraulic_builder_windows_total",
        "hydraulic_builder_plan_lookups_total",
        "hydraulic_builder_plans",
        "hydraulic_builder_plan_bytes",
        "hydraulic_model_calls_total",
        "hydraulic_model_forward_seconds",
        "hydraulic_model_forward_windows",
        "hydraulic_model_merged_calls",
        "hydraulic_model_wait_seconds",
        "hydraulic_model_explained_windows_total",
        "hydraulic_model_explain_seconds",
    )
    found = await scraped_with(running, 'hydraulic_fleet_machines{readings="fresh"}')
    moved({}, total(found), "hydraulic_database_size_bytes", "hydraulic_fleet_machines")
    for stage in ("queue", "fetch", "build", "score", "batch", "store"):
        assert found[f'hydraulic_diagnosis_stage_seconds_count{{stage="{stage}"}}'] >= 1
    assert found['hydraulic_readings_total{outcome="rejected"}'] == 1
    assert found['hydraulic_fleet_machines{readings="fresh"}'] == 1
    assert "hydraulic-rig" not in (await running.get("/metrics")).text


async def test_what_is_in_progress_is_shown(
    running: httpx.AsyncClient, service: Service, local: LocalClient
):
    before = await scraped(running)
    server = local.servers["model-1"]
    async with server._light:
        tasks = [
            asyncio.create_task(running.post("/v1/diagnoses", json=request_of(row)))
            for row in range(600, 700)
        ]
        batchers = service.diagnostics._batchers  # type: ignore[attr-defined]
        while not (batchers.waiting and server._cells):
            await asyncio.sleep(0.01)
        service.diagnostics._write_queue._queued["x"] = None  # type: ignore[attr-defined]
        during = samples(service.metrics.exposition().decode())
        of_model = samples(server.metrics.exposition().decode())
        del service.diagnostics._write_queue._queued["x"]  # type: ignore[attr-defined]
    await asyncio.gather(*tasks)
    for name in (
        "hydraulic_diagnosis_queue_windows",
        "hydraulic_diagnosis_batches_in_progress",
        "hydraulic_http_requests_in_progress",
    ):
        assert during[name] > before.get(name, 0.0)
    for name in ("hydraulic_model_calls_in_progress", "hydraulic_model_queued_cells"):
        assert of_model[f'{name}{{version="1"}}'] > 0
    ended = samples(service.metrics.exposition().decode())
    assert ended["hydraulic_diagnosis_queue_windows"] == 0


async def test_health_distance_drift_and_faults_of_input_move(running: httpx.AsyncClient):
    before = await scraped(running)
    values = dict(rig_cycle(700)[0])
    values["PS1"] = [value * 3 for value in values["PS1"]]  # no pressure of training
    values["TS1"] = [values["TS1"][0]] * 60  # stuck
    del values["FS1"]
    odd = {"readings": inline_readings(values, "2026-01-01T00:00:00Z")}
    assert (await running.post("/v1/diagnoses", json=request_of(**odd))).status_code == 200
    assert (await running.post("/v1/diagnoses", json=request_of())).status_code == 200
    moved(
        before,
        await scraped(running),
        "hydraulic_diagnosis_health_ratio",
        "hydraulic_sensor_windows_missing_total",
        "hydraulic_component_abstentions_total",
    )


def diagnosis(body: bytes, **changes: Any) -> Diagnosis:
    return replace(Diagnosis.from_json(body), **changes)


async def test_what_a_diagnosis_says_is_counted_by_its_labels(running: httpx.AsyncClient):
    body = (await running.post("/v1/diagnoses", json=request_of())).content
    found = Diagnosis.from_json(body)
    rig = Equipment.model_validate((await running.get("/v1/equipment/hydraulic-rig")).json())
    faults = [
        {
            "sensor_id": "PS1",
            "kind": "drift",
            "since": found.window.start,
            "size": 1.0,
            "score": 2.0,
            "masked": True,
        }
    ]
    quality = replace(
        found.input,
        unusual_sensors=("PS1", "PS2"),
        missing_sensors=("FS1",),
        sensor_faults=tuple(SimpleNamespace(**each) for each in faults),  # type: ignore[misc]
        stale_s=7.0,
    )
    components = [replace(each, distance=2.5) for each in found.components]
    components[0] = replace(components[0], health=None, state="unknown")
    changed = replace(found, input=quality, components=tuple(components), health=0.4)
    metrics = Metrics()
    metrics.note_diagnosis(changed, rig, 1.0, 0.25)
    states = {each.component_id: each.state for each in changed.components}
    first, second = list(states)[:2]
    metrics.note_states(states | {first: "healthy", second: "critical"}, changed)
    counted = samples(metrics.exposition().decode())
    assert counted['hydraulic_sensor_windows_drifted_total{quantity="pressure"}'] == 2
    assert counted['hydraulic_sensor_windows_missing_total{quantity="flow"}'] == 1
    assert counted['hydraulic_sensor_faults_total{kind="drift",quantity="pressure"}'] == 1
    version = found.model_version
    of_distance = f'{{cause="distance",version="{version}"}}'
    without = sum(each.health is None for each in changed.components)
    assert counted[f"hydraulic_component_abstentions_total{of_distance}"] == without
    assert counted[f'hydraulic_diagnosis_distance_ratio_sum{{version="{version}"}}'] == 2.5
    assert counted[f'hydraulic_diagnosis_health_ratio_sum{{version="{version}"}}'] == 0.4
    changes = {
        name: value
        for name, value in counted.items()
        if name.startswith("hydraulic_component_state_changes_total")
    }
    assert sum(changes.values()) == 1 + (states[second] != "critical")
    moved(
        {},
        families(metrics.exposition().decode()),
        "hydraulic_sensor_windows_drifted_total",
        "hydraulic_sensor_faults_total",
        "hydraulic_diagnosis_distance_ratio",
        "hydraulic_component_state_changes_total",
    )


async def test_failing_version_and_its_fallback_move(
    running: httpx.AsyncClient, versions: VersionRouter, local: LocalClient
):
    versions.set_traffic(split(99.9, 0.1))
    before = samples((await running.get("/metrics")).text)
    local.broken.add("model-1")
    for row in range(650, 656):
        answer = await running.post("/v1/diagnoses", json=request_of(row))
        assert (answer.status_code, answer.json()["fallback"]) == (200, True)
    after = samples((await running.get("/metrics")).text)
    assert before["hydraulic_ready"] == 1
    assert before['hydraulic_version_up{version="1"}'] == 1
    assert after['hydraulic_version_up{version="1"}'] == 0
    assert after['hydraulic_version_up{version="2"}'] == 1
    assert after['hydraulic_version_weight_ratio{version="1"}'] == pytest.approx(0.999)
    assert after['hydraulic_version_circuit_open{version="1"}'] == 1
    assert after['hydraulic_version_failures_total{version="1"}'] >= 3
    answered = 'hydraulic_diagnoses_total{fallback="true",status="ok",version="2"}'
    assert after[answered] == 6
    moved(
        {},
        total(after),
        "hydraulic_version_circuit_open",
        "hydraulic_version_failures_total",
        "hydraulic_version_up",
        "hydraulic_version_weight_ratio",
        "hydraulic_ready",
    )


async def test_shadow_copies_and_what_is_not_stored_move(
    running: httpx.AsyncClient, versions: VersionRouter, service: Service, metrics: Metrics
):
    before = await scraped(running)
    releases = split(100, 0).releases
    versions.set_traffic(Traffic(releases=releases, shadows=("2",)))
    assert (await running.post("/v1/diagnoses", json=request_of())).status_code == 200
    for _ in range(200):
        if families(metrics.exposition().decode()).get("hydraulic_shadow_copies_total"):
            break
        await asyncio.sleep(0.05)

    async def away(_: Sequence[int]) -> None:
        raise StoreUnavailable("expected a database, found none: start it")

    for length, dropped in (
        (metrics.queue_length, metrics.unstored),
        (metrics.shadow_queue_length, metrics.shadow_unstored),
    ):
        queue: WriteBehindQueue[int] = WriteBehindQueue(away, lambda each: each, length, dropped, 2)
        for each in range(3):
            queue.add(each)
    moved(
        before,
        families(metrics.exposition().decode()),
        "hydraulic_shadow_copies_total",
        "hydraulic_diagnoses_waiting",
        "hydraulic_diagnoses_unstored_total",
        "hydraulic_shadow_answers_waiting",
        "hydraulic_shadow_answers_unstored_total",
    )
    service.configure({"traffic": "none"})
    after = await scraped(running)
    assert after["hydraulic_config_rejected_total"] == 1
    assert (before["hydraulic_config_valid"], after["hydraulic_config_valid"]) == (1, 0)


async def test_failed_uses_of_the_database_move():
    metrics = ReplicaMetrics("ingress")
    limits = PoolLimits(max_size=5, acquire_timeout_s=0.2, retry_s=0.3)
    store = Store("postgresql://nobody@127.0.0.1:1/none", limits)
    DatabaseMetrics(metrics).watch(store)
    with pytest.raises(StoreUnavailable):
        await store.get_equipment("x")
    found = samples(metrics.exposition().decode())
    assert found["hydraulic_database_pool_max_connections"] == 5
    assert found["hydraulic_database_retries_total"] >= 1
    assert found['hydraulic_database_errors_total{kind="unavailable"}'] >= 2
    assert found['hydraulic_database_errors_total{kind="refused"}'] == 0
    moved({}, total(found), "hydraulic_database_errors_total")


async def test_service_as_a_whole_moves(
    running: httpx.AsyncClient, store: Store, local_replicas: LocalReplicas
):
    before = await scraped_with(running, "hydraulic_database_size_bytes")
    assert before['hydraulic_dependency_up{dependency="database"}'] == 1
    assert before['hydraulic_dependency_up{dependency="builders"}'] == 1
    of_model = 'application="model-1",deployment="Model"'
    assert before[f"hydraulic_deployment_scraped_replicas{{{of_model}}}"] == 1
    assert before[f'hydraulic_deployment_replicas{{{of_model},state="running"}}'] == 1
    assert before[f"hydraulic_deployment_healthy{{{of_model}}}"] == 1
    assert 0 < before["hydraulic_disk_free_bytes"] < before["hydraulic_disk_size_bytes"]
    assert before["hydraulic_scrape_seconds"] > 0
    assert total(before)["hydraulic_database_connections"] >= 1
    assert before["hydraulic_database_max_connections"] > 1
    assert before['hydraulic_database_transactions_total{outcome="committed"}'] > 0
    assert before['hydraulic_database_blocks_total{source="memory"}'] > 0
    assert before["hydraulic_database_deadlocks_total"] == 0
    assert "hydraulic_key_expiry_timestamp_seconds" not in before

    local_replicas.stuck.add("model-1")
    expiry = datetime.now(UTC) + timedelta(days=3)
    await store.create_key("short", ["read"], expires_at=expiry)
    async with store._database.session() as session:
        transaction = session.transaction()
        await transaction.start()
        await session.fetch("select 1")
        await asyncio.sleep(0.2)
        after = await scraped_with(running, "hydraulic_key_expiry_timestamp_seconds")
        await transaction.rollback()
    assert after[f"hydraulic_deployment_scraped_replicas{{{of_model}}}"] == 0
    assert 'hydraulic_model_load_seconds{version="1"}' not in after
    assert 'hydraulic_model_load_seconds{version="2"}' in after
    assert after["hydraulic_key_expiry_timestamp_seconds"] == pytest.approx(expiry.timestamp())
    # the tables' user may not see the sessions of others: then there is none
    assert after["hydraulic_database_oldest_transaction_seconds"] >= 0
    assert (
        after['hydraulic_database_transactions_total{outcome="committed"}']
        >= before['hydraulic_database_transactions_total{outcome="committed"}']
    )
    moved(
        {},
        total(before),
        "hydraulic_dependency_up",
        "hydraulic_deployment_scraped_replicas",
        "hydraulic_deployment_replicas",
        "hydraulic_deployment_healthy",
        "hydraulic_database_connections",
        "hydraulic_database_transactions_total",
        "hydraulic_database_blocks_total",
        "hydraulic_replica_info",
    )


async def test_database_that_is_away_is_shown_and_the_rest_is_answered(
    running: httpx.AsyncClient, store: Store, monkeypatch: pytest.MonkeyPatch
):
    async def away() -> None:
        raise StoreUnavailable("expected a database, found none: start it")

    for name in ("ping", "database_figures", "fleet_ages"):
        monkeypatch.setattr(store, name, away)
    found = samples((await running.get("/metrics")).text)
    assert found["hydraulic_ready"] == 0
    assert found['hydraulic_dependency_up{dependency="database"}'] == 0
    infos = [name for name in found if name.startswith("hydraulic_model_info{")]
    assert len(infos) == 2


async def test_readings_that_wait_and_stale_answers_move(
    running: httpx.AsyncClient, service: Service, store: Store, monkeypatch: pytest.MonkeyPatch
):
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=120)
    lines = readings_of(700, start) + readings_of(700, start + timedelta(seconds=60))
    assert (await running.post("/v1/readings", json=lines)).status_code == 200
    request = {"equipment_id": "hydraulic-rig"}
    assert (await running.post("/v1/diagnoses", json=request)).status_code == 200
    before = await scraped(running)

    async def away(*_: object, **__: object) -> None:
        raise StoreUnavailable("expected a database, found none: start it")

    for name in ("ingest_many", "read_windows"):
        monkeypatch.setattr(store, name, away)
    assert (await running.post("/v1/readings", json=lines[:3])).status_code == 202
    after = before
    while after["hydraulic_diagnoses_stale_total"] == 0:  # the answer of this second is cached
        assert (await running.post("/v1/diagnoses", json=request)).status_code == 200
        after = await scraped(running)
    moved(before, after, "hydraulic_readings_spooled_total", "hydraulic_spool_bytes")
    monkeypatch.undo()
    async with asyncio.timeout(60.0):
        while service.readings._spool.is_waiting:
            await asyncio.sleep(0.01)
    assert (await scraped(running))["hydraulic_spool_bytes"] == 0


async def test_failed_probe_and_a_missing_document_move(
    local: LocalClient, monkeypatch: pytest.MonkeyPatch
):
    server = local.servers["model-1"]
    assert isinstance(server, ModelServer)

    def fail(_: object) -> None:
        raise CheckpointError("expected weights, found none")

    monkeypatch.setattr(server.predictor, "predict", fail)
    with pytest.raises(CheckpointError):
        await server.probe()
    builder = GraphBuilder()
    await builder.build(BuildCall("unknown", ()))
    found = samples(server.metrics.exposition().decode())
    assert found['hydraulic_model_probe_failures_total{version="1"}'] == 1
    assert found['hydraulic_model_load_seconds{version="1"}'] > 0
    moved(
        {},
        families(server.metrics.exposition().decode()),
        "hydraulic_model_probe_failures_total",
        "hydraulic_model_load_seconds",
        "hydraulic_model_info",
    )
    built = samples(builder.metrics.exposition().decode())
    assert built['hydraulic_builder_calls_total{outcome="missing"}'] == 1


async def test_lag_of_the_event_loop_is_seen():
    metrics = ReplicaMetrics("model")
    await metrics.scraped()
    await asyncio.sleep(LOOK_S / 2)
    deadline = asyncio.get_running_loop().time() + LOOK_S + 0.3
    while asyncio.get_running_loop().time() < deadline:
        pass  # occupies the loop past the timer
    await asyncio.sleep(0.01)
    found = samples((await metrics.scraped()).text.decode())
    await metrics.close()
    assert found["hydraulic_event_loop_lag_seconds_sum"] > 0.2
    assert found["hydraulic_event_loop_tasks"] >= 2
    moved({}, families(metrics.exposition().decode()), "hydraulic_event_loop_lag_seconds")


class _FeedStore:
    """Takes readings; is away for the first write."""

    def __init__(self) -> None:
        self.writes = 0

    async def migrate(self) -> None:
        pass

    async def get_equipment(self, *_: object, **__: object) -> object:
        return object()

    async def ingest(self, *_: object) -> None:
        self.writes += 1
        if self.writes == 1:
            raise StoreUnavailable("expected a database, found none: start it")


class _End(Exception):
    pass


async def test_feed_moves(machine: Equipment):
    metrics, store, now_s = FeedMetrics(), _FeedStore(), [1_764_000_000.0]
    assert families(metrics.exposition().decode()).get("hydraulic_feed_readings_total") == 0

    async def sleep(seconds: float) -> None:
        now_s[0] += seconds
        if now_s[0] > 1_764_000_010.0:
            raise _End

    replay = Replay(machine.sensor_ids, np.ones((1, 60, len(machine.sensor_ids))))
    feed = LiveFeed(
        store,  # type: ignore[arg-type]
        machine,
        replay,
        lambda: now_s[0],
        sleep,
        backfill_s=5,
        metrics=metrics,
    )
    with pytest.raises(_End):
        await feed.run()
    found = samples(metrics.exposition().decode())
    assert found["hydraulic_feed_machines"] == 1
    assert found["hydraulic_feed_outages_total"] == 1
    assert found["hydraulic_feed_readings_total"] >= 5 * len(machine.sensor_ids)
    assert found["hydraulic_feed_write_seconds_count"] >= 2
    assert found["hydraulic_feed_last_write_timestamp_seconds"] > 1_764_000_000
    metrics.note_write(1, 0.1, 1_764_000_020.0, 1_764_000_010.0)
    assert samples(metrics.exposition().decode())["hydraulic_feed_lag_seconds"] == 10.0
    moved({}, families(metrics.exposition().decode()), "hydraulic_feed_write_seconds")


class _Nvml(ModuleType):
    """NVML of a node with two GPUs, one of which does not answer."""

    NVML_TEMPERATURE_GPU = 0

    class NVMLError(Exception):
        pass

    def nvmlInit(self) -> None:
        pass

    def nvmlDeviceGetCount(self) -> int:
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        return index

    def nvmlDeviceGetMemoryInfo(self, gpu: int) -> SimpleNamespace:
        if gpu == 1:
            raise self.NVMLError("lost")
        return SimpleNamespace(used=6e9, total=16e9)

    def nvmlDeviceGetUtilizationRates(self, gpu: int) -> SimpleNamespace:
        return SimpleNamespace(gpu=75)

    def nvmlDeviceGetTemperature(self, gpu: int, sensor: int) -> int:
        return 61

    def nvmlDeviceGetPowerUsage(self, gpu: int) -> int:
        return 250_000


@pytest.fixture
def nvml(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModuleType | None], None]:
    """Return a function that replaces NVML for this test."""

    def put(module: ModuleType | None) -> None:
        monkeypatch.setitem(sys.modules, "pynvml", module)  # type: ignore[arg-type]
        gpus._opened_nvml.cache_clear()

    return put


@pytest.fixture(autouse=True)
def nvml_again() -> Any:
    yield
    gpus._opened_nvml.cache_clear()


def test_gpus_are_read_where_there_is_one(nvml: Callable[[ModuleType | None], None]):
    nvml(_Nvml("pynvml"))
    found = samples(ModelMetrics("1", "cuda:0", "torch").exposition().decode())
    of_gpu = '{gpu="0"}'
    assert {name: value for name, value in found.items() if "hydraulic_gpu_" in name} == {
        f"hydraulic_gpu_memory_used_bytes{of_gpu}": 6e9,
        f"hydraulic_gpu_memory_total_bytes{of_gpu}": 16e9,
        f"hydraulic_gpu_utilization_ratio{of_gpu}": 0.75,
        f"hydraulic_gpu_temperature_celsius{of_gpu}": 61,
        f"hydraulic_gpu_power_watts{of_gpu}": 250,
    }
    moved(
        {},
        total(found),
        "hydraulic_gpu_memory_used_bytes",
        "hydraulic_gpu_memory_total_bytes",
        "hydraulic_gpu_utilization_ratio",
        "hydraulic_gpu_temperature_celsius",
        "hydraulic_gpu_power_watts",
    )
    assert "hydraulic_gpu" not in ModelMetrics("1", "cpu", "onnx").exposition().decode()


def test_without_nvml_there_are_no_gpus(nvml: Callable[[ModuleType | None], None]):
    nvml(None)
    assert gpus.read_gpus() == []
    broken = _Nvml("pynvml")

    def refuse() -> None:
        raise _Nvml.NVMLError("no driver")

    broken.nvmlInit = refuse  # type: ignore[method-assign]
    nvml(broken)
    assert gpus.read_gpus() == []


def test_training_leaves_its_metrics_in_a_file(
    tmp_path: Path, nvml: Callable[[ModuleType | None], None]
):
    nvml(_Nvml("pynvml"))
    now_s = [1_764_000_000.0]
    with TrainingMetrics(tmp_path, lambda: now_s[0]) as metrics:
        assert samples(metrics.path.read_text())["hydraulic_training_running"] == 1
        record = EpochRecord(
            epoch=1, loss=0.5, score=0.8, learning_rate=0.01, samples_s=99.0, seconds=3.0, workers=2
        )
        now_s[0] += 0.1
        metrics.note(Note(fit="final", epochs=4, done=1.0, loss=0.5, samples_s=99.0, record=record))
        assert samples(metrics.path.read_text())['hydraulic_training_loss{fit="final"}'] == 0.5
        now_s[0] += 0.1  # a note inside an epoch is written at most once a second
        metrics.note(Note(fit="final", epochs=4, done=1.5, loss=0.4, samples_s=99.0))
        assert samples(metrics.path.read_text())['hydraulic_training_loss{fit="final"}'] == 0.5
        now_s[0] += 1.0
        metrics.note(Note(fit="final", epochs=4, done=1.6, loss=0.3, samples_s=99.0))
        during = samples(metrics.path.read_text())
    (text,) = read_text_files(metrics.path.parent)
    after = samples(text.decode())
    assert (during["hydraulic_training_running"], after["hydraulic_training_running"]) == (1, 0)
    assert after["hydraulic_training_failed"] == 0
    assert after["hydraulic_training_start_timestamp_seconds"] == 1_764_000_000
    assert after["hydraulic_training_update_timestamp_seconds"] == pytest.approx(1_764_000_001.2)
    of_fit = '{fit="final"}'
    for name, value in {
        "hydraulic_training_epoch": 1,
        "hydraulic_training_epochs": 4,
        "hydraulic_training_progress_ratio": 0.4,
        "hydraulic_training_loss": 0.3,
        "hydraulic_training_score": 0.8,
        "hydraulic_training_learning_rate": 0.01,
        "hydraulic_training_samples_per_second": 99.0,
        "hydraulic_training_epoch_seconds": 3.0,
        "hydraulic_training_workers": 2,
    }.items():
        assert after[f"{name}{of_fit}"] == value
    assert after['hydraulic_training_gpu_memory_used_bytes{gpu="0"}'] == 6e9
    assert after['hydraulic_training_gpu_utilization_ratio{gpu="0"}'] == 0.75
    moved(
        {},
        total(after),
        "hydraulic_training_gpu_memory_used_bytes",
        "hydraulic_training_gpu_utilization_ratio",
    )


def test_training_that_fails_says_so(tmp_path: Path):
    metrics = TrainingMetrics(tmp_path)
    with pytest.raises(CheckpointError), metrics:
        raise CheckpointError("expected windows, found none")
    found = samples(metrics.path.read_text())
    assert (found["hydraulic_training_failed"], found["hydraulic_training_running"]) == (1, 0)


def test_old_files_are_removed_and_large_ones_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import os
    import time

    (tmp_path / "new.prom").write_bytes(b"one 1\n")
    (tmp_path / "other.txt").write_bytes(b"two 2\n")
    (tmp_path / "large.prom").write_bytes(b"x" * 1_000_001)
    old = tmp_path / "old.prom"
    old.write_bytes(b"three 3\n")
    then = time.time() - KEPT_S - 10
    os.utime(old, (then, then))
    assert read_text_files(tmp_path) == [b"one 1\n"]
    assert not old.exists()
    assert read_text_files(tmp_path / "none") == []
