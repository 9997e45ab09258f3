"""Writes diagnoses, and what shadows told, to the store behind the answer, in few statements, so that no caller waits for it.

Invariant: what waits is bounded; what is dropped because the database stayed away is counted.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge

from app.core.errors import StoreError

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
MAX_WRITTEN_AT_ONCE = 500
PAUSE_S = 0.2
RETRY_S = 2.0

Entry = TypeVar("Entry")


class WriteBehindQueue(Generic[Entry]):
    """Entries on their way to the store.

    Args:
        insert: stores several entries in one statement; idempotent by id.
        id_of: an entry's id.
        length: shows how many wait.
        dropped: counts what is dropped.
        most: entries that may wait.
    """

    def __init__(
        self,
        insert: Callable[[Sequence[Entry]], Awaitable[None]],
        id_of: Callable[[Entry], Hashable],
        length: Gauge,
        dropped: Counter,
        most: int = MAX_WAITING,
    ) -> None:
        self._insert = insert
        self._id_of = id_of
        self._length = length
        self._dropped = dropped
        self._most = most
        self._waiting: OrderedDict[Hashable, Entry] = OrderedDict()
        self._wake = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to write, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Write what waits, once, and stop."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        try:
            await self.flush()
        except StoreError as error:
            logger.warning(
                "answers lost at shutdown",
                extra={"count": len(self._waiting), "reason": str(error)},
            )

    def add(self, entry: Entry) -> None:
        """Take an entry; the oldest one is dropped when too many wait."""
        self._waiting[self._id_of(entry)] = entry
        if len(self._waiting) > self._most:
            self._waiting.popitem(last=False)
            self._dropped.inc()
        self._length.set(len(self._waiting))
        self._wake.set()

    def waiting(self, entry_id: Hashable) -> Entry | None:
        """Return an entry that is not stored yet, or None."""
        return self._waiting.get(entry_id)

    async def flush(self) -> None:
        """Write what waits now; what is added meanwhile waits for the next time.

        Raises:
            StoreError: the database did not take it; it waits on.
        """
        async with self._writing:
            # a queue that is refilled as fast as it is written would hold the caller for ever
            waiting = list(self._waiting.values())
            for start in range(0, len(waiting), MAX_WRITTEN_AT_ONCE):
                batch = waiting[start : start + MAX_WRITTEN_AT_ONCE]
                await self._insert(batch)
                for entry in batch:
                    self._waiting.pop(self._id_of(entry), None)
                self._length.set(len(self._waiting))

    async def _run(self) -> None:
        failing = False
        while True:
            await self._wake.wait()
            self._wake.clear()
            await asyncio.sleep(PAUSE_S)
            try:
                await self.flush()
                failing = False
            except StoreError as error:
                if not failing:
                    logger.warning(
                        "answers can't be stored, trying again", extra={"reason": str(error)}
                    )
                failing = True
                await asyncio.sleep(RETRY_S)
                self._wake.set()
