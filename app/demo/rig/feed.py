"""Writes the rig's stable cycles into a store as live data.

The values depend on the time alone, so the feed can stop, start and repeat: a second written again
has the same values, which the store counts as duplicates. Cycles in which the rig warmed up or
changed its conditions are left out: they resemble no condition, so components would abstain.
Shapes: C cycles, M of them, K = 60 seconds of a cycle, S sensors.
Invariant: minute m since 1970-01-01T00:00Z replays cycle m modulo the number of cycles. After a
pause or an outage the feed continues where it stopped; every second from the start of the backfill
until now is written.
"""

import asyncio
import logging
import math
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Self

import numpy as np
from numpy.typing import NDArray
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, wait_exponential_jitter

from app.core.errors import ReadingError, StoreUnavailable
from app.core.settings import Settings
from app.demo.rig.archive import SHIPPED_ARCHIVE, open_archive
from app.demo.rig.measurements import CYCLE_S, PROFILE_FILE, RigFiles, read_blocks, survey
from app.schemas.equipment import Equipment
from app.serving.observability.feed_metrics import FeedMetrics
from app.store.store import Store, open_store

REPLAYED = slice(335, 517)
"""Of the shipped stable cycles: 182, with two grades of the cooler, three of the pump and the
accumulator and all of the valve, in which the shipped versions give each component a condition."""

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
class Replay:
    """The rig's stable cycles by second.

    Args:
        sensor_ids: the order of S.
        values_CKS: float64[C, K, S], in the sensors' units.
    """

    sensor_ids: tuple[str, ...]
    values_CKS: NDArray[np.float64]

    @classmethod
    def load(
        cls, files: RigFiles, sensor_ids: tuple[str, ...], cycles: slice = slice(None)
    ) -> Self:
        """Read the cycles of a copy of the data at 1 Hz that its profile marks as stable.

        Args:
            files: a copy of the data; every sensor at 60 values a cycle.
            sensor_ids: the order of S; sensors of the rig.
            cycles: of the stable ones.

        Raises:
            ReadingError: the data are not in the layout, not at 1 Hz, or without a stable cycle.
        """
        found = survey(files)
        fast = [sensor_id for sensor_id in sensor_ids if found.rates_hz[sensor_id] != 1]
        if fast:
            raise ReadingError(
                f"{files.where}: expected 60 columns to replay, found {fast[0]}.txt with "
                f"{CYCLE_S * found.rates_hz[fast[0]]}: replay the shipped copy, or import this one "
                "with `import-rig`"
            )
        values_CKS = np.concatenate(
            [
                np.stack([block.values_CR[each] for each in sensor_ids], -1)[block.stable_C]
                for block in read_blocks(files, cycles_per_block=64)
            ]
        )[cycles]
        if not len(values_CKS):
            raise ReadingError(
                f"{files.where}: expected cycles with a stable flag of 0 in {PROFILE_FILE}, found "
                "none to replay: import this copy with `import-rig`",
                PROFILE_FILE,
            )
        return cls(sensor_ids, values_CKS)

    def values_between(self, start_s: int, end_s: int) -> NDArray[np.float64]:
        """Return the values of every second of a half-open interval.

        Args:
            start_s: whole seconds since 1970-01-01T00:00Z.
            end_s: likewise, exclusive.

        Returns:
            float64[end_s - start_s, S].
        """
        if end_s <= start_s:
            return np.empty((0, len(self.sensor_ids)))
        first_minute = start_s // CYCLE_S
        minute_M = np.arange(first_minute, (end_s - 1) // CYCLE_S + 1)
        values_MKS = self.values_CKS[minute_M % len(self.values_CKS)]
        skipped = start_s - first_minute * CYCLE_S
        return values_MKS.reshape(-1, len(self.sensor_ids))[skipped : skipped + end_s - start_s]


class LiveFeed:
    """Writes the time before its start, then each second, or every few, when they have begun.

    Args:
        store: to write to; retried while it is unavailable.
        equipment: the machine; registered at the start unless its id is registered.
        replay: the values, in any order of sensors.
        now_s: returns seconds since 1970-01-01T00:00Z.
        sleep: waits for a number of seconds.
        backfill_s: seconds before the start that are written first.
        every_s: seconds of one write.
        metrics: of this process; None without any.
    """

    def __init__(
        self,
        store: Store,
        equipment: Equipment,
        replay: Replay,
        now_s: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        backfill_s: int = BACKFILL_S,
        every_s: int = 1,
        metrics: FeedMetrics | None = None,
    ) -> None:
        self._store = store
        self._equipment = equipment
        self._replay = replay
        self._now_s = now_s
        self._sleep = sleep
        self._backfill_s = backfill_s
        self._every_s = every_s
        self._metrics = metrics
        if metrics is not None:
            metrics.machines.inc()

    async def run(self) -> None:
        """Feed until cancelled.

        Raises:
            StoreError: the store refused the readings.
        """
        next_s = math.floor(self._now_s()) - self._backfill_s
        await self._persist(self._register)
        while True:
            now_s = self._now_s()
            due_s = next_s + self._every_s - 1
            if due_s > now_s:
                # in short parts, to notice a changed clock or a suspended machine
                await self._sleep(min(due_s - now_s, _LONGEST_SLEEP_S))
                continue
            end_s = min(math.floor(now_s) + 1, next_s + CATCH_UP_S)
            await self._persist(partial(self._write, next_s, end_s))
            next_s = end_s

    async def _register(self) -> None:
        await self._store.migrate()
        equipment_id = self._equipment.equipment_id
        if await self._store.get_equipment(equipment_id, deleted=True) is None:
            await self._store.put_equipment(self._equipment)

    async def _write(self, start_s: int, end_s: int) -> None:
        sensor_ids = self._replay.sensor_ids
        began_s = time.perf_counter()
        await self._store.ingest(
            self._equipment.equipment_id,
            sensor_ids * (end_s - start_s),
            np.repeat(np.arange(start_s, end_s, dtype=np.int64) * 1_000_000, len(sensor_ids)),
            self._replay.values_between(start_s, end_s).reshape(-1),
        )
        if self._metrics is not None:
            written = len(sensor_ids) * (end_s - start_s)
            seconds = time.perf_counter() - began_s
            self._metrics.note_write(written, seconds, self._now_s(), end_s)

    async def _persist(self, write: Callable[[], Awaitable[object]]) -> None:
        began_s = self._now_s()
        retrying = AsyncRetrying(
            retry=retry_if_exception_type(StoreUnavailable),
            wait=wait_exponential_jitter(
                multiplier=FIRST_PAUSE_S, max=LONGEST_PAUSE_S, jitter=FIRST_PAUSE_S
            ),
            sleep=self._sleep,
            before_sleep=self._log_outage,
        )
        await retrying(write)
        if retrying.statistics["attempt_number"] > 1:
            outage_s = round(self._now_s() - began_s, 1)
            fields = {"equipment_id": self._equipment.equipment_id, "outage_s": outage_s}
            logger.info("feed resumed", extra=fields)

    def _log_outage(self, state: RetryCallState) -> None:
        if state.attempt_number == 1:
            if self._metrics is not None:
                self._metrics.outages.inc()
            assert state.outcome is not None
            reason = str(state.outcome.exception())
            fields = {"equipment_id": self._equipment.equipment_id, "reason": reason}
            logger.warning("feed interrupted, store unavailable", extra=fields)


async def run_feed(settings: Settings, equipment: Equipment, metrics: FeedMetrics) -> None:
    """Feed the shipped data into the database of the settings until cancelled.

    Args:
        settings: of the database.
        equipment: the rig.
        metrics: of this process.

    Raises:
        ReadingError: the shipped archive is damaged.
        StoreError: the store refused the readings.
    """
    # in a thread: reading the archive takes about a second
    replay = await asyncio.to_thread(
        lambda: Replay.load(open_archive(SHIPPED_ARCHIVE), equipment.sensor_ids, REPLAYED)
    )
    store = open_store(settings)
    metrics.database.watch(store)
    try:
        await LiveFeed(store, equipment, replay, metrics=metrics).run()
    finally:
        await store.close()
