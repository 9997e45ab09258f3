"""The schema is migrated under load: no request fails, nothing that was acknowledged is missing.

The service runs on the schema before hourly health; meanwhile another process, as the first replica
of the next version, migrates. The service calls only statements that both versions have.
"""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest

from app.serving.ingress.deployment import Service
from app.store import migrate
from app.store.migrate import read_migrations
from app.store.store import Store
from tests.conftest import run_sql, with_database
from tests.rig import inline_readings, rig_cycle

BEFORE = 19
START = datetime(2026, 1, 1, tzinfo=UTC)
MACHINE = "hydraulic-rig"
LIMIT_S = 120.0


@pytest.fixture
async def database_dsn(server_dsn: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """DSN of a database with the schema before, for this module instead of the newest."""
    name = f"hydraulic_test_{uuid4().hex}"
    await run_sql(server_dsn, f"create database {name}")
    dsn = with_database(server_dsn, name)
    older = Store(dsn)
    with monkeypatch.context() as patched:
        steps = tuple(step for step in read_migrations() if step.version <= BEFORE)
        patched.setattr(migrate, "read_migrations", lambda: steps)
        await older.migrate()
    await older.close()
    yield dsn
    await run_sql(server_dsn, f"drop database {name} with (force)")


def rows(second: int) -> list[dict[str, object]]:
    """Return a reading of each sensor a second."""
    at = (START + timedelta(hours=1, seconds=second)).isoformat()
    return [
        {"equipment_id": MACHINE, "sensor_id": sensor_id, "time": at, "value": values[0]}
        for sensor_id, values in rig_cycle(0)[0].items()
    ]


def cycle() -> list[dict[str, object]]:
    return [
        {
            "equipment_id": MACHINE,
            "sensor_id": sensor_id,
            "time": (START + timedelta(seconds=second)).isoformat(),
            "value": value,
        }
        for sensor_id, values in rig_cycle(0)[0].items()
        for second, value in enumerate(values)
    ]


class Load:
    """Sends requests of one kind until it is stopped."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client
        self._stop = asyncio.Event()
        self.statuses: Counter[tuple[str, int]] = Counter()
        self.failures: list[str] = []
        self.diagnosed: list[str] = []
        self.seconds: list[int] = []

    async def run(self, kind: str, send: Callable[[int], Awaitable[httpx.Response]]) -> None:
        number = 0
        while not self._stop.is_set():
            number += 1
            answer = await send(number)
            self.statuses[kind, answer.status_code] += 1
            if answer.status_code != 200:
                self.failures.append(f"{kind} {answer.status_code} {answer.text}")
            elif kind == "diagnose":
                self.diagnosed.append(answer.json()["diagnosis_id"])
            elif kind == "ingest":
                self.seconds.append(number)
            await asyncio.sleep(0)

    def stop(self) -> None:
        self._stop.set()

    def count(self, kind: str) -> int:
        return self.statuses[kind, 200]


async def reach(load: Load, kinds: list[str], more: int) -> None:
    """Wait until so many more requests of each kind were answered."""
    goal = {kind: load.count(kind) + more for kind in kinds}
    async with asyncio.timeout(LIMIT_S):
        while any(load.count(kind) < goal[kind] for kind in kinds) and not load.failures:
            await asyncio.sleep(0.05)


async def test_migration_under_load_fails_no_request(
    client: httpx.AsyncClient, service: Service, store: Store, database_dsn: str
):
    assert (await client.post("/v1/readings", json=cycle())).status_code == 200
    end = (START + timedelta(minutes=1)).isoformat()
    inline = inline_readings(rig_cycle(0)[0], START.isoformat())
    load = Load(client)
    sent: dict[str, Callable[[int], Awaitable[httpx.Response]]] = {
        "ingest": lambda n: client.post("/v1/readings", json=rows(n)),
        "diagnose": lambda n: client.post(
            "/v1/diagnoses", json={"equipment_id": MACHINE, "at": end, "explain": n % 2 == 0}
        ),
        "inline": lambda n: client.post(
            "/v1/diagnoses", json={"equipment_id": MACHINE, "readings": inline}
        ),
        "history": lambda n: client.get(f"/v1/equipment/{MACHINE}/diagnoses", params={"limit": 5}),
        "machine": lambda n: client.get(f"/v1/equipment/{MACHINE}"),
        "chart": lambda n: client.get(
            f"/v1/equipment/{MACHINE}/readings",
            params={"start": START.isoformat(), "end": end, "bins": 10},
        ),
        "audit": lambda n: client.get("/v1/audit"),
    }
    tasks = [asyncio.create_task(load.run(kind, send)) for kind, send in sent.items()]
    next_version = Store(database_dsn)
    try:
        await reach(load, list(sent), 5)
        assert (await next_version.facts()).schema == BEFORE
        await next_version.migrate()
        await reach(load, list(sent), 5)
    finally:
        load.stop()
        await asyncio.gather(*tasks)
    assert load.failures == []
    facts = await next_version.facts()
    assert facts.schema == facts.expected

    await service.diagnostics._write_queue.flush()
    stored = set(load.diagnosed)
    for diagnosis_id in stored:
        assert await store.get_diagnosis(diagnosis_id) is not None
    await next_version.refresh_aggregates()
    counts = await next_version.reading_counts(
        MACHINE, START + timedelta(hours=1), START + timedelta(days=2)
    )
    sensors = len(rig_cycle(0)[0])
    assert sum(count for _, count in counts) == len(load.seconds) * sensors
    while await next_version.add_up_pending():
        pass
    await next_version.refresh_aggregates()
    hours = await next_version.health_of(MACHINE, START, START + timedelta(days=1))
    assert sum(hours[0].diagnoses) == len(stored)
    await next_version.close()
