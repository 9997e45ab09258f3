"""A real PostgreSQL is stopped and started below the service: what goes on, what is caught up."""

import asyncio
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import pytest

from app.serving.ingress import spool
from app.serving.ingress.deployment import Service
from app.store.embedded.postgres import PostgresServer, answers, make_runtime
from app.store.embedded.server import _dsn
from app.store.pool import PoolLimits
from app.store.store import Store
from tests.app.serving.http.test_app import readings_of, ready, rig_request

LIMIT_S = 240.0


class Server:
    """A PostgreSQL server of this test alone."""

    def __init__(self, directory: Path) -> None:
        self._postgres = PostgresServer(directory, make_runtime(None))
        self._postgres.prepare()
        self._process: subprocess.Popen[bytes] | None = None
        self.dsn = _dsn(str(self._postgres.socket_dir))

    def start(self) -> None:
        self._process = self._postgres.start()
        give_up = time.monotonic() + LIMIT_S
        while not answers(self._postgres.socket_dir):
            assert time.monotonic() < give_up
            time.sleep(0.05)

    def stop(self) -> None:
        if self._process is not None:
            self._postgres.stop(self._process.pid)
            self._process.wait()
            assert self._process.stderr is not None
            self._process.stderr.close()
            self._process = None

    def close(self) -> None:
        self.stop()
        shutil.rmtree(self._postgres.runtime, ignore_errors=True)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path / "postgres")
    made.start()
    yield made
    made.close()


@pytest.fixture
async def store(server: Server) -> AsyncIterator[Store]:
    opened = Store(server.dsn, PoolLimits(acquire_timeout_s=30.0, retry_s=0.5))
    await opened.migrate()
    yield opened
    await opened.close()


async def until(probe: Callable[[], Awaitable[bool]]) -> None:
    async with asyncio.timeout(LIMIT_S):
        while not await probe():
            await asyncio.sleep(0.1)


async def test_service_goes_on_without_its_database_and_catches_up(
    client: httpx.AsyncClient,
    service: Service,
    store: Store,
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(spool, "LONGEST_PAUSE_S", 0.2)
    await ready(client)
    request = {"equipment_id": "hydraulic-rig"}
    start = datetime.now(UTC).replace(microsecond=0) - timedelta(seconds=120)
    before = readings_of(0, start) + readings_of(0, start + timedelta(seconds=60))
    assert (await client.post("/v1/readings", json=before)).json()["accepted"] == len(before)
    fresh = (await client.post("/v1/diagnoses", json=request)).json()
    assert (fresh["stale"], fresh["age_s"]) == (False, None)

    await asyncio.to_thread(server.stop)

    async def is_stale() -> bool:
        answer = await client.post("/v1/diagnoses", json=request)  # the last bin's may be cached
        assert answer.status_code == 200, answer.text
        return bool(answer.json()["stale"])

    await until(is_stale)
    stale = (await client.post("/v1/diagnoses", json=request)).json()
    assert stale["age_s"] > 0
    same = {"stale", "age_s"}
    assert {k: v for k, v in stale.items() if k not in same}.keys() == fresh.keys() - same
    inline = await client.post("/v1/diagnoses", json=rig_request())
    assert (inline.status_code, inline.json()["stale"]) == (200, False)
    past = await client.post("/v1/diagnoses", json=request | {"at": start.isoformat()})
    assert (past.status_code, past.headers["retry-after"]) == (503, "5")
    assert past.json()["type"].endswith(":store-unavailable")
    batch = await client.post("/v1/diagnoses/batch", json={"items": [request, rig_request()]})
    assert batch.text.count('"stale":true') == batch.text.count('"stale":false') == 1

    began = start + timedelta(seconds=30)
    line = {"equipment_id": "hydraulic-rig", "sensor_id": "PS1", "time": began.isoformat()}
    late = [line | {"time": (began + timedelta(milliseconds=500)).isoformat(), "value": 1.0}]
    for value in (1.0, 2.0):  # the first value of a sensor and time is kept
        answer = await client.post("/v1/readings", json=[late[0] | {"value": value}, {"x": 1}])
        found = answer.json()
        assert (answer.status_code, found["spooled"], found["accepted"]) == (202, 1, 0)
        assert len(found["rejected"]) == 1

    await asyncio.to_thread(server.start)

    async def is_caught_up() -> bool:
        return not service.readings._spool.is_waiting

    await until(is_caught_up)
    again = (await client.post("/v1/readings", json=late)).json()
    assert (again["duplicates"], again["conflicts"], again["spooled"]) == (1, 0, 0)

    async def is_fresh() -> bool:
        answer = await client.post("/v1/diagnoses", json=request)
        return answer.status_code == 200 and not answer.json()["stale"]

    await until(is_fresh)
