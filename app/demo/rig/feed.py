"""Replays the rig's cycles into a store as if they were measured now.

What it writes follows from the time alone, so it may stop, start and repeat at will: a second is written again with the
same values, which the store takes as duplicates.
Invariant: after a pause or an outage it goes on where it stopped; no second between the start of the backfill and now
is left out.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from app.core.errors import StoreUnavailable
from app.core.settings import Settings
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.columns import Columns, second_columns
from app.demo.rig.replay import Replay
from app.schemas.equipment import Equipment
from app.store.open import open_store
from app.store.store import Store

BACKFILL_S = 3_600
"""Seconds before the start that are written first, so that every window of the last hour is whole."""

CATCH_UP_S = 3_600
"""Most seconds in one call of the store."""

FIRST_PAUSE_S = 0.25
LONGEST_PAUSE_S = 5.0
_LONGEST_SLEEP_S = 1.0

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Clock:
    """The time that a feed lives in.

    Args:
        now_s: seconds since 1970-01-01T00:00Z.
        sleep: waits for some seconds.
    """

    now_s: Callable[[], float] = time.time
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep


class LiveFeed:
    """Writes the values of each second when it begins, and of the last hour when it starts.

    Args:
        store: where to write; retried for as long as it is unavailable.
        equipment: the machine to write as; registered when the feed starts, unless its id is registered already.
        replay: the values, in any order of sensors.
        clock: the time.
    """

    def __init__(self, store: Store, equipment: Equipment, replay: Replay, clock: Clock) -> None:
        self._store = store
        self._equipment = equipment
        self._replay = replay
        self._clock = clock

    async def run(self) -> None:
        """Feed until cancelled.

        Raises:
            StoreError: the store refuses what it is given; waiting would not help.
        """
        next_s = math.floor(self._clock.now_s()) - BACKFILL_S
        await self._persist(self._register)
        while True:
            now_s = self._clock.now_s()
            if next_s > now_s:
                # in parts, so that a clock that was set or a machine that slept is noticed
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
        pause_s, since_s = FIRST_PAUSE_S, None
        while True:
            try:
                await write()
            except StoreUnavailable as error:
                if since_s is None:
                    since_s = self._clock.now_s()
                    logger.warning(
                        "feed interrupted, store unavailable",
                        extra={
                            "equipment_id": self._equipment.equipment_id,
                            "reason": error.message,
                        },
                    )
                await self._clock.sleep(pause_s)
                pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
            else:
                if since_s is not None:
                    logger.info(
                        "feed resumed",
                        extra={
                            "equipment_id": self._equipment.equipment_id,
                            "outage_s": round(self._clock.now_s() - since_s, 1),
                        },
                    )
                return


async def run_feed(settings: Settings, equipment: Equipment) -> None:
    """Feed the shipped data into the database of the settings until cancelled.

    Raises:
        ReadingError: the shipped archive is damaged.
        StoreError: the store refuses what it is given.
    """
    # off the loop: reading the archive takes about a second
    replay = await asyncio.to_thread(
        lambda: Replay.load(open_archive(SHIPPED_ARCHIVE), equipment.sensor_ids)
    )
    store = open_store(settings)
    try:
        await LiveFeed(store, equipment, replay, Clock()).run()
    finally:
        await store.close()
