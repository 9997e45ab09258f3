"""Readiness, and the preparation of the store behind it."""

import asyncio
import logging

import pytest

from app.core.errors import ModelUnavailable, TopologyError
from app.serving.ingress import status
from app.serving.ingress.deployment import Service
from app.serving.ingress.equipment_registry import EquipmentRegistry
from app.serving.ingress.status import Status
from app.serving.ingress.traffic import Release
from app.serving.ingress.version_router import VersionRouter
from app.serving.rpc.messages import BuildAnswer, BuildCall
from app.store.store import Store
from tests.app.serving.conftest import LocalClient, split


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (TopologyError("rig.yaml", (("steps", "expected steps"),)), "rig.yaml has 1 error"),
        (PermissionError(13, "Permission denied", "/secret/path"), "permission denied"),
        (RuntimeError("unexpected"), "an internal error, which the log describes"),
    ],
)
async def test_preparation_that_fails_is_logged_reported_and_retried(
    store: Store,
    versions: VersionRouter,
    error: Exception,
    reason: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(status, "FIRST_PAUSE_S", 0.01)
    monkeypatch.setattr(status, "CACHE_S", 0.0)
    errors, may_succeed = [error], asyncio.Event()

    async def prepare() -> None:
        if errors:
            raise errors.pop()
        await may_succeed.wait()

    status_of = Status(store, versions, EquipmentRegistry(store), prepare)
    status_of.start()
    with caplog.at_level(logging.WARNING):
        async with asyncio.timeout(10.0):
            while reason not in (found := await status_of.readiness()).reasons[0]:
                await asyncio.sleep(0.01)
    assert not found.ready
    assert "/secret/path" not in found.reasons[0]
    assert "store not ready" in caplog.text
    may_succeed.set()
    async with asyncio.timeout(10.0):
        while not (await status_of.readiness()).ready:
            await asyncio.sleep(0.02)
    await status_of.close()


async def test_versions_are_probed_concurrently_with_a_timeout(
    store: Store, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(status, "TIMEOUT_S", 0.2)
    versions.set_traffic(split(50, 50))
    probed: list[str] = []

    async def hang(release: Release) -> None:
        probed.append(release.version)
        await asyncio.sleep(60)

    monkeypatch.setattr(versions, "probe", hang)

    async def prepare() -> None:
        pass

    status_of = Status(store, versions, EquipmentRegistry(store), prepare)
    status_of.start()
    async with asyncio.timeout(2.0):
        found = await asyncio.gather(*(status_of.readiness() for _ in range(10)))
    assert sorted(probed) == ["1", "2"]
    assert found[0].versions == {"1": False, "2": False}
    assert "expected an answer within 0.2 s" in found[0].reasons[0]
    await status_of.close()


@pytest.mark.parametrize("dead", ["fails", "hangs"])
async def test_dead_pool_of_graph_builders_is_not_ready_and_named(
    store: Store,
    versions: VersionRouter,
    local: LocalClient,
    monkeypatch: pytest.MonkeyPatch,
    dead: str,
):
    monkeypatch.setattr(status, "TIMEOUT_S", 0.2)
    monkeypatch.setattr(status, "CACHE_S", 0.0)

    async def prepare() -> None:
        pass

    status_of = Status(store, versions, EquipmentRegistry(store), prepare)
    status_of.start()
    async with asyncio.timeout(10.0):
        while not (found := await status_of.readiness()).ready:
            await asyncio.sleep(0.02)
    assert found.builders

    async def no_builder(_: BuildCall) -> BuildAnswer:
        if dead == "hangs":
            await asyncio.sleep(60)
        raise RuntimeError("no replica")

    monkeypatch.setattr(local, "send_build", no_builder)
    found = await status_of.readiness()
    assert (found.ready, found.database, found.builders) == (False, True, False)
    assert found.versions == {"1": True}
    assert found.reasons[0].startswith("graph builders: expected ")
    await status_of.close()


async def test_part_that_fails_to_close_does_not_keep_others_open(
    service: Service, monkeypatch: pytest.MonkeyPatch
):
    closed: list[str] = []

    async def fail() -> None:
        raise ModelUnavailable("expected to close, found a failure")

    async def close() -> None:
        closed.append("store")

    monkeypatch.setattr(service.retention, "close", fail)
    with monkeypatch.context() as patched:
        patched.setattr(service.store, "close", close)
        await service.close()
    assert closed == ["store"]
