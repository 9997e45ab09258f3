"""Writes the rig's cycles into a store as live data.

The values depend on the time alone, so the feed can stop, start and repeat: a second written again
has the same values, which the store counts as duplicates.
Invariant: after a pause or an outage it continues where it stopped; every second from the start of
the backfill until now is written.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from app.core.errors import StoreUnavailable
from app.core.settings import Settings
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.columns import Columns, second_columns
from app.demo.rig.replay import Replay
from app.schemas.equipment import Equipment
from app.store.store import Store, open_store

BACKFILL_S = 3_600
"""Seconds before the start that are written first, so that windows of the last hour are full."""

CATCH_UP_S = 3_600
"""Most seconds in one call of the store."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
"""Limits of the pauses, which grow exponentially with jitter."""
_LONGEST_SLEEP_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The clock of a feed; tests replace it.

    Args:
        now_s: returns seconds since 1970-01-01T00:00Z.
        sleep: waits for a number of seconds.
    """

    now_s: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class LiveFeed:
    """Writes the last hour at its start, then each second when it begins.

    Args:
        store: to write to; retried while it is unavailable.
        equipment: the machine; registered at the start unless its id is registered.
        replay: the values, in any order of sensors.
        clock: of the feed.
    """

    def __init__(self, store: Store, equipment: Equipment, replay: Replay, clock: Clock) -> None:
        self._store = store
        self._equipment = equipment
        self._replay = replay
        self._clock = clock

    async def run(self) -> None:
        """Feed until cancelled.

        Raises:
            StoreError: the store refused the readings.
        """
        next_s = math.floor(self._clock.now_s()) - BACKFILL_S
        await self._persist(self._register)
        while True:
            now_s = self._clock.now_s()
            if next_s > now_s:
                # in short parts, to notice a changed clock or a suspended machine
                await self._clock.sleep(min(next_s - now_s, _LONGEST_SLEEP_S))
                continue
            end_s = min(math.floor(now_s) + 1, next_s + CATCH_UP_S)
            await self._persist(partial(self._write, second_columns(self._replay, next_s, end_s)))
            next_s = end_s

    async def _register(self) -> None:
        await self._store.migrate()
        if await self._store.get_equipment(self._equipment.equipment_id) is None:
            await self._store.put_equipment(self._equipment)

    async def _write(self, columns: Columns) -> None:
        await self._store.ingest(self._equipment.equipment_id, *columns)

    async def _persist(self, write: Callable[[], Awaitable[object]]) -> None:
        began_s = self._clock.now_s()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(
                multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=FIRST_PAUSE_S
            ),
            sleep=self._clock.sleep,
            before_sleep=self._log_outage,
        )
        await retrying(write)
        if retrying.statistics["attempt_number"] > 1:
            outage_s = round(self._clock.now_s() - began_s, 1)
            fields = {"equipment_id": self._equipment.equipment_id, "outage_s": outage_s}
            logger.info("feed resumed", extra=fields)

    def _log_outage(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            assert state.outcome is not None
            fields = {
                "equipment_id": self._equipment.equipment_id,
                "reason": str(state.outcome.exception()),
            }
            logger.warning("feed interrupted, store unavailable", extra=fields)


async def run_feed(settings: Settings, equipment: Equipment) -> None:
    """Feed the shipped data into the database of the settings until cancelled.

    Raises:
        ReadingError: the shipped archive is damaged.
        StoreError: the store refused the readings.
    """
    # in a thread: reading the archive takes about a second
    replay = await asyncio.to_thread(
        lambda: Replay.load(open_archive(SHIPPED_ARCHIVE), equipment.sensor_ids)
    )
    store = open_store(settings)
    try:
        await LiveFeed(store, equipment, replay, Clock()).run()
    finally:
        await store.close()
