"""Ends background tasks of asyncio, also those that lose a cancellation."""

import asyncio
from collections.abc import Iterable
from typing import Any

RETRY_S = 5.0
"""Time that a cancelled task has to end before it is cancelled again."""


async def end_tasks(tasks: Iterable["asyncio.Task[Any]"]) -> None:
    """Cancel tasks and wait until they have ended.

    A task can lose a cancellation: until Python 3.12, `asyncio.wait_for`, which asyncpg uses too,
    drops one that arrives in the same turn of the loop as the result. Such a task would run on
    forever, and its owner would wait forever. A task that needs longer than `RETRY_S` to clean up
    is cancelled again while it does.
    """
    pending = set(tasks)
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=RETRY_S)
