"""A replica's parts: configuration in place, preparation of the store, and the first key."""

import asyncio
import fcntl
import stat
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from app.core.errors import StoreUnavailable, TopologyError
from app.core.settings import Settings
from app.demo.rig.equipment import rig_equipment
from app.main import diagnostics
from app.release.service import open_release_service
from app.serving.http.auth import Authenticator
from app.serving.ingress.config import DiagnosticsArgs
from app.serving.ingress.deployment import Service, open_service, prepare
from app.store.keys import CreatedKey, ensure_first_key
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, LocalReplicas
from tests.scrape import samples

GOOD: dict[str, Any] = {
    "traffic": {
        "releases": [
            {"version": "1", "application": "model-1", "weight": 100},
            {"version": "2", "application": "model-2", "weight": 0},
        ]
    },
    "thresholds": {"watch": 0.9},
}


@pytest.fixture
async def service(tmp_path: Path) -> Service:
    settings = Settings(var_dir=tmp_path)
    client = LocalClient({})
    replicas = LocalReplicas(client)
    return open_service(client, settings, DiagnosticsArgs(), open_release_service, replicas)


async def test_good_configuration_is_taken(service: Service):
    service.configure(GOOD)
    report = await service.status.traffic_report()
    assert [item["weight"] for item in report["releases"]] == [100, 0]
    assert report["shadows"] == []
    assert service.status.config_error is None
    service.configure(GOOD | {"traffic": GOOD["traffic"] | {"shadows": ["2"]}})
    assert (await service.status.traffic_report())["shadows"] == ["2"]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"traffic": {"releases": [{"version": "1", "application": "model-1", "weight": 50}]}},
            "sum to 100",
        ),
        ({"thresholds": {"watsch": 0.9}}, "watsch"),
        ({"trafic": {}}, "trafic"),
        ({"thresholds": {"watch": 0.2, "degraded": 0.6}}, "expected critical < degraded < watch"),
        ({"thresholds": {"max_missing": float("nan")}}, "expected max_missing in [0, 1]"),
        ({"retention_days": 1e12}, "retention_days"),
        ({"retention_days": float("inf")}, "retention_days"),
    ],
)
async def test_bad_configuration_leaves_the_old_one_and_is_reported(
    service: Service, change: dict[str, Any], reason: str
):
    service.configure(GOOD)
    service.configure(GOOD | change)
    assert reason in str(service.status.config_error)
    assert [item["weight"] for item in (await service.status.traffic_report())["releases"]] == [
        100,
        0,
    ]
    found = samples(service.metrics.exposition().decode())
    assert found["hydraulic_config_rejected_total"] == 1.0
    service.configure(GOOD)
    assert service.status.config_error is None


async def test_start_registers_declared_machines_once_and_makes_a_key(store: Store, tmp_path: Path):
    settings = Settings(var_dir=tmp_path)
    topology = rig_equipment()
    await prepare(store, settings, (topology,))
    record = await store.get_equipment("hydraulic-rig")
    assert record is not None
    changed = record.equipment.model_copy(update={"name": "renamed by its owner"})
    await store.put_equipment(changed)
    await prepare(store, settings, (topology,))
    again = await store.get_equipment("hydraulic-rig")
    assert again is not None
    assert again.equipment.name == "renamed by its owner"


async def test_first_key_is_private_works_and_is_made_once(store: Store, tmp_path: Path):
    settings = Settings(var_dir=tmp_path)
    await ensure_first_key(store, settings)
    path = tmp_path / "api_key"
    secret = path.read_text().strip()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    await Authenticator(store.find_key).require({"x-api-key": secret}, "admin")
    await ensure_first_key(store, settings)
    assert path.read_text().strip() == secret
    assert len(await store.list_keys()) == 1


async def test_key_of_the_environment_makes_a_first_key_needless(store: Store, tmp_path: Path):
    await ensure_first_key(store, Settings(var_dir=tmp_path, api_key=SecretStr("x" * 32)))
    assert not (tmp_path / "api_key").exists()
    assert await store.any_key() is False


async def test_key_whose_answer_was_lost_is_in_the_file(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    create = store.create_key

    async def create_and_lose(
        name: str, scopes: Sequence[str], secret: str | None = None
    ) -> CreatedKey:
        await create(name, scopes, secret)
        raise StoreUnavailable("expected an answer, found none")

    monkeypatch.setattr(store, "create_key", create_and_lose)
    with pytest.raises(StoreUnavailable):
        await ensure_first_key(store, Settings(var_dir=tmp_path))
    await ensure_first_key(store, Settings(var_dir=tmp_path))
    secret = (tmp_path / "api_key").read_text().strip()
    await Authenticator(store.find_key).require({"x-api-key": secret}, "admin")


async def test_no_key_is_made_that_could_not_be_written(store: Store, tmp_path: Path):
    (tmp_path / "api_key").mkdir()
    with pytest.raises(OSError, match="directory"):
        await ensure_first_key(store, Settings(var_dir=tmp_path))
    assert await store.list_keys() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["api_key", "api_key.lock"]


async def test_waiting_for_the_first_key_of_another_replica_blocks_no_request(
    store: Store, tmp_path: Path
):
    with (tmp_path / "api_key.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        waiting = asyncio.create_task(ensure_first_key(store, Settings(var_dir=tmp_path)))
        await asyncio.sleep(0.1)
        assert not waiting.done()
    async with asyncio.timeout(5.0):
        await waiting
    assert (tmp_path / "api_key").exists()


def test_declared_topology_with_errors_fails_before_anything_starts(tmp_path: Path):
    path = tmp_path / "bad.yaml"
    path.write_text("equipment_id: bad\n")
    with pytest.raises(TopologyError, match=r"has \d+ error"):
        diagnostics(DiagnosticsArgs(equipment=(str(path),)))
