"""The write-behind queue of diagnoses."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime
from operator import attrgetter

import pytest

from app.core.errors import StoreUnavailable
from app.serving.ingress import write_behind_queue as module
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability.metrics import Metrics
from app.store.caller import SERVICE, Caller, acting_as, current_caller
from app.store.diagnoses import StoredDiagnosis

NOW = datetime(2026, 1, 1, tzinfo=UTC)


class Database:
    """Takes diagnoses, unless it is away."""

    def __init__(self) -> None:
        self.away = False
        self.statements: list[list[str]] = []

    async def insert(self, items: Sequence[StoredDiagnosis]) -> None:
        await asyncio.sleep(0)
        if self.away:
            raise StoreUnavailable("expected the database, found nothing")
        self.statements.append([item.diagnosis_id for item in items])


def queue_of(
    insert: Callable[[Sequence[StoredDiagnosis]], Awaitable[None]],
    metrics: Metrics,
    size: int = module.MAX_QUEUED,
) -> WriteBehindQueue[StoredDiagnosis]:
    return WriteBehindQueue(
        insert, attrgetter("diagnosis_id"), metrics.queue_length, metrics.unstored, size
    )


def numbered(number: int) -> StoredDiagnosis:
    return StoredDiagnosis(f"d{number}", NOW, "rig", NOW, NOW, "1", "ok", 1.0, "{}")


async def until(condition, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_diagnoses_that_arrive_together_are_written_in_one_statement():
    database = Database()
    queue = queue_of(database.insert, Metrics())
    queue.start()
    for number in range(100):
        queue.add(numbered(number))
    await until(lambda: database.statements)
    assert database.statements == [[f"d{number}" for number in range(100)]]
    assert queue.queued("d0") is None
    await queue.close()


async def test_what_waits_is_found_and_flushed():
    database = Database()
    queue = queue_of(database.insert, Metrics())
    queue.add(numbered(1))
    assert queue.queued("d1") is not None
    await queue.flush()
    assert database.statements == [["d1"]]


async def test_flush_ends_although_others_go_on_adding():
    count = 0

    async def insert(items: Sequence[StoredDiagnosis]) -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0)
        queue.add(numbered(count))

    queue = queue_of(insert, Metrics())
    queue.add(numbered(0))
    async with asyncio.timeout(1.0):
        await queue.flush()
    assert count == 1
    assert queue.queued("d1") is not None


async def test_nothing_is_lost_while_the_database_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(module, "RETRY_S", 0.02)
    database, metrics = Database(), Metrics()
    database.away = True
    queue = queue_of(database.insert, metrics)
    queue.start()
    queue.add(numbered(1))
    await asyncio.sleep(0.2)
    queue.add(numbered(2))
    database.away = False
    await until(lambda: sum(map(len, database.statements)) == 2)
    assert metrics.unstored._value.get() == 0
    await queue.close()


async def test_too_many_waiting_drop_the_oldest_and_are_counted():
    metrics = Metrics()
    queue = queue_of(Database().insert, metrics, size=3)
    for number in range(5):
        queue.add(numbered(number))
    assert metrics.unstored._value.get() == 2
    assert queue.queued("d1") is None
    assert queue.queued("d4") is not None


async def test_close_writes_what_waits_and_survives_a_database_that_is_away():
    database = Database()
    queue = queue_of(database.insert, Metrics())
    queue.start()
    queue.add(numbered(1))
    await queue.close()
    assert database.statements == [["d1"]]
    database.away = True
    queue.add(numbered(2))
    await queue.close()


async def test_queue_goes_on_after_an_error_nobody_expected(monkeypatch, caplog):
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    database, failures = Database(), [RuntimeError("no such thing")]

    async def insert(items: Sequence[StoredDiagnosis]) -> None:
        if failures:
            raise failures.pop()
        await database.insert(items)

    queue = queue_of(insert, Metrics())
    queue.start()
    queue.add(numbered(1))
    await until(lambda: database.statements)
    assert database.statements == [["d1"]]
    assert "no such thing" in caplog.text
    await queue.close()


async def test_diagnoses_of_all_tenants_are_written_for_any_caller():
    callers = []

    async def insert(_: Sequence[StoredDiagnosis]) -> None:
        callers.append(current_caller())

    queue = queue_of(insert, Metrics())
    queue.add(numbered(1))
    with acting_as(Caller("north", "reader")):
        await queue.flush()
        assert current_caller() == Caller("north", "reader")
    assert callers == [SERVICE]
