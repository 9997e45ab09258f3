"""Writes diagnoses and shadow answers to the store after they were returned, in few statements.

The queue is bounded; entries that are dropped because the database stayed away are counted.
"""

import asyncio
import logging
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Generic, TypeVar

from prometheus_client import Counter, Gauge

from app.core.errors import StoreError
from app.core.tasks import end_tasks
from app.store.caller import SERVICE, acting_as

logger = logging.getLogger(__name__)

MAX_QUEUED = 10_000
MAX_STATEMENT_ENTRIES = 500
PAUSE_S = 0.2
RETRY_S = 2.0

Entry = TypeVar("Entry")


class WriteBehindQueue(Generic[Entry]):
    """Entries on their way to the store.

    Args:
        insert: stores several entries in one statement; idempotent by id.
        id_of: returns an entry's id.
        length: shows how many entries are queued.
        dropped: counts dropped entries.
        size: most entries that may be queued.
        observe: called with the seconds of each statement that stored entries.
    """

    def __init__(
        self,
        insert: Callable[[Sequence[Entry]], Awaitable[None]],
        id_of: Callable[[Entry], Hashable],
        length: Gauge,
        dropped: Counter,
        size: int = MAX_QUEUED,
        observe: Callable[[float], None] | None = None,
    ) -> None:
        self._insert = insert
        self._id_of = id_of
        self._length = length
        self._dropped = dropped
        self._size = size
        self._observe = observe
        self._queued: OrderedDict[Hashable, Entry] = OrderedDict()
        self._added = asyncio.Event()
        self._writing = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start to write, in the running event loop."""
        self._task = asyncio.create_task(self._run())

    @property
    def is_alive(self) -> bool:
        """Whether its background work has not ended by itself."""
        return self._task is None or not self._task.done()

    async def close(self) -> None:
        """Write what is queued, once, and stop."""
        if self._task is not None:
            await end_tasks({self._task})
        try:
            await self.flush()
        except StoreError as error:
            logger.warning(
                "answers lost at shutdown", extra={"count": len(self._queued), "reason": str(error)}
            )

    def add(self, entry: Entry) -> None:
        """Queue an entry; drop the oldest one when the queue is full."""
        self._queued[self._id_of(entry)] = entry
        if len(self._queued) > self._size:
            self._queued.popitem(last=False)
            self._dropped.inc()
        self._length.set(len(self._queued))
        self._added.set()

    def queued(self, entry_id: Hashable) -> Entry | None:
        """Return an entry that is not stored yet, or None."""
        return self._queued.get(entry_id)

    async def flush(self) -> None:
        """Write what is queued now; what is added meanwhile stays queued.

        Raises:
            StoreError: the database did not accept the entries, which stay queued.
        """
        async with self._writing:
            # a copy, since a queue that is refilled as fast as it is written would never end
            entries = list(self._queued.values())
            for start in range(0, len(entries), MAX_STATEMENT_ENTRIES):
                batch = entries[start : start + MAX_STATEMENT_ENTRIES]
                started = time.perf_counter()
                # entries are of all tenants, not only of the caller that waits for them
                with acting_as(SERVICE):
                    await self._insert(batch)
                if self._observe is not None:
                    self._observe(time.perf_counter() - started)
                for entry in batch:
                    self._queued.pop(self._id_of(entry), None)
                self._length.set(len(self._queued))

    async def _run(self) -> None:
        failing = False
        while True:
            await self._added.wait()
            self._added.clear()
            await asyncio.sleep(PAUSE_S)
            try:
                await self.flush()
                failing = False
            except StoreError as error:
                if not failing:
                    logger.warning(
                        "answers can't be stored, trying again", extra={"reason": str(error)}
                    )
                await self._retry_later()
                failing = True
            except Exception:
                # a task that ends would store nothing again; the entries stay queued
                logger.exception("answers can't be stored, trying again")
                await self._retry_later()

    async def _retry_later(self) -> None:
        await asyncio.sleep(RETRY_S)
        self._added.set()
