"""Readiness, and the preparation of the store behind it."""

import asyncio
import logging

import pytest

from app.core.errors import ModelUnavailable, TopologyError
from app.serving.ingress import status
from app.serving.ingress.service import Service
from app.serving.ingress.status import Status
from app.serving.ingress.traffic import Release
from app.serving.ingress.version_router import VersionRouter
from app.store.store import Store
from tests.app.serving.conftest import split


async def ready_reasons(standing: Status) -> str:
    return " | ".join((await standing.readiness()).reasons)


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (TopologyError("rig.yaml", (("steps", "expected steps"),)), "rig.yaml has 1 error"),
        (PermissionError("/secret/path"), "PermissionError"),
        (RuntimeError("of our own"), "RuntimeError"),
    ],
)
async def test_preparation_that_fails_is_logged_told_and_tried_again(
    store: Store,
    versions: VersionRouter,
    error: Exception,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
):
    monkeypatch.setattr(status, "FIRST_PAUSE_S", 0.2)
    monkeypatch.setattr(status, "CACHE_S", 0.0)
    errors = [error]

    async def prepare() -> None:
        if errors:
            raise errors.pop()

    standing = Status(store, versions, prepare)
    standing.start()
    with caplog.at_level(logging.WARNING):
        await asyncio.sleep(0.05)
        found = await standing.readiness()
    assert not found.ready
    assert told in found.reasons[0]
    assert "/secret/path" not in found.reasons[0]
    assert "store not ready" in caplog.text
    async with asyncio.timeout(5.0):
        while not (await standing.readiness()).ready:
            await asyncio.sleep(0.02)
    await standing.close()


async def test_versions_are_asked_at_once_and_have_a_short_time(
    store: Store, versions: VersionRouter, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(status, "TIMEOUT_S", 0.2)
    versions.set_traffic(split(50, 50))
    asked: list[str] = []

    async def hang(release: Release) -> None:
        asked.append(release.version)
        await asyncio.sleep(60)

    monkeypatch.setattr(versions, "probe", hang)

    async def prepare() -> None:
        pass

    standing = Status(store, versions, prepare)
    standing.start()
    async with asyncio.timeout(2.0):
        found = await asyncio.gather(*(standing.readiness() for _ in range(10)))
    assert sorted(asked) == ["1", "2"]
    assert found[0].versions == {"1": False, "2": False}
    assert "expected an answer within 0.2 s" in found[0].reasons[0]
    await standing.close()


async def test_part_that_fails_to_close_keeps_no_other_from_it(
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
