import asyncio
import threading
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit

import asyncpg
import pytest
from pydantic import SecretStr

from app.core.errors import StoreUnavailable
from app.core.settings import Settings
from app.store import pool
from app.store.pool import PATIENT, Database, PoolLimits
from app.store.store import Store, open_store
from tests.conftest import run_sql
from tests.machines import make_machine


async def test_store_of_an_unreachable_database_raises_in_time(tmp_path):
    store = Store(
        f"postgresql://nobody@/nothing?host={tmp_path}&port=5432", PoolLimits(retry_s=0.2)
    )
    with pytest.raises(StoreUnavailable, match="expected to reach the database"):
        await store.any_key()
    await store.close()


async def test_database_that_stays_away_is_called_by_few(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(pool, "OPEN_S", 600.0)
    store = Store(f"postgresql://nobody@/nothing?host={tmp_path}&port=1", PoolLimits(retry_s=0.0))
    found = []
    for _ in range(pool.MAX_FAILURES + 3):
        with pytest.raises(StoreUnavailable) as raised:
            await store.any_key()
        found.append("circuit open" in raised.value.message)
    assert found == [False] * pool.MAX_FAILURES + [True] * 3
    with pytest.raises(StoreUnavailable, match="circuit open"):
        await store.ping()
    await store.close()


def test_retries_are_a_share_of_successes():
    budget = pool.RetryBudget()
    assert [budget.take() for _ in range(102)] == [True] * 100 + [False] * 2
    for _ in range(round(1 / pool.RETRY_SHARE) + 1):
        budget.note_success()
    assert [budget.take(), budget.take()] == [True, False]


async def test_lost_connections_are_replaced_without_the_caller_noticing(
    database: Database, server_dsn: str
):
    await asyncio.gather(database.fetch("list_keys"), database.fetch("list_keys"))
    await run_sql(
        server_dsn,
        "select pg_terminate_backend(pid) from pg_stat_activity "
        "where datname like 'hydraulic_test%' and pid <> pg_backend_pid()",
    )

    assert await database.fetch("list_keys") == []


async def test_slow_statement_times_out(database: Database):
    with pytest.raises(StoreUnavailable, match="57014"):
        async with database.session() as session:
            await session.execute("select pg_sleep(60)")


async def test_wait_for_an_exhausted_pool_is_bounded(
    database: Database, monkeypatch: pytest.MonkeyPatch
):
    async with database.session(), database.session():
        monkeypatch.setattr(database, "_limits", replace(database._limits, acquire_timeout_s=0.1))
        with pytest.raises(StoreUnavailable, match="in time"):
            await database.once("ping")
    monkeypatch.undo()
    await database.once("ping")


async def test_sessions_have_the_expected_settings(database: Database):
    async with database.session() as session:
        assert [
            await session.fetchval(f"show {name}")
            for name in ("jit", "timezone", "statement_timeout", "plan_cache_mode")
        ] == [
            "off",
            "UTC",
            "5s",
            "force_generic_plan",
        ]


async def test_store_works_without_prepared_statements(database_dsn: str):
    store = Store(database_dsn, PoolLimits(statement_cache_size=0))

    await store.create_key("x", ["read"])

    assert len(await store.list_keys()) == 1
    await store.close()


async def test_closed_store_opens_again(store: Store):
    await store.ping()
    await store.close()
    await store.ping()


async def test_callers_share_one_attempt_to_open_and_wait_a_bounded_time(
    database_dsn: str,
):
    attempts = 0
    started = threading.Event()

    def address() -> str:
        nonlocal attempts
        attempts += 1
        started.wait(10.0)
        return database_dsn

    slow = Database(address, PoolLimits(acquire_timeout_s=0.1))
    answers = await asyncio.gather(*(slow.once("ping") for _ in range(3)), return_exceptions=True)
    assert all(
        isinstance(answer, StoreUnavailable) and "still starting" in answer.message
        for answer in answers
    )
    started.set()
    await slow.fetch("ping")
    assert attempts == 1
    await slow.close()


async def test_opening_is_retried_after_a_failed_start(database_dsn: str):
    answers = iter([StoreUnavailable("expected a server, found none"), database_dsn])

    def address() -> str:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    opened = Database(address)
    with pytest.raises(StoreUnavailable, match="found none"):
        await opened.once("ping")
    await opened.once("ping")
    await opened.close()


class Watch:
    """Counts a database's connections, from another database."""

    def __init__(self, server_dsn: str, database_dsn: str) -> None:
        self._dsn = server_dsn
        self._name = urlsplit(database_dsn).path.removeprefix("/")
        self.most = 0

    async def __aenter__(self):
        self._session = await asyncpg.connect(self._dsn)
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_) -> None:
        self._task.cancel()
        await asyncio.wait({self._task})
        await self._session.close()

    async def _run(self) -> None:
        while True:
            now = await self._session.fetchval(
                # without the background workers of TimescaleDB
                "select count(*) from pg_stat_activity "
                "where datname = $1 and backend_type = 'client backend'",
                self._name,
            )
            self.most = max(self.most, now)


async def test_connections_of_replicas_stay_within_their_pools(server_dsn: str, database_dsn: str):
    limits = PoolLimits(max_size=3, acquire_timeout_s=60.0)  # a busy machine is no finding
    replicas = [Store(database_dsn, limits) for _ in range(4)]

    async with Watch(server_dsn, database_dsn) as reading:
        await asyncio.gather(
            *(store.read_windows([("press-1", 0, 60)]) for store in replicas for _ in range(100))
        )
    async with Watch(server_dsn, database_dsn) as registering:
        await asyncio.gather(
            *(
                store.put_equipment(make_machine(f"press-{n}"))
                for n, store in enumerate(replicas)
                for _ in range(20)
            )
        )

    assert 4 <= reading.most <= 4 * 3
    assert registering.most <= 4 * (3 + PATIENT)
    for store in replicas:
        await store.close()


async def test_environment_bounds_the_pool(server_dsn: str, database_dsn: str, tmp_path: Path):
    store = open_store(Settings(dsn=SecretStr(database_dsn), var_dir=tmp_path, pool_size=2))
    async with Watch(server_dsn, database_dsn) as watch:
        await asyncio.gather(*(store.list_keys() for _ in range(100)))
    assert 1 <= watch.most <= 2
    await store.close()
