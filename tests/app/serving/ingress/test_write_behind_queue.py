"""Diagnoses on their way to the store."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from operator import attrgetter

import pytest

from app.core.errors import StoreUnavailable
from app.serving.ingress import write_behind_queue as journal
from app.serving.ingress.write_behind_queue import WriteBehindQueue
from app.serving.observability.metrics import Metrics
from app.store.diagnoses import StoredDiagnosis
from tests.app.diagnosis.test_build import make
from tests.rows import stored_row


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


def journal_of(
    insert: Callable[[Sequence[StoredDiagnosis]], Awaitable[None]],
    metrics: Metrics,
    most: int = journal.MAX_WAITING,
) -> WriteBehindQueue[StoredDiagnosis]:
    return WriteBehindQueue(
        insert, attrgetter("diagnosis_id"), metrics.journal_length, metrics.unstored, most
    )


def numbered(number: int) -> StoredDiagnosis:
    return stored_row(make())._replace(diagnosis_id=f"d{number}")


async def until(condition, timeout_s: float = 5.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_what_comes_together_is_written_in_one_statement():
    database = Database()
    written = journal_of(database.insert, Metrics())
    written.start()
    for number in range(100):
        written.add(numbered(number))
    await until(lambda: database.statements)
    assert database.statements == [[f"d{number}" for number in range(100)]]
    assert written.waiting("d0") is None
    await written.close()


async def test_what_waits_is_found_and_flushed():
    database = Database()
    written = journal_of(database.insert, Metrics())
    written.add(numbered(1))
    assert written.waiting("d1") is not None
    await written.flush()
    assert database.statements == [["d1"]]


async def test_flush_ends_although_others_go_on_adding():
    count = 0

    async def insert(items: Sequence[StoredDiagnosis]) -> None:
        nonlocal count
        count += 1
        await asyncio.sleep(0)
        written.add(numbered(count))

    written = journal_of(insert, Metrics())
    written.add(numbered(0))
    async with asyncio.timeout(1.0):
        await written.flush()
    assert count == 1
    assert written.waiting("d1") is not None


async def test_nothing_is_lost_while_the_database_is_away_for_a_while(
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr(journal, "RETRY_S", 0.02)
    database, metrics = Database(), Metrics()
    database.away = True
    written = journal_of(database.insert, metrics)
    written.start()
    written.add(numbered(1))
    await asyncio.sleep(0.2)
    written.add(numbered(2))
    database.away = False
    await until(lambda: sum(map(len, database.statements)) == 2)
    assert metrics.unstored._value.get() == 0
    await written.close()


async def test_too_many_waiting_drop_the_oldest_and_are_counted():
    metrics = Metrics()
    written = journal_of(Database().insert, metrics, most=3)
    for number in range(5):
        written.add(numbered(number))
    assert metrics.unstored._value.get() == 2
    assert written.waiting("d1") is None
    assert written.waiting("d4") is not None


async def test_close_writes_what_waits_and_survives_a_database_that_is_away():
    database = Database()
    written = journal_of(database.insert, Metrics())
    written.start()
    written.add(numbered(1))
    await written.close()
    assert database.statements == [["d1"]]
    database.away = True
    written.add(numbered(2))
    await written.close()
