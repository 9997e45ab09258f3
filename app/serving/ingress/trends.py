"""The trends of stored diagnoses by machine: cached, and read again now and then.

A machine's history is read with the window of its first request, in one statement for all such
machines of a micro-batch. Later requests take what is cached; what is older than `REFRESH_S` is
read again in the background. Fits take milliseconds and are made in a thread.
"""

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import NamedTuple

from cachetools import LRUCache

from app.core.errors import StoreError
from app.core.tasks import end_tasks
from app.diagnosis.machine_trends import MachineTrends, WindowTrends
from app.diagnosis.trend import MIN_POINTS
from app.serving.ingress.windows import EPOCH, MICROSECOND
from app.store.caller import Caller, acting_as, current_caller
from app.store.store import Store

logger = logging.getLogger(__name__)

REFRESH_S = 300.0
"""A diagnosis changes a trend over days by little."""
YOUNG_S = 15.0
"""The same of a history that is too short for a trend: it grows into one soon."""
RETRY_S = 30.0
"""How soon a history that could not be read is read again."""
MAX_MACHINES = 5_000
"""Histories that are kept, some 15 KB each."""
MAX_AT_ONCE = 64
"""Machines of one statement."""


class _Entry(NamedTuple):
    trends: MachineTrends | None
    fresh_until: float


_Machine = tuple[str | None, str]
"""Tenant, None for the service itself, and equipment id."""


class Trends:
    """The trends of the machines that this replica diagnoses.

    Args:
        store: the database; may be away.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._entries: LRUCache[_Machine, _Entry] = LRUCache(MAX_MACHINES)
        self._stale: set[_Machine] = set()
        self._reads: list[set[str]] = []
        """Of each statement that runs, the machines whose history is still wanted."""
        self._refreshing: asyncio.Task[None] | None = None

    async def close(self) -> None:
        """Cancel what is being read."""
        if self._refreshing is not None:
            await end_tasks({self._refreshing})

    def forget(self, equipment_id: str) -> None:
        """Read a machine's history again with its next request."""
        self._entries.pop(_own(equipment_id), None)
        for wanted in self._reads:
            wanted.discard(equipment_id)

    async def of(
        self, ends: Sequence[tuple[str, datetime]]
    ) -> Mapping[tuple[str, datetime], WindowTrends]:
        """Return the trends of machines as of the ends of windows.

        Args:
            ends: equipment id and end of each window.

        Returns:
            By equipment id and end; without those whose history can't be read.
        """
        now = time.monotonic()
        missing: list[str] = []
        for equipment_id in dict.fromkeys(name for name, _ in ends):
            entry = self._entries.get(_own(equipment_id))
            if entry is None:
                missing.append(equipment_id)
            elif now >= entry.fresh_until:
                self._stale.add(_own(equipment_id))
        if missing:
            await self._read(missing)
        if self._stale and (self._refreshing is None or self._refreshing.done()):
            self._refreshing = asyncio.create_task(self._refresh())
        known = {
            end: entry.trends
            for end in dict.fromkeys(ends)
            if (entry := self._entries.get(_own(end[0]))) is not None and entry.trends is not None
        }
        fitted = {end: trends for end, trends in known.items() if trends.is_fitted(_us(end[1]))}
        if len(fitted) < len(known):
            return await asyncio.to_thread(_before, known)
        return _before(fitted)

    async def _refresh(self) -> None:
        while self._stale:
            tenant = next(iter(self._stale))[0]
            some = [each for each in self._stale if each[0] == tenant][:MAX_AT_ONCE]
            self._stale.difference_update(some)
            with acting_as(Caller(tenant)):
                await self._read([equipment_id for _, equipment_id in some])

    async def _read(self, equipment_ids: Sequence[str]) -> None:
        """Read histories and fit the trends of their newest diagnoses."""
        wanted = set(equipment_ids)
        self._reads.append(wanted)
        try:
            histories = await self._store.health_histories(equipment_ids)
        except StoreError as error:
            logger.warning("histories not read", extra={"error": type(error).__name__})
            until = time.monotonic() + RETRY_S
            for equipment_id in equipment_ids:
                known = self._entries.get(_own(equipment_id))
                self._entries[_own(equipment_id)] = _Entry(known and known.trends, until)
            return
        finally:
            self._reads = [each for each in self._reads if each is not wanted]
        for equipment_id in wanted:
            history = histories[equipment_id]
            kept_s = REFRESH_S if len(history.samples) >= MIN_POINTS else YOUNG_S
            until = time.monotonic() + kept_s
            trends = MachineTrends(history)
            if history.samples:
                await asyncio.to_thread(trends.before, history.last_us + 1)
            self._entries[_own(equipment_id)] = _Entry(trends, until)


def _own(equipment_id: str) -> _Machine:
    return current_caller().tenant, equipment_id


def _before(
    known: Mapping[tuple[str, datetime], MachineTrends],
) -> dict[tuple[str, datetime], WindowTrends]:
    return {end: trends.before(_us(end[1])) for end, trends in known.items()}


def _us(at: datetime) -> int:
    return (at - EPOCH) // MICROSECOND
