"""Background tasks end also when a library loses their cancellation."""

import asyncio

import pytest

from app.core import tasks
from app.core.tasks import end_tasks


async def test_task_that_loses_its_first_cancellation_ends(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tasks, "RETRY_S", 0.01)
    lost: list[str] = []

    async def run() -> None:
        while True:
            try:
                await asyncio.sleep(600)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append("cancellation")

    running, plain = asyncio.create_task(run()), asyncio.create_task(asyncio.sleep(600))
    await asyncio.sleep(0)
    async with asyncio.timeout(30):
        await end_tasks({running, plain})
    assert lost == ["cancellation"]
    assert running.cancelled()
    assert plain.cancelled()


async def test_task_that_failed_before_stops_nothing():
    async def fail() -> None:
        raise ValueError("before")

    failed = asyncio.create_task(fail())
    await asyncio.wait({failed})
    await end_tasks({failed})
    await end_tasks([])
    with pytest.raises(ValueError, match="before"):
        failed.result()
