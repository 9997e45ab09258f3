"""Writes diagnoses to the store behind the answer, in few statements, so that no caller waits for it.

Invariant: what waits is bounded; a diagnosis that is dropped because the database stayed away is counted.
"""

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence

from app.errors import StoreError
from app.schemas.diagnosis import Diagnosis
from app.serving.metrics import Metrics

logger = logging.getLogger(__name__)

MAX_WAITING = 10_000
MAX_WRITTEN_AT_ONCE = 500
PAUSE_S = 0.2
RETRY_S = 2.0

Insert = Callable[[Sequence[Diagnosis]], Awaitable[None]]


class Journal:
    """Diagnoses on their way to the store.

    Args:
        insert: stores several diagnoses in one statement; idempotent by id.
        metrics: where the length of the queue and what is dropped are counted.
    """

    def __init__(self, insert: Insert, metrics: Metrics) -> None:
        self._insert = insert
        self._metrics = metrics
        self._waiting: OrderedDict[str, Diagnosis] = OrderedDict()
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
            logger.warning("diagnoses lost at shutdown", extra={"count": len(self._waiting), "reason": str(error)})

    def add(self, diagnosis: Diagnosis) -> None:
        """Take a diagnosis; the oldest one is dropped when too many wait."""
        self._waiting[diagnosis.diagnosis_id] = diagnosis
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)
            self._metrics.unstored.inc()
        self._metrics.journal_length.set(len(self._waiting))
        self._wake.set()

    def waiting(self, diagnosis_id: str) -> Diagnosis | None:
        """Return a diagnosis that is not stored yet, or None."""
        return self._waiting.get(diagnosis_id)

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
                for diagnosis in batch:
                    self._waiting.pop(diagnosis.diagnosis_id, None)
                self._metrics.journal_length.set(len(self._waiting))

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
                    logger.warning("diagnoses can't be stored, trying again", extra={"reason": str(error)})
                failing = True
                await asyncio.sleep(RETRY_S)
                self._wake.set()
